"""Reranking jobs of a recipe's students, and what their runs are measured with.

Deliberately absent: the assets themselves (assets.evaluation).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.resources import Factory
from flows.nights import Allowance
from flows.paid import every_call_kept
from flows.teacher import TeacherSettings, engine_at
from inference.progress import Progress
from training.jobs import EndpointRerankJob, RerankJob, base_model, finished, served_model
from training.readings import highest_score
from training.recipes import Recipe
from training.seams import (
    Contract,
    ListwiseDirect,
    ListwiseThink,
    WeightedFusion,
)
from warehouse import evaluation
from warehouse.fusing import Fusion, weights_in_words
from warehouse.models import newest_model
from warehouse.production import Shop

TAKEN = ("calls", "answers", "cache_hits", "prompt_tokens", "completion_tokens", "usd")


def jobs(
    shop: Shop, factory: Factory, recipe: Recipe, reported: pl.DataFrame, spare: pl.DataFrame
) -> dict[str, tuple[tuple[RerankJob, ...], str]]:
    """Reranking jobs and a model id for each student, by stage; where the profile says so, its twin's beside it.

    Candidates of `reported` queries and of `spare` ones are a job each, so that neither is asked anew because of the
    other. Spare queries choose champions, which the base model and twins are none of, and a fusion's weight.
    """
    settings = factory.settings
    chosen = chooses_weight(recipe)
    kept = [evaluation.keep_candidates(one, settings.home / "work") for one in (reported, spare) if one.height]
    base = base_model(recipe)
    students: dict[Any, tuple[Any, str, str]] = {"base": (base, base.sha256, "")}
    for stage in recipe.stages:
        row = newest_model(shop.lake, recipe.name, stage)
        reference = {"path": str(settings.home / row["path"]), "sha256": row["weights_sha256"]}
        students[stage] = (reference, row["model"], row["release"])
    ways = {stage: (stage, recipe) for stage in students}
    if settings.profile.evaluation.think_twins and (other := twin(recipe)) is not None:
        ways |= {evaluation.twin_stage(stage, other[0]): (stage, other[1]) for stage in students}
    return {
        name: (
            tuple(
                RerankJob(
                    recipe=asked,
                    release=students[stage][2],
                    model=students[stage][0],
                    candidates=path,
                    candidates_sha256=digest,
                    student=stage,
                    output=settings.models / recipe.name,
                    cache=settings.models / "base",
                    seed=settings.profile.seed,
                    probe_positions=settings.profile.evaluation.probe_positions,
                )
                for path, digest in (kept if name in recipe.stages or chosen else kept[:1])
            ),
            students[stage][1],
        )
        for name, (stage, asked) in ways.items()
    }


@dataclass(frozen=True)
class ByTeacher:
    """The teacher's reranking, and what it took: money and calls of this run alone, cache hits beside them."""

    reranked: evaluation.Reranked
    figures: dict[str, float]


def by_teacher(
    factory: Factory, recipe: Recipe, lists: Sequence[pl.DataFrame], left: Allowance | None, tell: Callable[[str], None]
) -> ByTeacher:
    """Have the teacher answer the recipe's calls over its endpoint, by the home's store and budget; a job a list.

    Raises what training.over_endpoint.rerank_over raises.
    """
    from training.over_endpoint import rerank_over

    settings = factory.settings
    teacher = settings.profile.teacher if left is None else left.bounding(settings.profile.teacher)
    kept = [evaluation.keep_candidates(one, settings.home / "work") for one in lists]
    jobs = [
        EndpointRerankJob(
            recipe=recipe,
            release="",
            model=served_model(teacher.model),
            candidates=path,
            candidates_sha256=digest,
            output=settings.models / recipe.name,
            cache=settings.models / "base",
            probe_positions=settings.profile.evaluation.probe_positions,
        )
        for path, digest in kept
    ]
    taken = Counter[str]()
    if any(finished(job) is None for job in jobs):
        store, logs, name = settings.store_path, settings.campaign_home.logs, f"reranking {recipe.name}"
        with every_call_kept(factory.lake, store, name), engine_at(teacher, store, logs, name) as engine:
            for job in jobs:
                last: list[Progress] = []

                def watch(progress: Progress, last: list[Progress] = last) -> None:
                    last[:] = [progress]
                    tell(f"reranking by {teacher.model}: {progress.line}")

                rerank_over(engine, job, watch)
                taken.update({name: progress.figures[name] for progress in last for name in TAKEN})
    figures = {f"teacher_{name}": float(taken[name]) for name in TAKEN}
    return ByTeacher(_by_endpoint(recipe, teacher, jobs), figures)


