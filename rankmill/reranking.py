"""What came of lists that a model ordered, and of two models one after the other.

    made.run                                     # qid, docid, rank, score, value
    made.costs                                   # a row a query

Deliberately absent: who asks a model (rankmill.cascade), and fusion.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from rankmill.rerank_lists import CandidateList

RUN = {"qid": pl.String, "docid": pl.String, "rank": pl.Int32, "score": pl.Float64, "value": pl.Float64}
COSTS = {
    "qid": pl.String, "calls": pl.Int64, "rounds": pl.Int64, "input_tokens": pl.Int64, "output_tokens": pl.Int64,
    "cached_tokens": pl.Int64, "seconds": pl.Float64, "usd": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Reranking:
    """Lists in their new order (`run`), what each took (`costs`), and what went wrong.

    `score` falls strictly with rank; `value` is what a pointwise model said, null where a model gives orders alone.
    `rounds` wait for one another; `cached_tokens` and `usd` are null where nobody tells or bills. `from_journal` lists
    were ordered before, `refused` are (qid, why) of lists that a model cannot read, `seconds` those of this run.
    """

    run: pl.DataFrame
    costs: pl.DataFrame
    malformed: dict[str, int]
    refused: tuple[tuple[str, str], ...]
    from_journal: int
    seconds: float
    engine: str
    engine_version: str

    @property
    def calls(self) -> int:
        """Calls of all lists."""
        return int(self.costs["calls"].sum())

    @property
    def malformed_rate(self) -> float:
        """Malformed answers of all calls."""
        return sum(self.malformed.values()) / max(1, self.calls)


def fronts(lists: Sequence[CandidateList], run: pl.DataFrame, keep: int) -> list[CandidateList]:
    """The first `keep` of every list as `run` orders it."""
    front = run.filter(pl.col("rank") <= keep).sort("qid", "rank")
    kept = dict(front.group_by("qid", maintain_order=True).agg("docid").iter_rows())
    cut = []
    for entry in lists:
        texts: Mapping[str, str] = dict(zip(entry.docids, entry.texts, strict=True))
        docids = tuple(kept[entry.qid])
        cut.append(CandidateList(entry.qid, entry.query, docids, tuple(texts[docid] for docid in docids)))
    return cut


def one_after_the_other(first: Reranking, second: Reranking) -> Reranking:
    """`second` ordered the front of `first`: its order, then the rest as `first` left it. Values do not carry over."""
    behind = first.run.join(second.run, on=["qid", "docid"], how="anti")
    both = pl.concat([second.run.with_columns(part=0), behind.with_columns(part=1)]).sort("qid", "part", "rank")
    place = pl.int_range(1, pl.len() + 1).over("qid")
    run = both.select(
        "qid",
        "docid",
        rank=place.cast(pl.Int32),
        score=(pl.len().over("qid") - place + 1).cast(pl.Float64),
        value=pl.lit(None, dtype=pl.Float64),
    )
    amounts = [name for name in COSTS if name != "qid"]
    told = [pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name) for name in amounts]
    costs = pl.concat([first.costs, second.costs]).group_by("qid", maintain_order=True).agg(told)
    return Reranking(
        run=run,
        costs=costs,
        malformed=dict(Counter(first.malformed) + Counter(second.malformed)),
        refused=(*first.refused, *second.refused),
        from_journal=min(first.from_journal, second.from_journal),
        seconds=first.seconds + second.seconds,
        engine=_both(first.engine, second.engine),
        engine_version=_both(first.engine_version, second.engine_version),
    )


def _both(one: str, other: str) -> str:
    return one if one == other else f"{one}, then {other}"
