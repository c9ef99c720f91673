"""Reranked and first-stage runs fused: by a set weight, or by one that was chosen on dev.

    folds = folds_of(reported, spare, seed=0)
    both = fused(run, first, qrels, folds, Fusion("rrf", None))         # both.run, both.weights

A weight is never chosen on a query that it is reported on. Where a domain's test queries are reported, its dev queries
are reranked for the choice alone (`spare`). Where its dev queries are the reported ones, they fall into two halves by
hash, and each half has the weight that all other dev queries are best with; so every query is reported and none decides
about itself. One weight serves all domains: dev queries are few. Deliberately absent: a weight a domain.
"""

from dataclasses import dataclass

import polars as pl

from ranking.fusion import Method, choose_weight, fuse
from ranking.lists import seed_of

KEYS = ["domain", "qid"]
COLUMNS = [*KEYS, "docid", "rank", "score"]
SPARE, TEST, HALVES = "spare", "test", ("half 1", "half 2")
WEIGHTS = {
    "fold": pl.String, "weight": pl.Float64, "value": pl.Float64, "queries": pl.Int64, "chosen": pl.Boolean,
}  # fmt: skip


class NothingToChooseOn(ValueError):
    """A fusion's weight is to be chosen on dev, and no dev query is left for it."""


@dataclass(frozen=True)
class Fusion:
    """How a reranking is fused with the first stage: a method of ranking.fusion, and the reranking's share.

    Where `weight` is None, it is chosen on dev queries.
    """

    method: Method
    weight: float | None


@dataclass(frozen=True)
class Fused:
    """The reported queries' fused run (domain, qid, docid, rank, score), and the weights tried for each fold."""

    run: pl.DataFrame
    weights: pl.DataFrame


def folds_of(reported: pl.DataFrame, spare: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Which fold each query is in: domain, qid, fold. `reported` has domain, qid, split; `spare` domain, qid."""
    halves = pl.Series(
        [HALVES[seed_of(f"fuse/{domain}/{qid}", seed) % 2] for domain, qid in reported.select(KEYS).iter_rows()],
        dtype=pl.String,
    )
    ours = reported.select(*KEYS, fold=pl.when(pl.col("split") == TEST).then(pl.lit(TEST)).otherwise(halves))
    return pl.concat([ours, spare.select(*KEYS, fold=pl.lit(SPARE))]).sort(KEYS)


def may_be_chosen(folds: pl.DataFrame, fusion: Fusion | None) -> None:
    """Raise NothingToChooseOn where a weight is to be chosen and a fold has no queries for it: before models run."""
    if fusion is not None and fusion.weight is None:
        for fold in _reported(folds):
            _others(folds, fold)


def fused(run: pl.DataFrame, first: pl.DataFrame, qrels: pl.DataFrame, folds: pl.DataFrame, fusion: Fusion) -> Fused:
    """`run` fused with `first`, both over all queries of `folds`; qrels: domain, qid, docid, grade of them.

    Raises NothingToChooseOn.
    """
    if fusion.weight is not None:
        reported = folds.filter(pl.col("fold") != SPARE)
        return Fused(_fuse(run, first, reported, fusion.method, fusion.weight), pl.DataFrame(schema=WEIGHTS))
    runs, tried = [], []
    for fold in _reported(folds):
        others = _others(folds, fold)
        ours, theirs, judged = (frame.join(others, on=KEYS, how="semi") for frame in (run, first, qrels))
        chosen = choose_weight(ours.select(COLUMNS), theirs.select(COLUMNS), judged, fusion.method, by=KEYS)
        runs.append(_fuse(run, first, folds.filter(pl.col("fold") == fold), fusion.method, chosen.weight))
        tried.append(
            chosen.tried.select(
                pl.lit(fold).alias("fold"),
                "weight",
                "value",
                queries=pl.lit(others.height, dtype=pl.Int64),
                chosen=pl.col("weight") == chosen.weight,
            )
        )
    return Fused(pl.concat(runs), pl.concat(tried))


def _reported(folds: pl.DataFrame) -> list[str]:
    return folds.filter(pl.col("fold") != SPARE)["fold"].unique().sort().to_list()


def _others(folds: pl.DataFrame, fold: str) -> pl.DataFrame:
    """The dev queries that may choose a weight for `fold`: all but its own."""
    others = folds.filter(~pl.col("fold").is_in([TEST, fold]))
    if others.is_empty():
        own = folds.filter(pl.col("fold") == fold)
        raise NothingToChooseOn(
            f"the fusion's weight is to be chosen on dev, and for {own.height} reported queries ({fold}; "
            f"{', '.join(own['domain'].unique().sort())}) no other dev query is left to choose it on. Give the domains "
            "more queries of the split dev, raise evaluation.queries_per_domain, or set fusion.weight to a number."
        )
    return others


def weights_in_words(fusion: Fusion, tried: pl.DataFrame) -> str:
    """A fusion as a leaderboard row tells it; `tried` are rows of table fusion_weights."""
    if fusion.weight is not None:
        return f"{fusion.method}, {fusion.weight:g} of it the student's"
    chosen = tried.filter("chosen").sort("stage", "fold").group_by("stage", maintain_order=True).agg("weight")
    told = "; ".join(
        f"{stage} {' and '.join(f'{w:g}' for w in dict.fromkeys(weights))}" for stage, weights in chosen.iter_rows()
    )
    return f"{fusion.method}, the student's share chosen on other dev queries: {told}"


def _fuse(run: pl.DataFrame, first: pl.DataFrame, own: pl.DataFrame, method: Method, weight: float) -> pl.DataFrame:
    ours, theirs = (frame.join(own, on=KEYS, how="semi").select(COLUMNS) for frame in (run, first))
    return fuse(ours, theirs, method, weight, KEYS).select(COLUMNS)
