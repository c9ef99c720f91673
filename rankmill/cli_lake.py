"""`rankmill lake`: every table at every snapshot, read-only, and an exchange store rebuilt from them."""

from typing import Annotated, Any

import typer

from rankmill.options import AsJson, Home, environment, plain_errors

app = typer.Typer(help="Look into the lake: every table, at every snapshot, read-only.", no_args_is_help=True)


@app.command()
def snapshots(as_json: AsJson = False, home: Home = None) -> None:
    """Every commit of the lake, newest first, with asset, run and code version."""
    with plain_errors():
        environment(None, home)
        from rankmill.tables import show_frame

        frame = open_lake().snapshots()
        if not as_json:
            import polars as pl

            said = pl.col("commit_message")
            frame = frame.select(
                "snapshot_id",
                pl.col("snapshot_time").dt.truncate("1s"),
                asset=said.str.extract("asset=(.*) run="),
                run=said.str.extract("run=([^ ]{1,8})"),
                code=said.str.extract("code=(.*)$"),
            )
        show_frame(frame, as_json)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='One SELECT over the lake\'s tables, such as "SELECT * FROM releases".')],
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Ask the lake in SQL (DuckDB). Read-only."""
    with plain_errors():
        environment(None, home)
        from rankmill.tables import show_frame

        show_frame(open_lake().query(sql), as_json)


@app.command(name="rebuild-store")
def rebuild_store(home: Home = None) -> None:
    """Put every exchange of the lake into the exchange store, where it was lost: nothing is bought again."""
    with plain_errors():
        environment(None, home)
        from flows.resynthesis import rebuild_store
        from rankmill.settings import Settings

        path = Settings.load().store_path
        known, new = rebuild_store(open_lake(), path)
        typer.echo(f"{path}: {known:,} exchanges in the lake, {new:,} of them were missing here")


def open_lake() -> Any:
    """The lake of the home; refuses one that was never made."""
    from rankmill.settings import Settings, SettingsError

    settings = Settings.load()
    if not settings.has_lake:
        raise SettingsError(
            f"there is no lake in {settings.home}. Make one with `rankmill run`, or name another --home."
        )
    return settings.lake()
