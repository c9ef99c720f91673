"""What comes in: queries, passages and people's judgements of each domain, and benchmarks, never to be trained on."""

from collections.abc import Iterator

import dagster as dg
import polars as pl

from assets.partitions import domains
from assets.production import law, produce
from assets.resources import Factory
from rankmill.settings import ROOT
from warehouse.intake.benchmarks import read_benchmarks
from warehouse.intake.steps import SOURCES, source_step
from warehouse.lake import Replace, content_sha256, opened
from warehouse.ledger import WHOLE, Product
from warehouse.production import Made, Shop, Step


@dg.multi_asset(
    name="source",
    group_name="sources",
    partitions_def=domains,
    pool="lake",
    specs=[
        dg.AssetSpec("queries", description="Queries of a domain, checked at the door.", kinds={"duckdb", "polars"}),
        dg.AssetSpec("passages", description="The pool that a domain's queries search.", kinds={"duckdb", "polars"}),
        dg.AssetSpec("human_judgements", description="People's graded judgements (qrels).", kinds={"duckdb", "polars"}),
    ],
    check_specs=[spec for asset in SOURCES for spec in law(asset)],
)
def source(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """One domain's folder, package or hub data set, read once and checked at the door."""
    step = source_step(factory.active(context.partition_key), factory.settings.profile.seed)
    yield from produce(context, factory, step)
    with opened(factory.lake) as lake:
        train = lake.read("queries", {"domain": context.partition_key, "split": "train"}, ["qid"]).height
    if not train:
        context.log.warning(
            f"{context.partition_key} has no query of the split `train`, so nothing of it is labelled or trained on; "
            "its dev or test queries are measured. Set `split` in its queries.jsonl."
        )


@dg.asset(check_specs=law("benchmarks"), group_name="sources", kinds={"duckdb"}, pool="lake")
def benchmarks(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """Queries of every registered benchmark, and the passages it brings: what no training row may overlap."""
    folders = sorted((ROOT / "benchmarks").glob("*.yaml"))
    found = read_benchmarks(folders, factory.registry.benchmarks(), factory.settings.profile.hub)

    def work(shop: Shop) -> dict[str, Made]:
        # A benchmark that is out of reach today was still a benchmark yesterday.
        names = list(found.notes["benchmarks_not_read"])
        known, whole = shop.read("benchmarks").select(found.items.columns), pl.col("benchmark")
        unread = whole.is_in(names) | whole.str.split("/").list.first().is_in(names)
        rows = pl.concat([found.items, known.filter(unread)])
        digest = content_sha256(rows, ["benchmark", "unit", "qid", "text"])
        product = Product((Replace("benchmarks", rows),), digest, rows.height, rows.height, figures=found.notes)
        return {"benchmarks": Made(product, rows)}

    yield from produce(context, factory, Step(("benchmarks",), WHOLE, {"content": found.sha256}, work))
