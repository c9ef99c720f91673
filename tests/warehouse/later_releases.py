"""What happens to a small factory after its first release: other sources, other answers, and a release of them."""

from __future__ import annotations

import polars as pl
from small_lake import DOMAINS, SETTINGS, message

from warehouse.curation.contamination import never_train_on
from warehouse.curation.curate import curate
from warehouse.curation.releases import release_writes
from warehouse.curation.rows import lists_at
from warehouse.lake import Lake, Replace


def change(lake: Lake, table: str, *edits: pl.Expr, keep: pl.Expr | None = None) -> None:
    """A table with some values edited, and without the rows that `keep` leaves out."""
    rows = lake.read(table)
    edited = rows.with_columns(*edits)
    lake.commit([Replace(table, edited if keep is None else edited.filter(keep))], message(table))


def here(domain: str, qid: str) -> pl.Expr:
    return (pl.col("domain") == domain) & (pl.col("qid") == qid)


def put(column: str, value: str, where: pl.Expr) -> pl.Expr:
    return pl.when(where).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


def release_now(lake: Lake, **extra: object) -> str:
    """Release what the lake holds now, as the training set does."""
    at = lake.snapshot()
    queries = lake.read("queries", columns=["domain", "qid", "text", "split"], snapshot=at)
    made = curate(lists_at(lake, DOMAINS, at), never_train_on(lake.read("benchmarks", snapshot=at), queries), SETTINGS)
    name, writes = release_writes(
        lake, made, domains=DOMAINS, read_snapshot=at, settings=SETTINGS.model_dump(mode="json"), code_version="1"
    )
    lake.commit(writes, message("training_set", f"run-{at}"))
    return name
