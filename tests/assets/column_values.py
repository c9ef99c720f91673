"""What columns hold beside what their lineage says: nothing, where the lineage is true."""

from __future__ import annotations

import polars as pl

from assets.columns import SOURCES, TABLES
from warehouse.lake import Lake

# Assets that share a table, and the rows that are theirs.
ROWS = {
    "human_judgements": pl.col("origin") == "human",
    "mined_judgements": pl.col("origin") == "teacher",
    "sft_model": pl.col("stage") == "sft",
    "rl_model": pl.col("stage") == "rl",
}
JOINED = ("training_set", "passages")  # title and text as one
COPIED = [(asset, column) for asset, columns in SOURCES.items() for column in columns if (asset, column) != JOINED]


def values(lake: Lake, asset: str, column: str) -> set[object]:
    """The values of an asset's column, those within lists one by one."""
    rows = lake.read(TABLES[asset])
    found = rows.filter(ROWS[asset])[column] if asset in ROWS else rows[column]
    return set((found.explode() if found.dtype == pl.List else found).drop_nulls())


def strangers(lake: Lake, asset: str, column: str) -> set[object]:
    """The values of a column that none of its sources has."""
    sources = [source.split(".") for source in SOURCES[asset][column]]
    return values(lake, asset, column).difference(*(values(lake, name, of) for name, of in sources))
