"""What is learned: one SFT and one RL checkpoint a recipe, each made by a process of its own through Dagster Pipes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.partitions import recipes
from assets.places import Place
from assets.processes import run_jobs
from assets.production import law, produce
from assets.resources import Factory
from ranking.prompts import load_template
from training.jobs import ModelRef, RlJob, SftJob, TrainJob, TrainResult, base_model, finished
from training.recipes import Recipe
from warehouse.curation.audits import AuditFailed, fit_for_training
from warehouse.curation.releases import export_rows, known_release
from warehouse.lake import Replace
from warehouse.ledger import WHOLE, Product, latest
from warehouse.models import left_out_rows, model_row, model_rows, newest_model
from warehouse.pages import pictures
from warehouse.pages.markdown import picture
from warehouse.production import Made, Shop, Step, own

# What a stage tells, those of the rewards' terms that its recipe has among them.
TERMS = ("ndcg", "recall", "rbo", "exact", "reciprocal_rank")
CURVES = ("loss", "dev_ndcg", "reward", *TERMS, "malformed_rate", "kl", "entropy")
DRAWN = (
    *CURVES,
    "groups_without_variance",
    "vllm_difference",
    "completion_tokens",
    "tokens_per_second",
    "padding",
    "memory_gb",
)


@dg.asset(
    check_specs=law("sft_model"),
    group_name="training",
    partitions_def=recipes,
    deps=["training_set"],
    kinds={"pytorch", "huggingface"},
    pool="accelerator",
)
def sft_model(
    context: dg.AssetExecutionContext, factory: Factory, pipes: dg.ResourceParam[Place]
) -> Iterator[dg.MaterializeResult]:
    """The base model after supervised fine-tuning on teacher chains and orders (METHOD section 3)."""
    recipe = factory.settings.recipe(context.partition_key)
    start = base_model(recipe)

    def work(shop: Shop) -> dict[str, Made]:
        if "sft" not in recipe.stages:
            return {"sft_model": _no_stage("the recipe's objective is none: reinforcement starts from the base model")}
        job = SftJob(rows=_rows(shop, factory), model=start, **_common(shop, factory, recipe))
        return {"sft_model": _train(context, pipes, job, factory.settings.home)}

    settings = {**_identity(factory, recipe, SftJob), "model": start.sha256}
    reads = [("training_set", own(WHOLE))]
    yield from produce(context, factory, Step(("sft_model",), context.partition_key, settings, work, reads))


@dg.asset(
    check_specs=law("rl_model"),
    group_name="training",
    partitions_def=recipes,
    deps=["training_set", "sft_model"],
    kinds={"pytorch", "huggingface"},
    pool="accelerator",
)
def rl_model(
    context: dg.AssetExecutionContext, factory: Factory, pipes: dg.ResourceParam[Place]
) -> Iterator[dg.MaterializeResult]:
    """The SFT model after GRPO with the multi-view ranking reward (METHOD section 4)."""
    recipe = factory.settings.recipe(context.partition_key)

    def work(shop: Shop) -> dict[str, Made]:
        if "rl" not in recipe.stages:
            return {"rl_model": _no_stage("the recipe's reward is none: it ends with the supervised stage")}
        start = base_model(recipe)
        if "sft" in recipe.stages:
            parent = newest_model(shop.lake, context.partition_key, "sft")
            start = ModelRef(path=str(factory.settings.home / parent["path"]), sha256=parent["weights_sha256"])
        job = RlJob(rows=_rows(shop, factory), model=start, **_common(shop, factory, recipe))
        return {"rl_model": _train(context, pipes, job, factory.settings.home)}

    reads = [("training_set", own(WHOLE)), ("sft_model", own(context.partition_key))]
    settings = _identity(factory, recipe, RlJob)
    if "sft" not in recipe.stages:
        settings["model"] = base_model(recipe).sha256
    yield from produce(context, factory, Step(("rl_model",), context.partition_key, settings, work, reads))


def _identity(factory: Factory, recipe: Recipe, stage: type[TrainJob]) -> dict[str, Any]:
    """What shapes a checkpoint beside the weights and rows it starts from."""
    profile = factory.settings.profile
    template = load_template(recipe.contract.template).sha256
    shaped_by = {"recipe": recipe.sha256_of(*stage.reads(recipe)), "template": template, "seed": profile.seed}
    shaped_by |= profile.training.shaping(stage.kind)
    chosen = factory.settings.release
    return shaped_by if chosen is None else {**shaped_by, "release": known_release(factory.lake, chosen)}


def _common(shop: Shop, factory: Factory, recipe: Recipe) -> dict[str, Any]:
    settings = factory.settings
    running = settings.profile.training
    return {
        "recipe": recipe,
        "release": _release(shop, factory),
        "output": settings.models / recipe.name,
        "cache": settings.models / "base",
        "seed": settings.profile.seed,
        **{name: getattr(running, name) for name in type(running).model_fields},
    }


def _release(shop: Shop, factory: Factory) -> str:
    """The release to train on; what failed its audit is never trained on, whoever asks."""
    chosen = factory.settings.release
    made = latest(shop.lake, "training_set")
    assert made is not None  # produce has looked it up
    name = str(made.figures["release"]) if chosen is None else known_release(shop.lake, chosen)
    try:
        return fit_for_training(shop.lake, name)
    except AuditFailed as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _rows(shop: Shop, factory: Factory) -> Path:
    return export_rows(shop.lake, _release(shop, factory), factory.releases)


def _no_stage(why: str) -> Made:
    """What an asset makes for a recipe that has not its stage: nothing, and it says so."""
    product = Product((), "", 0, 0, figures={"no_stage": why})
    return Made(product, None, {}, {})


def _train(context: dg.AssetExecutionContext, pipes: Place, job: SftJob | RlJob, home: Path) -> Made:
    with curve_of_failure(job):
        run_jobs(context, pipes, job)
    result = finished(job)
    assert result is not None  # run_jobs has seen to it
    row = model_row(result.model_dump(mode="json"), recipe=job.recipe.name, path=str(job.folder.relative_to(home)))
    where = {"model": row["model"]}
    asset = f"{job.stage}_model"
    dropped = left_out_rows(asset, [(row.row_id, row.reason) for row in result.rows_left_out])
    product = Product(
        (
            Replace("models", pl.DataFrame([row]), where),
            Replace("model_rows", model_rows(row["model"], result.rows_seen), where),
        ),
        result.weights_sha256,
        result.rows_used + dropped.height,
        result.rows_used,
        dropped,
        _figures(result),
    )
    plot = pictures.curves([dict(entry) for entry in result.history], DRAWN)
    return Made(product, None, {"curves": plot}, {"checkpoint": str(job.folder)})


@contextmanager
def curve_of_failure(job: SftJob | RlJob) -> Iterator[None]:
    """Give the failure of a stage the curve that the stage left behind, where it has come so far."""
    job.curve.unlink(missing_ok=True)  # of an earlier process
    try:
        yield
    except dg.Failure as failure:
        if not job.curve.is_file():
            raise
        plot = pictures.curves(json.loads(job.curve.read_bytes()), DRAWN)
        drawn = {"curves": dg.MetadataValue.md(picture("curves", plot))}
        raise dg.Failure(failure.description, {**failure.metadata, **drawn}, failure.allow_retries) from None


def _figures(result: TrainResult) -> dict[str, Any]:
    last = result.history[-1] if result.history else {}
    return {
        "release": result.release,
        "weights_sha256": result.weights_sha256,
        "steps": result.steps,
        **({} if result.chosen_step is None else {"chosen_step": result.chosen_step, "dev_ndcg": result.dev_ndcg}),
        "trained_tokens": result.tokens,
        "shortened": result.shortened.words(),
        "process_seconds": round(result.seconds, 1),
        "processor_minutes": round(result.processor_seconds / 60, 2),
        **{f"last_{name}": last[name] for name in CURVES if name in last},
    }
