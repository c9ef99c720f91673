"""Frames and pictures as Markdown, for what the web UI shows beside an asset."""

import re

import polars as pl

from warehouse.pages.reports import data_uri

CELL_CHARACTERS = 160
HASH_CHARACTERS = 12  # enough to find what it names


def picture(title: str, png: bytes) -> str:
    """A PNG as Markdown that needs no file beside it."""
    return f"![{title}]({data_uri(png)})"


def table(frame: pl.DataFrame) -> str:
    """A frame as a Markdown table: long cells and hashes cut, nulls left blank."""
    header = f"| {' | '.join(frame.columns)} |\n| {' | '.join('---' for _ in frame.columns)} |\n"
    return header + "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in frame.iter_rows())


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if re.fullmatch("[0-9a-f]{64}", text):
        return f"{text[:HASH_CHARACTERS]}…"
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"
