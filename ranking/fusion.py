"""A reranker's order beside the first stage's: fused scores, and the weight of the two chosen on dev.

    fused = fuse(reranked, first, "min_max", weight=0.6)
    weight = choose_weight(reranked_dev, first_dev, qrels_dev, "min_max").weight

Runs hold `by`, docid, rank, score. Every method gives weight x reranker + (1 - weight) x first stage, of scores laid
onto one scale a query; so weight 1 is the reranker alone, and 0 the first stage. Absent on purpose: weights a query,
and any look at test judgements: `choose_weight` is given those of dev.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from ranking.metrics import evaluate

Method = Literal["none", "min_max", "z_score", "rrf"]
METHODS: tuple[Method, ...] = ("none", "min_max", "z_score", "rrf")
WEIGHTS = tuple(number / 10 for number in range(11))
RRF_K = 60


class FusionError(ValueError):
    """Runs that cannot be fused, or an unknown method."""


@dataclass(frozen=True)
class Chosen:
    """The weight with the best mean on dev, that mean, and the table of weight and mean that it was chosen from."""

    weight: float
    value: float
    tried: pl.DataFrame


def fuse(
    reranked: pl.DataFrame,
    first: pl.DataFrame,
    method: Method,
    weight: float = 0.5,
    by: Sequence[str] = ("qid",),
) -> pl.DataFrame:
    """The documents of `reranked` by fused score, ties as the reranker has them: `by`, docid, rank, score, fused.

    `score` falls strictly with rank, so that whoever sorts by it has this order; `fused` is the score that made it.

    min_max: scores of each query onto 0 to 1. z_score: their mean to 0 and deviation to 1. rrf: 1 / (60 + rank). Scores
    that are all alike say nothing, and count 0. none: `reranked` as it is. Raises FusionError where the two do not hold
    the same documents, or a score is missing.
    """
    if method not in METHODS:
        raise FusionError(f"unknown fusion {method!r}. Known: {', '.join(METHODS)}.")
    if not 0.0 <= weight <= 1.0:
        raise FusionError(f"a fusion weight lies between 0 (first stage) and 1 (reranker), got {weight}.")
    keys = list(by)
    columns = [*keys, "docid", "rank", "score"]
    if method == "none":
        return reranked.select(columns).with_columns(fused=pl.col("score").cast(pl.Float64))
    pair = [*keys, "docid"]
    both = reranked.select(columns).join(
        first.select(*pair, first_rank="rank", first_score="score"), on=pair, how="full", coalesce=True
    )
    lonely = both.filter(pl.any_horizontal(pl.col("rank", "score", "first_rank", "first_score").is_null()))
    if lonely.height or both.height != reranked.height:
        example = lonely.row(0, named=True) if lonely.height else both.row(0, named=True)
        raise FusionError(
            f"document {example['docid']!r} of query {example[keys[-1]]!r} does not stand once with rank and score in "
            f"both runs. Fuse a reranking with the candidates that it was made from."
        )
    ours, theirs = _scaled("score", "rank", method, keys), _scaled("first_score", "first_rank", method, keys)
    scored = both.with_columns(fused=weight * ours + (1.0 - weight) * theirs)
    ordered = scored.sort(*keys, "fused", "rank", descending=[*[False] * len(keys), True, False])
    place = pl.int_range(1, pl.len() + 1).over(keys)
    return ordered.select(
        *keys,
        "docid",
        rank=place.cast(reranked.schema["rank"]),
        score=(pl.len().over(keys) - place + 1).cast(pl.Float64),
        fused="fused",
    )


def choose_weight(
    reranked: pl.DataFrame,
    first: pl.DataFrame,
    qrels: pl.DataFrame,
    method: Method,
    measure: str = "nDCG@10",
    weights: Sequence[float] = WEIGHTS,
    by: Sequence[str] = ("qid",),
) -> Chosen:
    """The weight whose fusion has the best mean over the queries of `qrels`, dev's; of equal ones the larger."""
    if not weights:
        raise FusionError("there are no weights to choose from. Give at least one.")
    fusions = [fuse(reranked, first, method, weight, by) for weight in weights]
    means = [float(evaluate(fused, qrels, [measure], by)[measure].to_numpy().mean()) for fused in fusions]
    tried = pl.DataFrame({"weight": list(weights), "value": means}, schema={"weight": pl.Float64, "value": pl.Float64})
    value, weight = max(zip(means, weights, strict=True))
    return Chosen(weight, value, tried)


def _scaled(score: str, rank: str, method: Method, keys: list[str]) -> pl.Expr:
    value = pl.col(score).cast(pl.Float64)
    if method == "rrf":
        return 1.0 / (RRF_K + pl.col(rank))
    if method == "min_max":
        low, high = value.min().over(keys), value.max().over(keys)
        return pl.when(high > low).then((value - low) / (high - low)).otherwise(0.0)
    spread = value.std(ddof=0).over(keys)
    return pl.when(spread > 1e-12).then((value - value.mean().over(keys)) / spread).otherwise(0.0)
