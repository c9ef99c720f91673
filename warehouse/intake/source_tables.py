"""What a source hands over: the frozen tables of one domain, and how a stable part of them is taken.

Every source (folder, package, hub) ends in one `SourceTables`; later rooms know no other shape. `take` keeps at most
`limit` queries, chosen by a hash of the query id, so that adding rows to a source does not reshuffle the choice.
`gold_passages` tells which passages are a query's gold answer in another place, so that prompts can treat them right.

Deliberately absent: reading (folders.py, packages.py, hub.py) and checking (door.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

QUERIES = pl.Schema(
    {
        "domain": pl.String(),
        "qid": pl.String(),
        "text": pl.String(),
        "source": pl.String(),
        "split": pl.String(),
        "gold_answer": pl.String(),
        "excluded_docids": pl.List(pl.String),
        "license": pl.String(),
        "url": pl.String(),
        "text_sha256": pl.String(),
    }
)
PASSAGES = pl.Schema(
    {
        "domain": pl.String(),
        "docid": pl.String(),
        "title": pl.String(),
        "text": pl.String(),
        "source": pl.String(),
        "license": pl.String(),
        "url": pl.String(),
        "text_sha256": pl.String(),
    }
)
JUDGEMENTS = pl.Schema(
    {"domain": pl.String(), "qid": pl.String(), "docid": pl.String(), "grade": pl.Int64(), "origin": pl.String()}
)
REJECTIONS = pl.Schema(
    {"stage": pl.String(), "domain": pl.String(), "key": pl.String(), "reason": pl.String(), "detail": pl.String()}
)

ANCHOR_CHARS = 64
"""Characters of a normalised gold answer that are searched for in the passages."""
SHORTEST_GOLD = 32
"""A shorter gold answer ("yes", "239") stands in many passages by chance: only equality counts then."""


@dataclass(frozen=True)
class SourceTables:
    """The checked rows of one domain; `notes["counts"]` holds, per table, in, out, rejected and beyond_limit."""

    domain: str
    queries: pl.DataFrame
    passages: pl.DataFrame
    judgements: pl.DataFrame
    rejections: pl.DataFrame
    notes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def content_sha256(self) -> str:
        """Hash of the three tables' rows in key order: the same rows give the same hash on any machine."""
        digest = hashlib.sha256()
        for name, frame, key in (
            ("queries", self.queries, ["qid"]),
            ("passages", self.passages, ["docid"]),
            ("judgements", self.judgements, ["qid", "docid"]),
        ):
            digest.update(f"{name}\n".encode())
            digest.update(frame.sort(key).write_ndjson().encode())
        return digest.hexdigest()


def sha256_of(texts: pl.Series) -> pl.Series:
    """Hex SHA-256 of each text's UTF-8 bytes."""
    return pl.Series("text_sha256", [hashlib.sha256(text.encode()).hexdigest() for text in texts], dtype=pl.String)


def take(tables: SourceTables, limit: int, seed: int) -> SourceTables:
    """At most `limit` queries with their judgements, proportional over the splits; every passage stays.

    Within a split the queries with the smallest hash of (seed, qid) are kept: a row that is added pushes out at most
    one other row.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}: the number of queries to keep is 1 or more. Leave it out to keep all.")
    if tables.queries.height <= limit:
        return tables
    keys = (f"{seed}\0{qid}".encode() for qid in tables.queries["qid"])
    order = pl.Series("order", [hashlib.blake2b(key, digest_size=16).hexdigest() for key in keys])
    quotas = _quotas(dict(tables.queries.group_by("split").len().sort("split").iter_rows()), limit)
    kept = (
        tables.queries.with_columns(order)
        .with_columns(place=pl.col("order").rank("ordinal").over("split"))
        .filter(pl.col("place") <= pl.col("split").replace_strict(quotas, return_dtype=pl.Int64))
        .select(tables.queries.columns)
    )
    judgements = tables.judgements.join(kept.select("qid"), on="qid", how="semi", maintain_order="left")
    counts = {name: dict(count) for name, count in tables.notes.get("counts", {}).items()}
    for name, before, after in (
        ("queries", tables.queries, kept),
        ("judgements", tables.judgements, judgements),
    ):
        if name in counts:
            counts[name] |= {"out": after.height, "beyond_limit": before.height - after.height}
    notes = {**tables.notes, "counts": counts, "limit": limit, "limit_seed": seed}
    return replace(tables, queries=kept, judgements=judgements, notes=notes)


def _quotas(sizes: dict[str, int], limit: int) -> dict[str, int]:
    """Rows per split that add up to `limit` (largest remainder), with at least one per split where that fits."""
    total = sum(sizes.values())
    least = 1 if limit >= len(sizes) else 0
    quotas = {split: max(least, limit * size // total) for split, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda split: (-(limit * sizes[split] % total), split))
    while sum(quotas.values()) < limit:
        for split in by_remainder:
            if quotas[split] < sizes[split] and sum(quotas.values()) < limit:
                quotas[split] += 1
    while sum(quotas.values()) > limit:
        quotas[max(quotas, key=lambda split: (quotas[split], split))] -= 1
    return quotas


def _normalised(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()


def gold_passages(queries: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """(qid, docid) of the passages that are a query's gold answer, hold it whole, or are cut from its start.

    Text is compared in lower case with letters and digits only. Gold answers shorter than 32 such characters match by
    equality alone. Such a passage stays a candidate; the answer's text may be shown only where positives are mined.
    """
    gold = (
        queries.lazy()
        .filter(pl.col("gold_answer").is_not_null())
        .select("qid", gold=_normalised("gold_answer"))
        .filter(pl.col("gold") != "")
        .with_columns(anchor=pl.col("gold").str.slice(0, ANCHOR_CHARS))
        .collect()
    )
    pool = passages.lazy().select("docid", body=_normalised("text")).collect()
    equal = gold.join(pool, left_on="gold", right_on="body").select("qid", "docid")
    long = gold.filter(pl.col("gold").str.len_chars() >= SHORTEST_GOLD)
    anchors = long["anchor"].unique().sort()
    if anchors.is_empty() or pool.is_empty():
        return equal.unique().sort("qid", "docid")
    hits = (
        pool.with_columns(anchor=pl.col("body").str.extract_many(anchors.implode(), overlapping=True))
        .filter(pl.col("anchor").list.len() > 0)
        .explode("anchor")
        .unique(["docid", "anchor"])
        .join(long, on="anchor")
        .with_columns(tail=pl.col("body").str.slice(pl.col("body").str.find(pl.col("anchor"), literal=True)))
    )
    held = pl.col("body").str.contains(pl.col("gold"), literal=True)
    cut = pl.col("gold").str.starts_with(pl.col("tail"))
    return pl.concat([equal, hits.filter(held | cut).select("qid", "docid")]).unique().sort("qid", "docid")
