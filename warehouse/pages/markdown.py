"""Frames and pictures as Markdown, for what the web UI shows beside an asset."""

import polars as pl

from warehouse.pages.reports import data_uri

CELL_CHARACTERS = 160


def picture(title: str, png: bytes) -> str:
    """A PNG as Markdown that needs no file beside it."""
    return f"![{title}]({data_uri(png)})"


def table(frame: pl.DataFrame) -> str:
    """A frame as a Markdown table, long cells cut."""
    header = f"| {' | '.join(frame.columns)} |\n| {' | '.join('---' for _ in frame.columns)} |\n"
    return header + "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in frame.iter_rows())


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"
