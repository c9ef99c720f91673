"""Rows of what was measured on a part of a benchmark: setting, measures, the paired comparison, and what a query took.

    first = row_of(part, texts, path, "bm25 (first stage)", setting)
    ours = row_of(part, texts, path, "reasonrank: rl", setting, made, beside=first)
    weight = weight_of(settings, chosen)             # of the recipe's fusion, never chosen on what it is reported on

Deliberately absent: the measuring itself (rankmill.benchmark), and corrections for many comparisons (boards).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ranking.fusion import fuse
from ranking.metrics import evaluate
from ranking.statistics import bootstrap_mean, compare
from ranking.trec import read_run
from rankmill.chosen_model import ChosenModel
from rankmill.reranking import Reranking
from rankmill.settings import Settings
from training.recipes import Recipe
from training.seams import WeightedFusion
from warehouse.benchmarks.boards import HERE
from warehouse.benchmarks.loading import Texts
from warehouse.benchmarks.registry import Benchmark
from warehouse.lake import now

NO_WEIGHT = (
    "{recipe} is not fused: its weight is chosen on dev queries, and no leaderboard of this home chose one for "
    "{model}. Materialize benchmark_runs of the recipe, or set fusion.weight to a number."
)


@dataclass(frozen=True)
class Scored:
    """A row, and the value of its headline measure for each query, in the judgements' order."""

    row: dict[str, Any]
    values: pl.Series


def row_of(
    settings: Settings,
    part: tuple[str, Benchmark],
    texts: Texts,
    run: Path,
    system: str,
    setting: dict[str, Any],
    made: Reranking | None = None,
    beside: Scored | None = None,
    model: str = "",
) -> Scored:
    """The row of a run on the disk; `made` is how it came about, `beside` the first stage that it is compared with."""
    name, benchmark = part
    measures, resamples = benchmark.measures, settings.profile_that_buys_nothing.evaluation.resamples
    scores = evaluate(read_run(run), texts.judgements, measures)
    values = scores[measures[0]]
    _, low, high = bootstrap_mean(values.to_numpy(), resamples, 0)
    row = {
        "part": name, "system": system, "origin": HERE, "model": model, "queries": scores.height,
        "measures": {measure: float(scores[measure].mean()) for measure in measures},  # type: ignore[arg-type]
        "low": low, "high": high, "malformed_rate": None if made is None else made.malformed_rate,
        "versus": None if beside is None else _versus(values, beside.values, resamples),
        "costs": None if made is None else _costs(made.costs),
        "setting": dict(setting), "run": str(run.relative_to(settings.home)),
        "run_sha256": hashlib.sha256(run.read_bytes()).hexdigest(), "created_at": now(),
    }  # fmt: skip
    return Scored(row, values)


def asked_how(models: Sequence[ChosenModel], keep: int, made: Reranking) -> dict[str, Any]:
    """The part of a setting that says how models were asked; of a cascade's second one it stands below `then`."""
    precision = ", then ".join(dict.fromkeys("not told" if model.is_teacher else "float32" for model in models))
    told = {
        **_asked(models[0].recipe), "fusion": "none", "engine": made.engine,
        "engine_version": made.engine_version, "precision": precision,
        "not_reranked": len(made.refused), "malformed": made.malformed,
    }  # fmt: skip
    if len(models) > 1:
        told["then"] = {**_asked(models[1].recipe), "model": models[1].reference.sha256, "keep": keep}
    return told


def _asked(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.asked, "decoding": recipe.decoding.model_dump(mode="json"), "window": recipe.decoding.widest}


def fused_with(made: Reranking, first: pl.DataFrame, fusion: WeightedFusion, weight: float) -> pl.DataFrame:
    """The reranked run fused with the first stage's; by the model's own scores, where it gives some, else by places."""
    run = made.run.with_columns(score=pl.coalesce("value", "score"))
    # A list's candidates without a text or beyond the depth are in neither.
    return fuse(run, first, fusion.method, weight).select("qid", "docid", "rank", "score")


def weight_of(settings: Settings, chosen: ChosenModel, fusion: WeightedFusion) -> float | None:
    """The model's share: the recipe's, or the mean of those that dev queries of this home chose for it; else None."""
    if fusion.weight != "dev":
        return float(fusion.weight)
    if not settings.has_lake:
        return None
    tried = settings.lake().read("fusion_weights", {"recipe": chosen.recipe.name})
    stages = [name.partition("/")[2] for name in chosen.names if name.startswith(f"{chosen.recipe.name}/")]
    own = tried.filter(pl.col("stage").is_in([f"{stage}+{fusion.method}" for stage in stages]), pl.col("chosen"))
    return float(own["weight"].mean()) if own.height else None  # type: ignore[arg-type]


def _versus(ours: pl.Series, first: pl.Series, resamples: int) -> dict[str, Any]:
    row = compare({"": ours.to_numpy()}, first.to_numpy(), resamples, 0).row(0, named=True)
    return {name: row[name] for name in ("difference", "low", "high", "p", "wins", "ties", "losses")}


def _costs(costs: pl.DataFrame) -> dict[str, float | None]:
    """Means over the queries, and the spread of seconds; null is what nobody tells."""
    seconds = costs["seconds"]
    means = {
        "calls_per_query": "calls", "depth_per_query": "rounds", "input_tokens_per_query": "input_tokens",
        "output_tokens_per_query": "output_tokens", "cached_tokens_per_query": "cached_tokens",
        "usd_per_query": "usd",
    }  # fmt: skip
    told: dict[str, Any] = {name: costs[column].mean() for name, column in means.items()}
    return {**told, "seconds_p50": seconds.quantile(0.5, "linear"), "seconds_p95": seconds.quantile(0.95, "linear")}
