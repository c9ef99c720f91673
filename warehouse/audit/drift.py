"""How far a release has moved from the one before it: mixture, lists, consistency, chains and the teacher's agreement.

    drift(lake, "a316", "77f0", DriftBounds())    # measure, before, after, distance, bound, level, detail

Columns of numbers are compared by the Kolmogorov-Smirnov distance (the widest gap between the two cumulative shares,
from 0 to 1), domains by total variation (the share of rows that would have to change domain). A distance that two
samples of these sizes reach by chance once in a hundred is never told as drift, so a small release raises no alarm.

Deliberately absent: which rows differ (versions.py), and what to do about it: a warning asks for a look, an error for
a reason before the release is trained on.
"""

import json
import math
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from warehouse.curation.releases import known_release, read_release
from warehouse.lake import Lake

Level = Literal["ok", "warning", "error"]
DRIFT = pl.Schema(
    {
        "measure": pl.String(), "before": pl.Float64(), "after": pl.Float64(), "distance": pl.Float64(),
        "bound": pl.Float64(), "level": pl.String(), "detail": pl.String(),
    }
)  # fmt: skip
_CHANCE = 1.63  # two-sided Kolmogorov-Smirnov at 1 %: sqrt(-ln(0.01 / 2) / 2)
_READ = ("domain", "docids", "relevant", "consistency", "reasoning", "agreement")


class Bound(BaseModel):
    """From which distance on a measure is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warning: float = Field(ge=0, le=1, description="Distance from which a person should look.")
    error: float = Field(ge=0, le=1, description="Distance from which the release needs a reason.")

    @model_validator(mode="after")
    def _ordered(self) -> "Bound":
        if self.warning > self.error:
            raise ValueError(f"warning ({self.warning:g}) is above error ({self.error:g}). Swap them.")
        return self


def _bound(warning: float, error: float, description: str) -> Bound:
    made: Bound = Field(Bound(warning=warning, error=error), description=description)
    return made


class DriftBounds(BaseModel):
    """How far each measure may move between two releases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain_mix: Bound = _bound(0.1, 0.3, "Rows by domain, total variation.")
    list_length: Bound = _bound(0.15, 0.35, "Passages of a list, KS distance.")
    positives: Bound = _bound(0.15, 0.35, "Relevant passages of a list, KS distance.")
    consistency: Bound = _bound(0.15, 0.35, "NDCG@10 of rankings against judgements, KS distance.")
    chain_length: Bound = _bound(0.15, 0.35, "Words of a chain, KS distance.")
    sample_agreement: Bound = _bound(0.15, 0.35, "Kendall's W of a list's samples, KS distance.")
    teacher_kappa: Bound = _bound(0.1, 0.25, "Kappa of mined against human judgements, difference.")


def drift(lake: Lake, release_a: str, release_b: str, bounds: DriftBounds) -> pl.DataFrame:
    """DRIFT from release a to release b, a row a measure; what either has not is left out. Raises UnknownRelease."""
    a, b = (read_release(lake, release, _READ) for release in (release_a, release_b))
    told = [_mix(a, b, bounds.domain_mix)]
    columns = {
        "list_length": pl.col("docids").list.len(),
        "positives": pl.col("relevant").list.len(),
        "consistency": pl.col("consistency"),
        "chain_length": pl.col("reasoning").fill_null("").str.count_matches(r"\S+"),
        "sample_agreement": pl.col("agreement"),
    }
    for measure, column in columns.items():
        values = [frame.select(column.cast(pl.Float64)).to_series().drop_nulls() for frame in (a, b)]
        if all(len(some) for some in values):
            told.append(_compared(measure, values[0], values[1], getattr(bounds, measure)))
    kappas = [teacher_kappa(lake, release) for release in (release_a, release_b)]
    if kappas[0] is not None and kappas[1] is not None:
        distance = abs(kappas[1] - kappas[0])
        told.append(_row("teacher_kappa", kappas[0], kappas[1], min(1.0, distance), bounds.teacher_kappa, 0.0, ""))
    return pl.DataFrame(told, schema=DRIFT, orient="row")


