"""`rankmill backup` and `rankmill restore`: a home as one file, and a home out of it."""

from pathlib import Path
from typing import Annotated

import typer

from rankmill.options import Home, environment, plain_errors

ELSEWHERE = (
    "the run history is in PostgreSQL, and in no backup of a home. Keep it with `pg_dump --host=$DAGSTER_PG_HOST "
    "--port=$DAGSTER_PG_PORT --username=$DAGSTER_PG_USERNAME --file=run-history.sql $DAGSTER_PG_DB`"
)


def backup(
    out: Annotated[Path, typer.Argument(help="The file to write (.tar.gz); it must not be there yet.")],
    home: Home = None,
) -> None:
    """Keep a home in one file: lake, answers, models, releases, reports, run history and sources.

    Can be made while a run is under way: the lake is kept as it was at one commit. The file holds every text and every
    answer, and no key. A team's run history is in PostgreSQL, and is kept there. A killed backup leaves no file of this
    name.
    """
    with plain_errors():
        environment(None, home)
        from rankmill.settings import Settings
        from warehouse.backup import back_up

        settings = Settings.load()
        if settings.instance != "machine":
            typer.echo(f"note: {ELSEWHERE}", err=True)
        made = back_up(settings.home, settings.lake_place, out)
        for note in made.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(
            f"{out}: {made.files:,} files, {made.bytes:,} bytes ({made.packed:,} packed), lake at snapshot "
            f"{made.snapshot}"
        )


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `rankmill backup` made.")],
    home: Annotated[Path, typer.Option("--home", help="Where the home is to be: a folder that is empty or absent.")],
) -> None:
    """Make a home out of a backup. Every file's hash is compared and the lake verified before the home appears."""
    with plain_errors():
        from warehouse.backup import restore as restore_home

        made = restore_home(file, home.absolute())
        for found in made.verified.notes:
            typer.echo(f"note: {found.kind} {found.what}: {found.detail}", err=True)
        typer.echo(
            f"{home}: {made.files:,} files, {made.bytes:,} bytes as of {made.made_at}; {made.verified.files:,} files "
            f"and {made.verified.releases} releases of the lake verified"
        )
