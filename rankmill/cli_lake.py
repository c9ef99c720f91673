"""`rankmill lake`: releases and what lies between two of them, whether all is whole, every table at every snapshot."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rankmill.options import AsJson, Home, environment, plain_errors

app = typer.Typer(
    help="Look into the lake: releases, snapshots, every table; and whether all of it is whole.", no_args_is_help=True
)
NOTES = 10  # most notes of `verify` on a terminal
CELL = 160


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
                run=said.str.extract("run=([^ ]{1,12})"),
                code=said.str.extract("code=(.*)$"),
            )
        show_frame(frame, as_json)


@app.command()
def releases(as_json: AsJson = False, home: Home = None) -> None:
    """Every release of the training set, newest first: size, licences, what was trained on it, whether retracted."""
    with plain_errors():
        environment(None, home)
        from rankmill.tables import show_rows
        from warehouse.audit import versions

        found = versions.releases(open_lake())
        if as_json:
            typer.echo(found.write_json())
            return
        columns = {
            "release": "left", "made": "left", "rows": "right", "sft / rl / dev": "right", "domains": "left",
            "licences": "left", "models": "left", "mark": "left",
        }  # fmt: skip
        show_rows("releases, newest first", columns, [_release_line(row) for row in found.iter_rows(named=True)])
        if found.is_empty():
            typer.echo("none yet: `rankmill run` makes one")


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="The older release (a beginning of its hash); with --table, a snapshot.")],
    b: Annotated[str, typer.Argument(help="The newer release; with --table, a snapshot.")],
    table: Annotated[
        str | None, typer.Option("--table", help="Compare this table at the snapshots A and B, in place of releases.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Most rows to list; the counts are of all.")] = 20,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Which rows came, went and changed between two releases, and why.

    A cause is source (a text, a licence, a query that came or went), teacher (another answer, or none), list (other
    passages on it), judgements, filter NAME (what a filter decided), leak (it overlaps a benchmark), split or
    retracted. JSON holds every row. See `rankmill lake releases` and `rankmill lake snapshots` for A and B.
    """
    with plain_errors():
        environment(None, home)
        if table is not None:
            _diff_table(table, _number(a), _number(b), rows, as_json)
        else:
            _diff_releases(a, b, rows, as_json)


@app.command()
def verify(
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also delete stray files older than an hour that no snapshot names.")
    ] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Look for missing, altered and stray files, and hash every release again. Ends with 1 if something is wrong."""
    with plain_errors():
        environment(None, home)
        from dataclasses import asdict

        from warehouse.audit import verify as audit

        lake = open_lake()
        swept = audit.sweep(lake) if sweep else []
        found = audit.verify(lake)
        if as_json:
            typer.echo(json.dumps({**asdict(found), "swept": swept}, indent=1))
        else:
            if sweep:
                typer.echo(f"swept {len(swept)} stray files")
            for wrong in found.errors:
                typer.echo(f"FAIL {wrong.kind} {wrong.what}: {wrong.detail}\n     mend: {wrong.remedy}")
            for note in found.notes[:NOTES]:
                typer.echo(f"note {note.kind} {note.what}: {note.detail}\n     {note.remedy}")
            if len(found.notes) > NOTES:
                typer.echo(f"note and {len(found.notes) - NOTES} more; --json lists all")
            typer.echo(
                f"{'ok  ' if not found.errors else 'FAIL'} {found.files:,} files ({found.bytes:,} bytes), "
                f"{found.checksums:,} checksums, {found.releases} releases: {len(found.errors)} wrong, "
                f"{len(found.notes)} to note"
            )
        raise typer.Exit(1 if found.errors else 0)


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
        from flows.paid import rebuild_store
        from rankmill.settings import Settings

        path = Settings.load().store_path
        known, new = rebuild_store(open_lake(), path)
        typer.echo(f"{path}: {known:,} exchanges in the lake, {new:,} of them were missing here")


def _release_line(row: Mapping[str, Any]) -> tuple[Any, ...]:
    mark = "; ".join([*(f"failed {why}" for why in row["failed"]), *(f"retracted: {why}" for why in row["retracted"])])
    if row["successor"]:
        mark += f"; use {row['successor'][:12]}"
    if row["parent"]:
        mark = "; ".join(filter(None, (f"{row['parent'][:12]} without what was retracted", mark)))
    return (
        row["release"][:12], row["created_at"][:16].replace("T", " "), f"{row['rows']:,}",
        f"{row['sft']:,} / {row['rl']:,} / {row['dev']:,}", ", ".join(row["domains"]), ", ".join(row["licenses"]),
        "\n".join(row["models"]), mark,
    )  # fmt: skip


def _diff_releases(a: str, b: str, most: int, as_json: bool) -> None:
    from rankmill.tables import show_rows
    from warehouse.audit.versions import diff_releases

    made = diff_releases(open_lake(), a, b)
    if as_json:
        typer.echo(json.dumps({"a": made.a, "b": made.b, "same": made.same, "rows": made.rows.to_dicts()}))
        return
    title = f"release {made.a[:12]} to {made.b[:12]}: {made.same:,} rows are the same"
    show_rows(title, {"change": "left", "why": "left", "rows": "right"}, made.counts().iter_rows())
    if made.rows.is_empty():
        return
    shown = made.rows.head(most)
    columns = dict.fromkeys(("change", "why", "row", "query", "detail"), "left")
    lines = [
        (row["change"], row["why"], (row["row_id_b"] or row["row_id_a"])[:12], f"{row['domain']}/{row['qid']}",
         _short(row["detail"]))
        for row in shown.iter_rows(named=True)
    ]  # fmt: skip
    if lines:
        show_rows("rows", columns, lines)
    if made.rows.height > shown.height:
        typer.echo(f"{shown.height} of {made.rows.height:,} shown; --rows shows more, --json all")


def _diff_table(table: str, a: int, b: int, most: int, as_json: bool) -> None:
    from rankmill.tables import show_rows
    from warehouse.audit.snapshots import diff_table

    made = diff_table(open_lake(), table, a, b)
    if as_json:
        told = {"table": table, "a": a, "b": b, "same": made.same, "rows": made.rows.to_dicts()}
        typer.echo(json.dumps(told))
        return
    title = f"{table}, snapshot {a} to {b}: {made.same:,} rows are the same"
    show_rows(title, {"change": "left", "rows": "right"}, made.counts().items())
    shown = made.rows.head(most)
    if shown.height:
        columns = dict.fromkeys(shown.columns, "left")
        show_rows("rows", columns, [(*row[:-1], ", ".join(row[-1])) for row in shown.iter_rows()])
    if made.rows.height > shown.height:
        typer.echo(f"{shown.height} of {made.rows.height:,} shown; --rows shows more, --json all")


def _number(text: str) -> int:
    from rankmill.settings import SettingsError

    if not text.isdecimal():
        raise SettingsError(
            f"with --table, A and B are snapshot numbers and not {text!r}; see `rankmill lake snapshots`."
        )
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= CELL else f"{text[:CELL]} …"


def open_lake() -> Any:
    """The lake of the home; refuses one that was never made."""
    from rankmill.settings import Settings, SettingsError

    settings = Settings.load()
    if not settings.has_lake:
        raise SettingsError(
            f"there is no lake in {settings.home}. Make one with `rankmill run`, or name another --home."
        )
    return settings.lake()