def since_previous(lake: Lake, release: str, bounds: DriftBounds) -> tuple[str, pl.DataFrame] | None:
    """The release made before this one (full name) and DRIFT from it; None where this one is the first.

    Raises UnknownRelease."""
    known = lake.read("releases", columns=["release", "created_at"])
    name = known_release(lake, release)
    made = known.filter(release=name)["created_at"][0]
    earlier = known.filter((pl.col("created_at") <= made) & (pl.col("release") != name))
    if earlier.is_empty():
        return None
    before = earlier.sort("created_at")["release"][-1]
    return before, drift(lake, before, name, bounds)


def teacher_kappa(lake: Lake, release: str) -> float | None:
    """Kappa of mined against human judgements when the release was made, over its domains, weighted by pairs."""
    found = lake.query("SELECT domains, read_snapshot FROM releases WHERE starts_with(release, ?)", [release])
    if found.is_empty():
        return None
    domains, snapshot = found.row(0)
    made = lake.read("materializations", {"asset": "mined_judgements"}, ["partition_key", "figures"], snapshot)
    figures = [json.loads(text) for domain, text in made.iter_rows() if domain in domains]
    judged = [some for some in figures if some.get("teacher_pairs")]
    pairs = sum(some["teacher_pairs"] for some in judged)
    return sum(some["teacher_kappa"] * some["teacher_pairs"] for some in judged) / pairs if pairs else None


def kolmogorov_smirnov(left: pl.Series, right: pl.Series) -> float:
    """The widest gap between the cumulative shares of two samples, neither of them empty."""
    a, b = np.sort(left.to_numpy()), np.sort(right.to_numpy())
    points = np.concatenate([a, b])
    gap = np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b)
    return float(np.abs(gap).max())


def _compared(measure: str, a: pl.Series, b: pl.Series, bound: Bound) -> tuple:
    chance = _CHANCE * math.sqrt(1 / len(a) + 1 / len(b))
    means = [float(np.mean(values.to_numpy())) for values in (a, b)]
    medians = [float(np.median(values.to_numpy())) for values in (a, b)]
    said = f"median {medians[0]:g}, then {medians[1]:g}"
    return _row(measure, means[0], means[1], kolmogorov_smirnov(a, b), bound, chance, said)


def _mix(a: pl.DataFrame, b: pl.DataFrame, bound: Bound) -> tuple:
    shares = [
        dict(frame.group_by("domain").agg(pl.len() / max(1, frame.height)).sort("domain").iter_rows())
        for frame in (a, b)
    ]
    moved = {name: shares[1].get(name, 0.0) - shares[0].get(name, 0.0) for name in sorted({*shares[0], *shares[1]})}
    if not moved:
        return _row("domain_mix", 0.0, 0.0, 0.0, bound, 0.0, "no rows")
    most = max(moved, key=lambda name: round(abs(moved[name]), 9))  # the first of equals, whatever the last bit says
    distance = min(1.0, sum(abs(change) for change in moved.values()) / 2)
    # The deviation of a share is at most 1 / (2 sqrt n); 2.58 of them are one in a hundred.
    chance = 2.58 * 0.5 * math.sqrt(1 / max(1, a.height) + 1 / max(1, b.height))
    before, after = (some.get(most, 0.0) for some in shares)
    return _row("domain_mix", before, after, distance, bound, chance, f"share of {most}, which moved most")


def _row(
    measure: str, before: float, after: float, distance: float, bound: Bound, chance: float, detail: str
) -> tuple[str, float, float, float, float, Level, str]:
    """`bound` is the one that was passed, or the next one that was not."""
    beyond_chance = distance > chance
    if distance > bound.error and beyond_chance:
        return measure, before, after, distance, bound.error, "error", detail
    if distance > bound.warning and beyond_chance:
        return measure, before, after, distance, bound.warning, "warning", detail
    if distance > bound.warning:
        detail = f"{detail}; two samples of these sizes reach {chance:.2f} by chance".lstrip("; ")
    return measure, before, after, distance, bound.warning, "ok", detail
