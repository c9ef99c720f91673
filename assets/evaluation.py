"""What it is worth: first stage, base, SFT and RL side by side on held-out queries."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.partitions import recipes
from assets.production import Made, Shop, law, own, produce
from assets.resources import Factory
from assets.training import WITHOUT_KEY
from training.jobs import ModelRef, RerankJob, base_model, command, finished
from warehouse import pictures
from warehouse.evaluation import (
    ALL_DOMAINS,
    STAGES,
    candidate_texts,
    held_out,
    page_rows,
    score,
)
from warehouse.evaluation import (
    leaderboard as board_of,
)
from warehouse.lake import Replace, canonical_sha256, content_sha256
from warehouse.ledger import Product, latest
from warehouse.models import newest_model
from warehouse.reports import data_uri, write_report

INPUTS = ("queries", "passages", "human_judgements", "candidates")
RUN_COLUMNS = ("domain", "qid", "docid", "rank", "score")
CALL_COLUMNS = ("domain", "qid", "docids", "completion", "fault", "prompt_tokens", "completion_tokens", "seconds")


@dg.asset(
    check_specs=law("benchmark_runs"),
    group_name="evaluation",
    partitions_def=recipes,
    deps=[*INPUTS, "sft_model", "rl_model"],
    kinds={"pytorch", "huggingface"},
    pool="accelerator",
)
def benchmark_runs(
    context: dg.AssetExecutionContext, factory: Factory, pipes: dg.PipesSubprocessClient
) -> Iterator[dg.MaterializeResult]:
    """Sliding-window rerankings of the held-out queries by base, SFT and RL, and the first stage beside them."""
    settings, name = factory.settings, context.partition_key
    recipe, evaluation = settings.recipe(name), settings.profile.evaluation

    def work(shop: Shop) -> dict[str, Made]:
        qrels = (
            shop.read_active("judgements").filter(pl.col("origin") == "human").select("domain", "qid", "docid", "grade")
        )
        queries = held_out(shop.read_active("queries"), qrels, evaluation.queries_per_domain, evaluation.seed)
        first = candidate_texts(queries, shop.read_active("candidates"), shop.read_active("passages"))
        path, digest = _keep(first, settings.home / "work")
        jobs = {
            stage: RerankJob(
                recipe=recipe,
                release=release,
                model=model,
                candidates=path,
                candidates_sha256=digest,
                student=stage,
                output=settings.models / name,
                cache=settings.models / "base",
                seed=settings.profile.seed,
            )
            for stage, model, release in _students(shop, name, recipe)
        }
        waiting = [job for job in jobs.values() if finished(job) is None]
        if waiting:
            pipes.run(command=command(*waiting), context=context, env=WITHOUT_KEY)
        runs = [
            first.select(*RUN_COLUMNS, run=pl.lit(f"bm25-{digest[:12]}"), stage=pl.lit("bm25"), model=pl.lit("bm25"))
        ]
        calls = []
        for stage, job in jobs.items():
            if finished(job) is None:
                raise dg.Failure(
                    f"reranking by {stage} ended without a result in {job.folder}. Its output stands in this run's log; "
                    "mend the cause and materialize benchmark_runs again: finished work is kept."
                )
            about = {"run": job.folder.name, "stage": stage, "model": _model_id(shop, name, stage, job.model)}
            literals = {key: pl.lit(value) for key, value in about.items()}
            runs.append(pl.read_parquet(job.folder / "run.parquet").select(*RUN_COLUMNS, **literals))
            calls.append(
                pl.read_parquet(job.folder / "calls.parquet").select(
                    *CALL_COLUMNS, prompt_sha256="prompt_hash", **literals
                )
            )
        wanted = qrels.join(queries, on=["domain", "qid"], how="semi")
        scored = [
            score(run, wanted).with_columns(
                run=pl.lit(run["run"][0]), stage=pl.lit(run["stage"][0]), model=pl.lit(run["model"][0])
            )
            for run in runs
        ]
        this = {"recipe": name}
        run_rows, call_rows, scores = (
            pl.concat(frames, how="vertical_relaxed").with_columns(recipe=pl.lit(name))
            for frames in (runs, calls, scored)
        )
        scores = scores.with_columns(fused=pl.lit(False))
        faults = call_rows["fault"].is_not_null().sum()
        product = Product(
            (
                Replace("rerank_runs", run_rows, this),
                Replace("rerank_calls", call_rows, this),
                Replace("scores", scores, this),
            ),
            content_sha256(scores, ["stage", "domain", "qid", "measure"]),
            queries.height,
            queries.height,
            figures={
                "calls": call_rows.height,
                "malformed_rate": faults / max(1, call_rows.height),
                "candidates_sha256": digest,
                "settings": _settings(recipe),
            },
        )
        return {"benchmark_runs": Made(product, call_rows.select("stage", "domain", "qid", "fault", "completion"))}

    active = factory.active_domains()
    reads = [*((asset, active) for asset in INPUTS), ("sft_model", own(name)), ("rl_model", own(name))]
    identity = {
        "recipe": recipe.sha256_of(*RerankJob.seams),
        "base": base_model(recipe).sha256,
        "queries": evaluation.queries_per_domain,
        "seed": evaluation.seed,
    }
    yield from produce(context, factory, reads=reads, settings=identity, work=work)


@dg.asset(check_specs=law("leaderboard"), group_name="evaluation", deps=["benchmark_runs"], kinds={"duckdb", "html"})
def leaderboard(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """Every recipe and stage beside the first stage, with intervals and costs; nothing is selected."""
    evaluation = factory.settings.profile.evaluation
    made = [name for name in factory.settings.recipes() if latest(factory.lake, "benchmark_runs", name)]

    def work(shop: Shop) -> dict[str, Made]:
        current = pl.col("recipe").is_in(made)
        scores, calls = shop.read("scores").filter(current), shop.read("rerank_calls").filter(current)
        models = shop.read("models")
        board = board_of(
            scores,
            calls,
            shop.read_active("queries").filter(pl.col("split") != "train"),
            models,
            evaluation.resamples,
            evaluation.seed,
        )
        notes = {
            name: (latest(shop.lake, "benchmark_runs", name) or shop.inputs[0]).figures["settings"] for name in made
        }
        board = board.with_columns(
            settings=pl.col("recipe").replace_strict({n: json.dumps(s) for n, s in notes.items()})
        )
        rows = page_rows(board)
        bars = pictures.leaderboard_bars([row for row in rows if row["recipe"] == made[0]])
        path = write_report(
            factory.settings.reports / "leaderboard.html",
            "leaderboard.html.j2",
            {
                "rows": rows,
                "picture": data_uri(bars),
                "settings": [f"{n}: {_prose(s)}" for n, s in notes.items()],
                "models": _model_cards(models, board),
                "calls": _examples(calls),
            },
        )
        product = Product(
            (Replace("leaderboard", board),),
            content_sha256(board.drop("seconds_per_query"), ["recipe", "domain", "stage"]),
            board.height,
            board.height,
            figures={
                f"ndcg10_{row['stage']}": row["value"]
                for row in rows
                if row["domain"] == ALL_DOMAINS and row["recipe"] == made[0]
            },
        )
        shown = pl.DataFrame(
            [
                {k: row[k] for k in ("recipe", "domain", "stage", "queries", "value", "low", "high", "malformed_rate")}
                for row in rows
            ]
        )
        return {"leaderboard": Made(product, shown, {"leaderboard_bars": bars}, {"report": str(path)})}

    if not made:
        raise dg.Failure(
            "no recipe was evaluated yet. Materialize benchmark_runs of a recipe first.", allow_retries=False
        )
    settings = {"resamples": evaluation.resamples, "seed": evaluation.seed, "page": 1}
    yield from produce(context, factory, reads=[("benchmark_runs", made)], settings=settings, work=work)


def _students(shop: Shop, recipe_name: str, recipe: Any) -> Iterator[tuple[str, ModelRef, str]]:
    yield "base", base_model(recipe), ""
    for stage in ("sft", "rl"):
        row = newest_model(shop.lake, recipe_name, stage)
        yield stage, ModelRef(path=row["path"], sha256=row["weights_sha256"]), row["release"]


def _model_id(shop: Shop, recipe: str, stage: str, model: ModelRef) -> str:
    return model.sha256 if stage == "base" else str(newest_model(shop.lake, recipe, stage)["model"])


def _keep(first: pl.DataFrame, folder: Path) -> tuple[Path, str]:
    digest = content_sha256(first, ["domain", "qid", "rank"])
    path = folder / f"candidates-{digest[:12]}.parquet"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        first.write_parquet(part)
        part.replace(path)
    return path, digest


def _settings(recipe: Any) -> dict[str, Any]:
    return {
        "first_stage": "bm25(k1=0.9,b=0.4) over title and text",
        "query_retrieved": "text",
        "query_reranked": "text",
        "decoding": recipe.decoding.model_dump(),
        "fusion": recipe.fusion.name,
        "repeats": 1,
        "temperature": 0,
        "template": recipe.contract.template,
        "think": recipe.contract.think,
        "passage_tokens": recipe.decoding.passage_tokens or recipe.units.passage_tokens,
        "recipe_sha256": canonical_sha256(recipe.model_dump(mode="json")),
    }


def _prose(settings: dict[str, Any]) -> str:
    decoding = settings["decoding"]
    return (
        f"{settings['first_stage']}; sliding windows of {decoding['window']} by {decoding['step']} over the top "
        f"{decoding['top']}, passages cut to {settings['passage_tokens']} tokens, greedy, at most "
        f"{decoding['max_new_tokens']} new tokens; fusion {settings['fusion']}; prompt template "
        f"{settings['template']}; a malformed answer keeps the window's order for what is missing and is counted."
    )


def _model_cards(models: pl.DataFrame, board: pl.DataFrame) -> list[dict[str, Any]]:
    shown = models.filter(pl.col("model").is_in(board["model"].unique().to_list())).sort("recipe", "created_at")
    cards = []
    for row in shown.iter_rows(named=True):
        history = json.loads(row["history"])
        names = ("loss", "reward", "malformed_rate")
        cards.append({**row, "picture": data_uri(pictures.curves(history, names)) if history else ""})
    return cards


def _examples(calls: pl.DataFrame) -> list[dict[str, Any]]:
    ordered = calls.sort("domain", "qid", "prompt_sha256")
    return [
        row
        for stage in STAGES
        for row in ordered.filter(pl.col("stage") == stage)
        .group_by("domain", maintain_order=True)
        .head(1)
        .iter_rows(named=True)
    ]
