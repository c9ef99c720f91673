"""What commands print: frames and the leaderboard, as tables for people and JSON for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import typer
from rich.markup import escape

from rankmill.settings import Settings, SettingsError

BOARD = (
    "domain", "recipe", "stage", "fused", "split", "queries", "low", "high", "versus_bm25", "versus_low",
    "versus_high", "p", "p_holm", "wins", "ties", "losses", "malformed_rate", "calls_per_query", "depth_per_query",
    "tokens_per_query", "input_tokens_per_query", "output_tokens_per_query", "cached_tokens_per_query",
    "seconds_per_query", "seconds_p50", "seconds_p95", "usd_per_query", "ece", "tpr", "tnr", "position_tau",
    "position_probes", "model", "release",
)  # fmt: skip
CELL = 100  # characters of a cell in a table for people: room for a whole hash


def show_frame(frame: pl.DataFrame, as_json: bool) -> None:
    """Rows as a table for people, or as JSON for a program."""
    if as_json:
        typer.echo(frame.write_json())
        return
    with pl.Config(
        tbl_rows=200,
        tbl_cols=50,
        fmt_str_lengths=CELL,
        fmt_table_cell_list_len=20,
        tbl_hide_dataframe_shape=True,
        tbl_width_chars=-1,
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
    ):
        typer.echo(str(frame))
    texts = frame.select(pl.col(pl.String).str.len_chars().max())
    if any((longest or 0) > CELL for longest in texts.row(0)) if texts.width else False:
        typer.echo("some cells are cut; --json shows them whole")
    typer.echo(f"{frame.height} rows")


def show_rows(title: str, columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on the terminal, as wide as it needs; `columns` are names and how each is aligned (left or right)."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns.items():
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console = Console(highlight=False)
    console = Console(width=max(console.width, 140), highlight=False, soft_wrap=False)
    console.print(title, style="bold", markup=False)
    console.print(table)


def show_leaderboard(settings: Settings, as_json: bool = False) -> None:
    """The newest leaderboard of a home; JSON holds one object a row. Raises SettingsError when there is none."""
    from warehouse.leaderboard import with_measures

    rows = []
    if settings.has_lake:
        rows = with_measures(settings.lake().read("leaderboard"))
    if as_json:
        told = [
            {
                **{key: row[key] for key in BOARD},
                **json.loads(row["measures"]),
                **{key: json.loads(row[key] or "null") for key in ("malformed", "calibration", "settings")},
            }
            for row in rows
        ]
        typer.echo(json.dumps(told))
        return
    if not rows:
        raise SettingsError(f"there is no leaderboard in {settings.home} yet. Make one with `rankmill run`.")
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="leaderboard: held-out queries; 95 % bootstrap intervals, p against bm25 corrected by Holm",
        box=box.SIMPLE,
    )
    for name in ("recipe", "domain", "stage"):
        table.add_column(name, no_wrap=True)
    numbers = (
        "queries", "nDCG@10", "interval", "vs bm25", "p", "w/t/l", "R@10", "RR", "malformed", "calls/q",
        "tokens/q", "s/q",
    )  # fmt: skip
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        asked = row["stage"] != "bm25"
        table.add_row(
            row["recipe"],
            row["domain"],
            row["stage"],
            str(row["queries"]),
            f"{row['value']:.4f}",
            f"{row['low']:.3f}-{row['high']:.3f}",
            f"{row['versus_bm25']:+.4f}" if asked else "",
            "" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            f"{row['wins']}/{row['ties']}/{row['losses']}" if row["wins"] is not None else "",
            f"{row['recall']:.4f}",
            f"{row['rr']:.4f}",
            f"{100 * row['malformed_rate']:.1f} %" if asked else "",
            f"{row['calls_per_query']:.1f}",
            f"{row['tokens_per_query']:.0f}",
            f"{row['seconds_per_query']:.2f}",
            style="bold" if row["best"] else "",
            end_section=after is None or after["domain"] != row["domain"],
        )
    console = Console()
    Console(width=max(console.width, 170)).print(table)