def _by_endpoint(recipe: Recipe, teacher: TeacherSettings, jobs: Sequence[EndpointRerankJob]) -> evaluation.Reranked:
    result = finished(jobs[0])
    assert result is not None  # rerank_over has just seen to it
    version = ", ".join(" ".join(filter(None, served)) for served in sorted(result.versions.items()))
    folders = [job.folder for job in jobs]
    spare = folders[1] if len(folders) > 1 else None
    name = folders[0].name
    return evaluation.Reranked(
        name, teacher.model, folders[0], teacher.behind, version, result.hardware, _asked(recipe), spare
    )


def twin(recipe: Recipe) -> tuple[str, Recipe] | None:
    """The recipe with its students asked the other way, and its name: with a chain or without. None where none is."""
    others: dict[str, tuple[str, Contract]] = {
        "listwise_think": ("direct", ListwiseDirect()),
        "listwise_direct": ("think", ListwiseThink()),
    }
    found = others.get(recipe.contract.name)
    return None if found is None else (found[0], recipe.model_copy(update={"contract": found[1]}))


def reranked(jobs: Sequence[RerankJob], model: str) -> evaluation.Reranked:
    """What finished jobs of a student have left (see `jobs`), and what answered them."""
    job, spare = jobs[0], jobs[1].folder if len(jobs) > 1 else None
    result = finished(job)
    assert result is not None  # run_jobs has just seen to it
    version = f"{result.versions['transformers']} on torch {result.versions['torch']}"
    asked = _asked(job.recipe)
    name = job.folder.name
    return evaluation.Reranked(name, model, job.folder, "transformers", version, result.hardware, asked, spare)


def fusion(recipe: Recipe) -> Fusion | None:
    """How the students' orders are fused with the first stage's, if the recipe says so."""
    chosen = recipe.fusion
    if not isinstance(chosen, WeightedFusion):
        return None
    return Fusion(chosen.method, None if chosen.weight == "dev" else chosen.weight)


def chooses_weight(recipe: Recipe) -> bool:
    """Whether the weight of the recipe's fusion is chosen on dev."""
    how = fusion(recipe)
    return how is not None and how.weight is None


def settings(recipe: Recipe, first_stage: str) -> dict[str, Any]:
    """What a score depends on beside the model: evaluation.SETTINGS of the recipe's runs."""
    decoding = recipe.decoding
    return {
        "first_stage": f"{first_stage} over title and text",
        "query_retrieved": "text",
        "decoder": decoding.name,
        "decoding": decoding.model_dump_json(),
        "window_size": decoding.widest,
        **recipe.asked,
        "highest_score": highest_score(recipe),
    }


def _asked(recipe: Recipe) -> dict[str, Any]:
    """What a student and its twin differ in."""
    return {name: recipe.asked[name] for name in ("think", "template", "prompt_sha256")}


def told(recipe: Recipe, settings: Mapping[str, Any], weights: pl.DataFrame) -> dict[str, Any]:
    """The settings as every leaderboard row tells them; `weights` are those tried for the fused runs."""
    how = fusion(recipe)
    said = {name: value for name, value in settings.items() if name not in ("decoder", "decoding", "prompt_sha256")}
    return {
        **said,
        "decoding": recipe.decoding.model_dump(),
        "template_sha256": settings["prompt_sha256"],
        "fusion": recipe.fusion.name if how is None else weights_in_words(how, weights),
    }
