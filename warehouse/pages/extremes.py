"""The queries on which a reranker gained the most on the first stage, and lost the most, with what it said.

    told = extremes(made, "reasonrank", "rl", texts)          # {"best": [...], "worst": [...]}

Of each: both values, the first ten passages before and after with their grades, and the model's words. Deliberately
absent: passages further down, and queries that came out level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ranking.prompts import titled
from warehouse.evaluation import FIRST_STAGE, Runs

KEYS = ["domain", "qid"]
PLACES = 10
TITLE, QUERY, WORDS = 90, 600, 4_000  # characters shown of a passage, a query and an answer


@dataclass(frozen=True)
class Texts:
    """What runs are about, by domain: queries (qid, text), passages (docid, title, text), qrels (qid, docid, grade)."""

    queries: pl.DataFrame
    passages: pl.DataFrame
    qrels: pl.DataFrame


def extremes(
    made: Runs, recipe: str, stage: str, texts: Texts, measure: str = "nDCG@10", count: int = 10
) -> dict[str, list[dict[str, Any]]]:
    """Up to `count` queries that gained, most first, and as many that lost, most first."""
    scores = made.scores.filter(pl.col("recipe") == recipe, pl.col("measure") == measure)
    ours, first = scores.filter(pl.col("stage") == stage), scores.filter(pl.col("stage") == FIRST_STAGE)
    gains = (
        ours.select(*KEYS, after="value")
        .join(first.select(*KEYS, before="value"), on=KEYS, how="inner")
        .with_columns(gained=pl.col("after") - pl.col("before"))
        .join(texts.queries.select(*KEYS, query="text"), on=KEYS, how="left")
        .sort("gained", *KEYS)
    )
    chosen = {
        "best": gains.filter(pl.col("gained") > 0).tail(count).reverse(),
        "worst": gains.filter(pl.col("gained") < 0).head(count),
    }
    wanted = pl.concat(chosen.values()).select(KEYS)
    runs = made.runs.filter(pl.col("recipe") == recipe).join(wanted, on=KEYS, how="semi")
    before, after = (_shown(runs.filter(pl.col("stage") == name), texts) for name in (FIRST_STAGE, stage))
    asked = made.calls.filter(pl.col("recipe") == recipe, pl.col("stage") == stage.partition("+")[0])
    calls = asked.join(wanted, on=KEYS, how="semi")
    return {
        kind: [
            {**row, "query": (row["query"] or "")[:QUERY], **_told(row, before, after, calls)}
            for row in rows.iter_rows(named=True)
        ]
        for kind, rows in chosen.items()
    }


def _shown(run: pl.DataFrame, texts: Texts) -> pl.DataFrame:
    """A run with names and grades: domain, qid, docid, rank, name, grade (null: nobody judged it)."""
    known = texts.passages.join(run.select("domain", "docid").unique(), on=["domain", "docid"], how="semi")
    names = pl.Series([titled(t, x)[:TITLE] for t, x in known.select("title", "text").iter_rows()], dtype=pl.String)
    return (
        run.select(*KEYS, "docid", "rank")
        .join(known.select("domain", "docid", name=names), on=["domain", "docid"], how="left")
        .join(texts.qrels.select(*KEYS, "docid", "grade"), on=[*KEYS, "docid"], how="left")
        .sort(*KEYS, "rank")
    )


def _told(row: Mapping[str, Any], before: pl.DataFrame, after: pl.DataFrame, calls: pl.DataFrame) -> dict[str, Any]:
    own = (pl.col("domain") == row["domain"]) & (pl.col("qid") == row["qid"])
    old, new, asked = before.filter(own), after.filter(own), calls.filter(own).sort("round", maintain_order=True)
    places = [dict(frame.select("docid", "rank").iter_rows()) for frame in (old, new)]
    answers = _answers(asked)
    names = dict(old.select("docid", "name").iter_rows())
    last = asked.row(-1, named=True) if asked.height and not answers else None
    return {
        "first": [
            {**passage, "other": places[1].get(passage["docid"]), "answer": None}
            for passage in old.head(PLACES).iter_rows(named=True)
        ],
        "reranked": [
            {**passage, "other": places[0].get(passage["docid"]), "answer": answers.get(passage["docid"])}
            for passage in new.head(PLACES).iter_rows(named=True)
        ],
        "calls": asked.height,
        "fault": last and last["fault"],
        "answer": last and (last["completion"] or "")[:WORDS],
        "window": [names.get(docid) for docid in last["docids"]] if last else [],
    }


def _answers(calls: pl.DataFrame) -> dict[str, str]:
    """What was said of each passage, where a call shows one alone; else nothing."""
    if calls.is_empty() or calls["docids"].list.len().max() != 1:
        return {}
    said = calls.select(pl.col("docids").list.first(), "completion").iter_rows()
    return {docid: (text or "")[: WORDS // PLACES] for docid, text in said}
