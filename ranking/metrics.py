"""Ranking measures with trec_eval's semantics, over all queries at once, and the statistics that go with them.

    per_query = evaluate(run, qrels)                      # one row a query of the qrels
    mean, low, high = bootstrap_mean(per_query["nDCG@10"])

Semantics: documents by score, falling, ties by docid, falling (scores compared as 32-bit floats, as trec_eval holds
them); unjudged is not relevant; a grade below 1 gains nothing; the gain is the grade itself; a query of the qrels that
the run lacks scores 0, and the mean is over all queries of the qrels. Names are ir-measures'; values are from 0 to 1.
"""

import re
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

DEFAULT_MEASURES = ("nDCG@10", "R@10", "R@100", "RR", "AP")
_MEASURE = re.compile(r"(?P<name>nDCG|R|P)@(?P<k>[1-9]\d*)|(?P<whole>nDCG|RR|AP)")


class MeasureError(ValueError):
    """An unknown measure, or a run or qrels that cannot be evaluated."""


def evaluate(
    run: pl.DataFrame,
    qrels: pl.DataFrame,
    measures: Sequence[str] = DEFAULT_MEASURES,
    by: Sequence[str] = ("qid",),
) -> pl.DataFrame:
    """One row for every query of `qrels` (key columns `by`), one Float64 column for each measure.

    `run` holds `by`, docid, score; `qrels` holds `by`, docid, grade. Raises MeasureError when a document stands twice
    in a query, or a measure is unknown.
    """
    keys = list(by)
    for name, frame in (("run", run), ("qrels", qrels)):
        repeated = frame.filter(pl.struct(*keys, "docid").is_duplicated())
        if repeated.height:
            raise MeasureError(
                f"the {name} lists {repeated['docid'][0]!r} more than once for query {repeated[keys[-1]][0]!r}. "
                f"Give each document one line a query."
            )
    queries = qrels.select(keys).unique(maintain_order=True)
    ranked = _ranked(run, qrels, keys)
    ideal = (
        qrels.filter(pl.col("grade") > 0)
        .sort(*keys, "grade", descending=[*[False] * len(keys), True])
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over(keys))
    )
    relevant = ideal.group_by(keys).agg(relevant=pl.len())
    result = queries.join(relevant, on=keys, how="left").with_columns(pl.col("relevant").fill_null(0))
    for measure in measures:
        result = result.join(_measure(measure, ranked, ideal, relevant, keys), on=keys, how="left")
    return result.with_columns(pl.col(measure).fill_null(0.0) for measure in measures).drop("relevant").sort(keys)


def _ranked(run: pl.DataFrame, qrels: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    return (
        run.select(*keys, "docid", pl.col("score").cast(pl.Float32))
        .join(qrels.select(*keys, "docid", "grade"), on=[*keys, "docid"], how="left")
        .with_columns(grade=pl.col("grade").fill_null(0))
        .sort(*keys, "score", "docid", descending=[*[False] * len(keys), True, True])
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over(keys))
        .filter(pl.col("grade") > 0)
        .with_columns(found=pl.int_range(1, pl.len() + 1).over(keys))
    )


def _measure(
    measure: str, ranked: pl.DataFrame, ideal: pl.DataFrame, relevant: pl.DataFrame, keys: list[str]
) -> pl.DataFrame:
    match = _MEASURE.fullmatch(measure)
    if match is None:
        raise MeasureError(f"unknown measure {measure!r}. Known: nDCG@k, nDCG, R@k, P@k, RR, AP (ir-measures' names).")
    name, k = match["name"] or match["whole"], int(match["k"]) if match["k"] else None
    top = ranked if k is None else ranked.filter(pl.col("rank") <= k)
    gain = (pl.col("grade") / (pl.col("rank") + 1).log(2)).sum()
    if name == "nDCG":
        best = ideal if k is None else ideal.filter(pl.col("rank") <= k)
        both = top.group_by(keys).agg(dcg=gain).join(best.group_by(keys).agg(idcg=gain), on=keys)
        return both.select(*keys, (pl.col("dcg") / pl.col("idcg")).alias(measure))
    if name == "RR":
        return top.group_by(keys).agg((1.0 / pl.col("rank").min()).alias(measure))
    if name == "P":
        return top.group_by(keys).agg((pl.len() / k).alias(measure))
    hits = pl.len() if name == "R" else (pl.col("found") / pl.col("rank")).sum()
    counted = top.group_by(keys).agg(hits=hits).join(relevant, on=keys)
    return counted.select(*keys, (pl.col("hits") / pl.col("relevant")).alias(measure))


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64], resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high) of per-query values: the percentile bootstrap interval over queries at `level`.

    Give the differences of two systems on the same queries to have the paired bootstrap.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        raise MeasureError("a bootstrap needs at least one query; none was given.")
    means = np.empty(resamples)
    random = np.random.default_rng(seed)
    block = max(1, 4_000_000 // sample.size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        means[start : start + rows] = sample[random.integers(0, sample.size, (rows, sample.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(sample.mean()), float(low), float(high)


def cohen_kappa(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    """Cohen's kappa of two binary raters over the same items; 1.0 where both say one and the same thing throughout."""
    agreement = float((left == right).mean())
    chance = float(left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean()))
    return 1.0 if chance == 1.0 else (agreement - chance) / (1 - chance)
