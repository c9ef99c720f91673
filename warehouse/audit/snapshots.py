"""A table at two snapshots: which rows came, went and changed, and in which columns.

    made = diff_table(lake, "queries", 12, 20)
    made.counts()           # came, went, changed
    made.rows               # change, the table's key, the columns that changed

Rows are compared by hashes inside DuckDB, so a table's texts never come into memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from warehouse.lake import Lake, LakeError
from warehouse.laws import KEYS
from warehouse.migrations import table_columns

CAME, WENT, CHANGED = "came", "went", "changed"


@dataclass(frozen=True)
class TableDiff:
    """What differs between two snapshots of a table; `same` counts the rows that do not."""

    table: str
    a: int
    b: int
    same: int
    rows: pl.DataFrame

    def counts(self) -> Mapping[str, int]:
        """Rows by change."""
        found = dict(self.rows.group_by("change").len().iter_rows())
        return {change: found.get(change, 0) for change in (CAME, WENT, CHANGED)}


def diff_table(lake: Lake, table: str, a: int, b: int) -> TableDiff:
    """The rows of `table` that differ between snapshots `a` and `b`. Raises LakeError for an unknown table or snapshot.

    Where several rows share a key they are compared as a set: those of one side alone came or went.
    """
    if table not in KEYS:
        raise LakeError(f"rows of {table!r} have no key to compare them by. Tables: {', '.join(sorted(KEYS))}.")
    known = set(lake.snapshots()["snapshot_id"].to_list())
    for snapshot in (a, b):
        if snapshot not in known:
            raise LakeError(f"there is no snapshot {snapshot}; see `rankmill lake snapshots`.")
    keys = list(KEYS[table])
    rest = [name for name in table_columns()[table] if name not in keys]
    old, new = (_hashed(lake, table, keys, rest, snapshot) for snapshot in (a, b))
    both = old.join(new, on=keys, suffix="_b", nulls_equal=True)
    nothing = pl.lit([], pl.List(pl.String)).alias("columns")
    marks = [pl.when(pl.col(name).ne_missing(pl.col(f"{name}_b"))).then(pl.lit(name)) for name in rest]
    compared = both.select(*keys, pl.concat_list(marks).list.drop_nulls().alias("columns") if rest else nothing)
    changed = compared.filter(pl.col("columns").list.len() > 0)
    came = new.join(old, on=keys, how="anti", nulls_equal=True).select(*keys, nothing)
    went = old.join(new, on=keys, how="anti", nulls_equal=True).select(*keys, nothing)
    parts = [
        part.select(pl.lit(change).alias("change"), *keys, "columns")
        for change, part in ((CAME, came), (WENT, went), (CHANGED, changed))
    ]
    rows = pl.concat(parts)
    return TableDiff(table, a, b, compared.height - changed.height, rows.sort("change", *keys))


def _hashed(lake: Lake, table: str, keys: list[str], rest: list[str], snapshot: int) -> pl.DataFrame:
    """Key columns as they are and the others as hashes; a column that the table did not have yet is null."""
    there = lake.query(f"SELECT * FROM lake.{table} AT (VERSION => {int(snapshot)}) LIMIT 0").columns
    hashed = [f"hash({name}) AS {name}" if name in there else f"NULL::UBIGINT AS {name}" for name in rest]
    return lake.query(
        f"SELECT {', '.join([*keys, *hashed])} FROM lake.{table} AT (VERSION => {int(snapshot)})"  # names from KEYS
    )
