"""From labels to a release: the self-consistency filter, the training set, reports of both, and its card."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.partitions import domains
from assets.production import law, produce
from assets.resources import Factory
from warehouse.audit import suites
from warehouse.curation.contamination import Contaminated, never_train_on
from warehouse.curation.curate import curate
from warehouse.curation.releases import release_figures, release_writes
from warehouse.curation.retracted import retractions_in
from warehouse.curation.rows import lists_at
from warehouse.curation.self_consistency import consistency_step
from warehouse.lake import canonical_sha256
from warehouse.ledger import WHOLE, Product, book
from warehouse.pages.beside import write_beside
from warehouse.pages.campaigns import campaign_values
from warehouse.pages.facts import Facts, facts_of
from warehouse.pages.quality import quality_values
from warehouse.pages.reports import write_report
from warehouse.production import CODE_VERSION, Made, Shop, Step, own


@dg.asset(
    check_specs=law("consistent_rankings"),
    group_name="curation",
    partitions_def=domains,
    deps=["teacher_rankings"],
    kinds={"duckdb", "polars"},
    pool="lake",
)
def consistent_rankings(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """Teacher rankings that agree with the judgements that count (NDCG@10 >= alpha)."""
    step = consistency_step(context.partition_key, factory.settings.profile.alpha)
    yield from produce(context, factory, step)


@dg.asset(
    check_specs=law("campaign_report"),
    group_name="curation",
    deps=["mined_judgements", "teacher_rankings", "consistent_rankings"],
    kinds={"html"},
    pool="lake",
)
def campaign_report(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """What labelling cost, how long answers took, why some were rejected, and the teacher's position bias."""
    alpha, active = factory.settings.profile.alpha, factory.active_domains()

    def work(shop: Shop) -> dict[str, Made]:
        values = campaign_values(shop.lake, active, alpha)
        path = write_report(factory.settings.reports / "campaign.html", "campaign.html.j2", {**values, "planned": []})
        rows = values["calls"]
        figures = {name: values[name] for name in ("calls", "tokens", "usd", "accepted", "repairs", "asked_again")}
        product = Product((), canonical_sha256(figures), rows, rows, figures=figures)
        return {"campaign_report": Made(product, links={"report": str(path)})}

    reads = [(asset, active) for asset in ("mined_judgements", "teacher_rankings", "consistent_rankings")]
    settings = {"alpha": alpha, "page": 1}
    yield from produce(context, factory, Step(("campaign_report",), WHOLE, settings, work, reads))


@dg.asset(
    check_specs=law("training_set"),
    group_name="curation",
    deps=["queries", "passages", "teacher_rankings", "consistent_rankings", "benchmarks"],
    kinds={"duckdb", "polars"},
    pool="lake",
)
def training_set(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """All domains: deduplicated, decontaminated, split into sft, rl and dev, and released as an immutable version."""
    settings = factory.settings.profile.release
    active = factory.active_domains()
    if waiting := factory.never_labelled():
        context.log.warning(f"not in the release, since never labelled: {', '.join(waiting)}")

    def work(shop: Shop) -> dict[str, Made]:
        lists = lists_at(shop.lake, active, shop.snapshot)
        never = never_train_on(shop.read("benchmarks"), shop.read_active("queries"))
        try:
            made = curate(lists, never, settings, shop.read("retractions"))
        except Contaminated as stopped:
            raise _blocked(stopped, factory.settings.reports / "contamination.csv") from None
        release, writes = release_writes(
            shop.lake,
            made,
            domains=active,
            read_snapshot=shop.snapshot,
            settings=settings.model_dump(mode="json"),
            code_version=CODE_VERSION,
        )
        figures = {"release": release, **release_figures(made)}
        product = Product(tuple(writes), release, lists.rows.height, made.rows.height, made.rejections(), figures)
        return {"training_set": Made(product, made.rows.select("domain", "qid", "split", "query", "reasoning"))}

    read = ("queries", "passages", "teacher_rankings", "consistent_rankings")
    reads = [*((asset, active) for asset in read), ("benchmarks", own(WHOLE))]
    shaped_by = {**settings.model_dump(mode="json"), **retractions_in(factory.lake)}
    yield from produce(context, factory, Step(("training_set",), WHOLE, shaped_by, work, reads))


@dg.asset(
    check_specs=law("data_quality_report"), group_name="curation", deps=["training_set"], kinds={"html"}, pool="lake"
)
def data_quality_report(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """The page that an auditor reads first: funnel, consistency, rejections with examples, overlap, cost."""
    profile = factory.settings.profile

    def work(shop: Shop) -> dict[str, Made]:
        known = facts_of(shop.lake, factory.active_domains())
        values = quality_values(known, profile.labels.judged_by, profile.alpha, profile.drift)
        path = write_report(factory.settings.reports / "data_quality.html", "data_quality.html.j2", values)
        return {"data_quality_report": Made(_of_release(known), links={"report": str(path)})}

    settings = {
        "drift": profile.drift.model_dump(),
        "ledger": _ledger_sha256(factory),
        "quality": suites.newest_states(factory.lake),
        "page": 5,
        **retractions_in(factory.lake),
    }
    reads = [("training_set", own(WHOLE))]
    yield from produce(context, factory, Step(("data_quality_report",), WHOLE, settings, work, reads))


@dg.asset(
    check_specs=law("dataset_card"), group_name="curation", deps=["training_set"], kinds={"markdown"}, pool="lake"
)
def dataset_card(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """What travels with a release: its card for people, Croissant for loaders, an OpenLineage event for catalogs."""

    def work(shop: Shop) -> dict[str, Made]:
        known = facts_of(shop.lake, factory.active_domains())
        files = write_beside(known, factory.releases, factory.teacher_identity())
        return {"dataset_card": Made(_of_release(known), links={name: str(path) for name, path in files.items()})}

    settings = {
        "teacher": factory.teacher_identity(),
        "ledger": _ledger_sha256(factory),
        "quality": suites.newest_states(factory.lake),
        "page": 4,
        **retractions_in(factory.lake),
    }
    reads = [("training_set", own(WHOLE))]
    yield from produce(context, factory, Step(("dataset_card",), WHOLE, settings, work, reads))


def _blocked(stopped: Contaminated, path: Path) -> dg.Failure:
    """A release that the policy stops, with a file that names every list and benchmark item."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stopped.overlaps.write_csv(path)
    return dg.Failure(description=f"{stopped} All of them stand in {path}.", allow_retries=False)


def _of_release(known: Facts) -> Product:
    """The product of an asset that tells of a release and adds no row."""
    return Product((), known.name, known.rows.height, known.rows.height, figures={"release": known.name})


def _ledger_sha256(factory: Factory) -> str:
    """The hash of all that a report shows beside the release: how every step before it was made."""
    shown = [*factory.active_domains(), WHOLE]
    steps = ("queries", "candidates", "mined_judgements", "teacher_rankings", "consistent_rankings", "benchmarks")
    made = [row for (asset, key), row in book(factory.lake).items() if asset in steps and key in shown]
    return canonical_sha256(sorted([row.asset, row.partition_key, row.input_sha256, row.created_at] for row in made))
