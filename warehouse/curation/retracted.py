"""The filter that keeps out what was taken back: a retracted source, query or licence never comes into a release again.

    judge = retracted(lake.read("retractions"))
    judged = judge(lists)

A list falls when its query or any of its passages falls under a retraction. Deliberately absent: who may take something
back and what that reaches (audit/retraction.py).
"""

import polars as pl

from warehouse.curation.filters import REJECTED, Filter, Judged, Lists, decide
from warehouse.lake import Lake, content_sha256

RETRACTED = "retracted"
SOURCE, QUERY, LICENSE = "source", "query", "license"
SELECTORS = (SOURCE, QUERY, LICENSE)


def retractions_in(lake: Lake) -> dict[str, str]:
    """What a step that leaves out retracted rows is shaped by: the hash of all retractions, nothing without one."""
    known = lake.read("retractions")
    return {} if known.is_empty() else {"retractions": content_sha256(known, ["retraction"])}


def retracted(retractions: pl.DataFrame) -> Filter:
    """Rejects lists that fall under one of `retractions` (selector, value, reason, who, retracted_at)."""

    def judge(lists: Lists) -> Judged:
        reached = [reached_lists(lists, row["selector"], row["value"]) for row in retractions.iter_rows(named=True)]
        words = [
            f"{row['selector']} {row['value']}, by {row['who']} on {row['retracted_at'][:10]}: {row['reason']}"
            for row in retractions.iter_rows(named=True)
        ]
        told = [
            rows.select(
                "ranking_id", outcome=pl.lit(REJECTED), reason=pl.lit(RETRACTED), value=pl.lit(None, pl.Float64),
                threshold=pl.lit(None, pl.Float64), detail=pl.lit(said),
            )
            for rows, said in zip(reached, words, strict=True)
        ]  # fmt: skip
        nothing = lists.rows.clear().select(
            "ranking_id", outcome=pl.lit(REJECTED), reason=pl.lit(RETRACTED), value=pl.lit(None, pl.Float64),
            threshold=pl.lit(None, pl.Float64), detail=pl.lit(None, pl.String),
        )  # fmt: skip
        return decide(lists, RETRACTED, pl.concat([nothing, *told]))

    return judge


def reached_lists(lists: Lists, selector: str, value: str) -> pl.DataFrame:
    """The rows of `lists` that fall under one selector."""
    if selector == QUERY:
        return lists.rows.filter(pl.format("{}/{}", "domain", "qid") == value)
    ours = lists.passages.filter(pl.col(selector) == value).select("domain", "docid")
    held = lists.rows.select("ranking_id", "domain", docid="docids").explode("docid")
    through = held.join(ours, on=["domain", "docid"], how="semi")["ranking_id"].unique()
    return lists.rows.filter((pl.col(selector) == value) | pl.col("ranking_id").is_in(through.implode()))
