"""What it is worth: first stage, base, SFT and RL side by side on held-out queries."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl

from assets import rerankings
from assets.partitions import recipes
from assets.places import Place
from assets.processes import run_jobs
from assets.production import law, produce
from assets.resources import Factory
from assets.tags import unattended
from flows.nights import night_at
from inference.budget import BudgetExceeded
from ranking.prompts import load_template
from rankmill.settings import ROOT
from training.jobs import RerankJob, base_model, finished
from warehouse import evaluation, promotion
from warehouse import leaderboard as boards
from warehouse.benchmarks.boards import Board, boards_of, shown_sha256
from warehouse.benchmarks.registry import registered
from warehouse.fusing import folds_of, may_be_chosen
from warehouse.intake.sources import ALL_DOMAINS
from warehouse.lake import Append, Replace, canonical_sha256, content_sha256
from warehouse.ledger import WHOLE, Materialization, Product, book, latest, rejected
from warehouse.pages import leaderboard as pages
from warehouse.pages.extremes import Texts
from warehouse.pages.reports import write_report
from warehouse.production import Made, Shop, Step, own

INPUTS = ("queries", "passages", "human_judgements", "candidates")
# Every recipe is measured in every domain; told nothing, Dagster looks for a domain of the recipe's name.
EVERY_DOMAIN = [dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping()) for asset in INPUTS]


@dg.asset(
    check_specs=law("benchmark_runs"),
    group_name="evaluation",
    partitions_def=recipes,
    deps=[*EVERY_DOMAIN, "sft_model", "rl_model"],
    kinds={"pytorch", "huggingface"},
    pool="accelerator",
)
def benchmark_runs(
    context: dg.AssetExecutionContext, factory: Factory, pipes: dg.ResourceParam[Place]
) -> Iterator[dg.MaterializeResult]:
    """Rerankings of the held-out queries by base, SFT and RL, fused ones too, and the first stage beside them."""
    name, chosen = context.partition_key, factory.settings.profile.evaluation
    recipe = factory.settings.recipe(name)
    asks = chosen.teacher and unattended(context.run.tags)
    left = factory.allowance(night_at(datetime.now(UTC))) if asks else None

    def work(shop: Shop) -> dict[str, Made]:
        qrels = _judged_by_people(shop)
        asked = shop.read_active("queries")
        queries = evaluation.held_out(asked, qrels, chosen.queries_per_domain, chosen.seed)
        if queries.is_empty():
            raise dg.Failure(
                "no active source has a judged query of the split dev or test, so there is nothing to evaluate on. "
                "Give some queries that split and materialize the sources again.",
                allow_retries=False,
            )
        fusion = rerankings.fusion(recipe)
        spare = evaluation.spare(asked, qrels, queries, chosen.queries_per_domain, chosen.seed)
        folds = folds_of(queries, spare, chosen.seed)
        may_be_chosen(folds, fusion)
        every = pl.concat([queries, spare])
        candidates, passages = shop.read_active("candidates"), shop.read_active("passages")
        lists = [evaluation.candidate_texts(some, candidates, passages) for some in (queries, spare)]
        jobs = rerankings.jobs(shop, factory, recipe, *lists)
        apart = f", and apart from them {spare.height} that choose the champion" if spare.height else ""
        context.log.info(f"{queries.height} queries are reranked for the leaderboard{apart}")
        run_jobs(context, pipes, *(job for theirs, _ in jobs.values() for job in theirs))
        reranked = {stage: rerankings.reranked(theirs, model) for stage, (theirs, model) in jobs.items()}
        taken: dict[str, float] = {}
        if chosen.teacher:
            shown = lists if rerankings.chooses_weight(recipe) and spare.height else lists[:1]
            teacher = rerankings.by_teacher(factory, recipe, shown, left, context.log.info)
            reranked[evaluation.TEACHER], taken = teacher.reranked, teacher.figures
        judged = qrels.join(every, on=["domain", "qid"], how="semi")
        how = rerankings.settings(recipe, candidates["retriever"][0])
        made = evaluation.collect(name, how, pl.concat(lists), reranked, judged, folds, fusion)
        faulty = int(made.calls["fault"].is_not_null().sum())
        too_long = [
            (f"{stage}/{row.row_id}", "not_reranked", f"{row.reason}; it keeps the first stage's order")
            for stage, (theirs, _) in jobs.items()
            for job in theirs
            if (result := finished(job))
            for row in result.rows_left_out
        ]
        product = Product(
            tuple(Replace(table, rows, {"recipe": name}) for table, rows in made.tables.items()),
            made.sha256,
            queries.height,
            queries.height,
            rejected("reranking", too_long),
            {
                "not_reranked": len(too_long),
                **taken,
                "splits": dict(queries.select("domain", "split").unique().sort("domain").iter_rows()),
                "calls": made.calls.height,
                "malformed_rate": faulty / max(1, made.calls.height),
                "settings": rerankings.told(recipe, how, made.weights),
            },
        )
        return {"benchmark_runs": Made(product, made.calls.select("stage", "domain", "qid", "fault", "completion"))}

    active = factory.active_domains()
    reads = [*((asset, active) for asset in INPUTS), ("sft_model", own(name)), ("rl_model", own(name))]
    identity = {
        "recipe": recipe.sha256_of(*RerankJob.seams, "fusion"),
        "base": base_model(recipe).sha256,
        "dtype": recipe.model.inference_dtype,
        "template": load_template(recipe.contract.template).sha256,
        "queries": chosen.queries_per_domain,
        "seed": chosen.seed,
        "probe_positions": chosen.probe_positions,
        "think_twins": chosen.think_twins,
        "rows": 4,
        **({"teacher": factory.settings.profile.teacher.model} if chosen.teacher else {}),
    }
    try:
        yield from produce(context, factory, Step(("benchmark_runs",), name, identity, work, reads))
    except BudgetExceeded as stopped:
        limit = factory.settings.profile.teacher.budget_usd
        if left is None or (limit is not None and limit <= left.cap_usd):
            raise
        raise dg.Failure(f"benchmark_runs {name}: {left.words}", allow_retries=False) from stopped


@dg.asset(
    check_specs=law("leaderboard"), group_name="evaluation", deps=["benchmark_runs"], kinds={"duckdb", "html"},
    pool="lake",
)  # fmt: skip
def leaderboard(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """Every recipe and stage beside the first stage, with intervals and costs; nothing is selected."""
    chosen = factory.settings.profile.evaluation
    made = {name: row for name in factory.settings.recipes() if (row := latest(factory.lake, "benchmark_runs", name))}
    if not made:
        raise dg.Failure(
            "no recipe was evaluated yet. Materialize benchmark_runs of a recipe first.", allow_retries=False
        )

    def work(shop: Shop) -> dict[str, Made]:
        splits = {domain: split for row in made.values() for domain, split in row.figures["splits"].items()}
        notes = {name: json.dumps(row.figures["settings"]) for name, row in made.items()}
        runs, qrels, models = _runs(shop, made), _judged_by_people(shop), shop.read("models")
        board = boards.leaderboard(runs, qrels, splits, models, chosen.resamples, chosen.seed).with_columns(
            settings=pl.col("recipe").replace_strict(notes)
        )
        path = _write_page(shop, factory, board, made, promotion.standing(shop.read("promotions")).champion)
        rows = boards.with_measures(board)
        overall = {f"ndcg10_{r['recipe']}_{r['stage']}": r["value"] for r in rows if r["domain"] == ALL_DOMAINS}
        digest = content_sha256(board.drop(boards.TIMINGS), ["recipe", "domain", "stage"])
        product = Product((Replace("leaderboard", board),), digest, board.height, board.height, figures=overall)
        shown = pl.DataFrame([{name: row[name] for name in pages.SHOWN} for row in rows])
        overall_first = shown.sort(pl.col("domain") != ALL_DOMAINS, maintain_order=True)
        drawn = {"leaderboard_bars": pages.picture(board)}
        return {"leaderboard": Made(product, overall_first, drawn, {"report": str(path)}, preview_rows=40)}

    settings = {
        "resamples": chosen.resamples, "seed": chosen.seed, "page": 12,
        "benchmarks": shown_sha256(_benchmarks(factory.lake.read("benchmark_scores"))),
    }  # fmt: skip
    reads = [("benchmark_runs", list(made))]
    yield from produce(context, factory, Step(("leaderboard",), WHOLE, settings, work, reads))


@dg.asset(
    check_specs=law("champion"), group_name="evaluation", deps=["benchmark_runs", "leaderboard"], kinds={"duckdb"},
    pool="lake",
)  # fmt: skip
def champion(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """The model to use: a new one takes the place where it beats the champion, else it stays a challenger, and why."""
    profile, lake = factory.settings.profile, factory.lake
    ledger = book(lake)
    known = factory.settings.recipes()
    evaluated = {name: row for name in known if (row := ledger.get(("benchmark_runs", name)))}
    made = list(evaluated)

    def work(shop: Shop) -> dict[str, Made]:
        chosen = profile.evaluation
        judged = promotion.judge_new(lake, shop.snapshot, made, profile.promotion, chosen.resamples, chosen.seed)
        new, holder = judged.records, judged.champion or evaluation.FIRST_STAGE
        for one in new.iter_rows(named=True):
            context.log.info(f"{one['model']}: {one['decision']}, {one['reason']}")
        context.log.info(f"the champion is {holder}")
        # The page was written before anybody was judged.
        path = _write_page(shop, factory, shop.read("leaderboard"), evaluated, judged.champion)
        promoted = new.filter(pl.col("decision") == promotion.PROMOTED).height
        figures = {"champion": holder, "promoted": promoted, "challengers": new.height - promoted}
        product = Product(
            (Append("promotions", new),), canonical_sha256(["champion", holder]), new.height, new.height,
            figures=figures,
        )  # fmt: skip
        shown = new.select("model", "recipe", "stage", "decision", "against", "reason")
        return {"champion": Made(product, shown, links={"report": str(path)})}

    settings = {
        "promotion": profile.promotion.model_dump(),
        "resamples": profile.evaluation.resamples,
        "seed": profile.evaluation.seed,
        # What a person decides changes who is champion, though nothing new is judged.
        "decided": promotion.decided_by_people(lake.read("promotions")),
        "benchmarks": shown_sha256(_benchmarks(lake.read("benchmark_scores"))),
    }
    reads = [("benchmark_runs", made), ("leaderboard", (WHOLE,))]
    yield from produce(context, factory, Step(("champion",), WHOLE, settings, work, reads))


def _judged_by_people(shop: Shop) -> pl.DataFrame:
    people = shop.read_active("judgements").filter(pl.col("origin") == "human")
    return people.select("domain", "qid", "docid", "grade")


def _benchmarks(scores: pl.DataFrame) -> list[Board]:
    """What `rankmill benchmark` measured in this home, beside what was published: the page shows it, too."""
    return boards_of(scores, registered(ROOT / "benchmarks")) if scores.height else []


def _cards(home: Path, models: pl.DataFrame, board: pl.DataFrame) -> dict[str, str]:
    """The README.md of the checkpoints on a board, by model; one that lies here no more has none."""
    shown = models.join(board.select("model").unique(), on="model", how="semi").select("model", "path")
    files = {model: home / path / "README.md" for model, path in shown.iter_rows()}
    return {model: file.read_text("utf-8") for model, file in files.items() if file.is_file()}


def _runs(shop: Shop, recipes: Iterable[str]) -> evaluation.Runs:
    """What was measured of `recipes`."""
    current = pl.col("recipe").is_in(list(recipes))
    return evaluation.Runs(*(shop.read(table).filter(current) for table in evaluation.TABLES))


def _write_page(
    shop: Shop, factory: Factory, board: pl.DataFrame, made: Mapping[str, Materialization], champion: str | None
) -> Path:
    """leaderboard.html, of a board and of the runs of `made` (ledger rows by recipe)."""
    texts = Texts(
        shop.read_active("queries", ["domain", "qid", "text"]),
        shop.read_active("passages", ["domain", "docid", "title", "text"]),
        _judged_by_people(shop),
    )
    judges = shop.read_active("rankings", ["domain", "judge"])["judge"].unique().to_list()
    notes = {name: row.figures["settings"] for name, row in made.items()}
    beside, models = _benchmarks(shop.read("benchmark_scores")), shop.read("models")
    cards = _cards(factory.settings.home, models, board)
    resamples = factory.settings.profile.evaluation.resamples
    values = pages.page_values(
        board, _runs(shop, made), texts, models, notes, judges, champion, beside, cards, resamples
    )
    return write_report(factory.settings.reports / "leaderboard.html", "leaderboard.html.j2", values)
