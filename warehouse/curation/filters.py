"""The seam of curation: a filter looks at lists and decides about each, and every decision is kept.

    lists = Lists(rows, passages)
    judged = filter(lists)            # Judged: the lists as they go on, and a decision on every one that came in

Rows are light (no passage text) and passages stand once each, so that a filter reads a text once however many lists
hold it. A filter is a function of frames; what it measured and the threshold it held that against stand in its
decision, so that a row's history is read from the lake and never computed again.

Deliberately absent: the filters themselves (structure, licences, contents, duplicates, contamination) and their order
(curate.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

ROWS = pl.Schema(
    {
        "ranking_id": pl.String(), "domain": pl.String(), "qid": pl.String(), "query": pl.String(),
        "gold_answer": pl.String(), "docids": pl.List(pl.String), "final_order": pl.List(pl.Int64),
        "relevant": pl.List(pl.Int64), "reasoning": pl.String(), "exchange_key": pl.String(),
        "prompt_sha256": pl.String(), "judge": pl.String(), "consistency": pl.Float64(), "agreement": pl.Float64(),
        "source": pl.String(), "license": pl.String(), "url": pl.String(),
    }
)  # fmt: skip
PASSAGES = pl.Schema(
    {"domain": pl.String(), "docid": pl.String(), "text": pl.String(), "source": pl.String(), "license": pl.String()}
)
"""`text` is what a model reads: title and body in one."""

KEPT, WARNED, MASKED, EXCEPTED, REJECTED = "kept", "warned", "masked", "excepted", "rejected"
OUTCOMES = (KEPT, WARNED, MASKED, EXCEPTED, REJECTED)
DECISIONS = pl.Schema(
    {
        "ranking_id": pl.String(), "filter": pl.String(), "outcome": pl.String(), "reason": pl.String(),
        "value": pl.Float64(), "threshold": pl.Float64(), "detail": pl.String(),
    }
)  # fmt: skip
"""`reason` names the fault (null where kept), `value` what was measured, `threshold` what it was held against."""


@dataclass(frozen=True)
class Lists:
    """Lists (ROWS) and the passages that they hold (PASSAGES, unique by domain and docid)."""

    rows: pl.DataFrame
    passages: pl.DataFrame


@dataclass(frozen=True)
class Judged:
    """The lists that go on, texts masked where the policy says so, and one decision or more on every one that came.

    `found` holds rows for other tables of the lake, by table, where a filter has more to tell than decisions.
    """

    lists: Lists
    decisions: pl.DataFrame
    found: Mapping[str, pl.DataFrame] = field(default_factory=dict)


Filter = Callable[[Lists], Judged]


def decide(lists: Lists, name: str, faults: pl.DataFrame, looked_at: str | None = None) -> Judged:
    """Rejected where `faults` (DECISIONS without `filter`) rejects a row, kept where it says nothing of it.

    `looked_at` is the detail of those that are kept: what a reader cannot know from the filter's name alone. Passages
    that no list holds any more stay: others' lists are a matter of the next filter, not of this one.
    """
    told = faults.with_columns(filter=pl.lit(name)).select(list(DECISIONS)).cast(DECISIONS)
    silent = lists.rows.join(told, on="ranking_id", how="anti").select(
        "ranking_id", filter=pl.lit(name), outcome=pl.lit(KEPT), reason=pl.lit(None, pl.String),
        value=pl.lit(None, pl.Float64), threshold=pl.lit(None, pl.Float64), detail=pl.lit(looked_at, pl.String),
    )  # fmt: skip
    rejected = told.filter(pl.col("outcome") == REJECTED)
    rows = lists.rows.join(rejected.select("ranking_id"), on="ranking_id", how="anti")
    return Judged(Lists(rows, lists.passages), pl.concat([told, silent]))
