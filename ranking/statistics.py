"""How sure a difference is: intervals, paired tests and their correction, wins and losses, calibration.

    mean, low, high = bootstrap_mean(ours - base)         # paired: the differences of the same queries
    p = randomisation_test(ours, base)
    table = compare({"sft": sft, "rl": rl}, base)         # all of it, p values corrected by Holm

Values are per query, in the same order everywhere. Pure and seeded: the same values give the same figures. Absent on
purpose: the t-test, which wants a normal shape that NDCG has not, and any choice of what is significant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Random numbers are drawn in blocks of at most this many.
BLOCK = 4_000_000


class StatisticsError(ValueError):
    """Values that nothing can be said about: none, or two lists that do not pair up."""


@dataclass(frozen=True)
class Outcomes:
    """On how many queries a system is above, level with and below another."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Calibration:
    """How far scores in [0, 1] may be read as probabilities, and what a decision at the threshold gets right.

    `ece`: expected calibration error. `tpr`, `tnr`: the shares of relevant and of other passages decided rightly; None
    where there are none of the kind. `bins`: low, high, count, confidence (mean score), accuracy (share relevant).
    """

    ece: float
    tpr: float | None
    tnr: float | None
    bins: pl.DataFrame


def bootstrap_mean(
    values: ArrayLike, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high) of per-query values: the percentile bootstrap interval over queries at `level`.

    Give the differences of two systems on the same queries to have the paired bootstrap.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        raise StatisticsError("a bootstrap needs at least one query; none was given.")
    means = np.empty(resamples)
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // sample.size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        means[start : start + rows] = sample[random.integers(0, sample.size, (rows, sample.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(sample.mean()), float(low), float(high)


def randomisation_test(ours: ArrayLike, base: ArrayLike, rounds: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the mean difference, were it chance which of the two systems a query's values came from.

    Fisher's paired randomisation test (Smucker et al. 2007): the signs of the differences are drawn anew. Exact, over
    all signs, where there are no more than `rounds` of them; else (hits + 1) / (rounds + 1), which is never 0.
    """
    difference = _differences(ours, base)
    moved = difference[difference != 0]
    if not moved.size:
        return 1.0
    observed = abs(moved.sum())
    # Sums of the same numbers in another order differ in their last digits, and a tie must count.
    bar = observed - 1e-12 * np.abs(moved).sum()
    if moved.size < 60 and 2**moved.size <= rounds:
        signs = (np.arange(2**moved.size)[:, None] >> np.arange(moved.size)) & 1
        return float((np.abs((2.0 * signs - 1.0) @ moved) >= bar).mean())
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // moved.size)
    hits = 0
    for start in range(0, rounds, block):
        signs = random.integers(0, 2, (min(block, rounds - start), moved.size), dtype=np.int8)
        hits += int((np.abs((2.0 * signs - 1.0) @ moved) >= bar).sum())
    return (hits + 1) / (rounds + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for having been many (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1) | np.isnan(p)).any():
        raise StatisticsError(f"p values lie between 0 and 1, got {list(p_values)}.")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    corrected = np.empty_like(stepped)
    corrected[order] = stepped
    return [float(value) for value in corrected]


def win_tie_loss(ours: ArrayLike, base: ArrayLike, margin: float = 1e-9) -> Outcomes:
    """Queries won, level and lost against `base`; differences up to `margin` are level."""
    difference = _differences(ours, base)
    wins, losses = int((difference > margin).sum()), int((difference < -margin).sum())
    return Outcomes(wins, difference.size - wins - losses, losses)


def compare(
    systems: Mapping[str, ArrayLike], base: ArrayLike, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> pl.DataFrame:
    """A row a system against `base`: system, mean, difference, low, high, p, p_holm, wins, ties, losses.

    `low` to `high` is the paired bootstrap interval of the difference, `p` the randomisation test's, `p_holm` that
    corrected for the number of systems.
    """
    against = np.asarray(base, dtype=np.float64)
    rows = []
    for name, values in systems.items():
        difference, low, high = bootstrap_mean(_differences(values, against), resamples, seed, level)
        p = randomisation_test(values, against, resamples, seed)
        counted = win_tie_loss(values, against)
        mean = float(np.asarray(values, dtype=np.float64).mean())
        rows.append((name, mean, difference, low, high, p, counted.wins, counted.ties, counted.losses))
    schema = {"system": pl.String, "mean": pl.Float64, "difference": pl.Float64, "low": pl.Float64, "high": pl.Float64,
              "p": pl.Float64, "wins": pl.Int64, "ties": pl.Int64, "losses": pl.Int64}  # fmt: skip
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.insert_column(6, pl.Series("p_holm", holm(table["p"].to_list()), dtype=pl.Float64))


def calibration(scores: ArrayLike, relevant: ArrayLike, threshold: float = 0.5, bins: int = 10) -> Calibration:
    """Calibration of a pointwise reranker's scores in [0, 1] over N judged passages; `relevant` (N,) of booleans.

    Equally wide bins, the upper edge outside save for 1 (Guo et al. 2017): the error is the mean over the passages of
    |share relevant - mean score| of their bin. A passage is decided relevant where its score is >= `threshold`.
    """
    score, truth = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if score.shape != truth.shape or score.ndim != 1 or not score.size:
        raise StatisticsError(f"{score.shape} scores and {truth.shape} judgements do not pair up, or there are none.")
    if not ((score >= 0) & (score <= 1)).all():
        raise StatisticsError("scores must lie between 0 and 1 to be read as probabilities. Divide grades by the top.")
    at = np.minimum((score * bins).astype(np.int64), bins - 1)
    counts = np.bincount(at, minlength=bins)
    filled = np.maximum(counts, 1)
    confidence = np.bincount(at, score, minlength=bins) / filled
    accuracy = np.bincount(at, truth, minlength=bins) / filled
    says = score >= threshold
    table = pl.DataFrame(
        {
            "low": np.arange(bins) / bins,
            "high": np.arange(1, bins + 1) / bins,
            "count": counts,
            "confidence": confidence,
            "accuracy": accuracy,
        }
    )
    return Calibration(
        ece=float((np.abs(accuracy - confidence) * counts).sum() / score.size),
        tpr=float(says[truth].mean()) if truth.any() else None,
        tnr=float((~says[~truth]).mean()) if (~truth).any() else None,
        bins=table,
    )


def cohen_kappa(left: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    """Cohen's kappa of two binary raters over the same items; 1.0 where both say one and the same thing throughout."""
    agreement = float((left == right).mean())
    chance = float(left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean()))
    return 1.0 if chance == 1.0 else (agreement - chance) / (1 - chance)


def _differences(ours: ArrayLike, base: ArrayLike) -> Floats:
    left, right = np.asarray(ours, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not left.size:
        raise StatisticsError(
            f"{left.shape} and {right.shape} values do not pair up, or there are none. "
            f"Give one value a query, the same queries in the same order."
        )
    return left - right
