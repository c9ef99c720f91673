"""What comes in: queries, passages and people's judgements of each domain, and benchmarks, never to be trained on."""

from collections.abc import Iterator

import dagster as dg
import polars as pl

from assets.partitions import domains
from assets.production import Made, Shop, law, produce
from assets.resources import Factory
from rankmill.settings import ROOT
from warehouse.benchmarks import read_benchmarks
from warehouse.lake import Replace, content_sha256
from warehouse.ledger import Product
from warehouse.sources import read_source

TABLES = {
    "queries": ("queries", ["qid"]),
    "passages": ("passages", ["docid"]),
    "human_judgements": ("judgements", ["qid", "docid"]),
}


@dg.multi_asset(
    name="source",
    group_name="sources",
    partitions_def=domains,
    specs=[
        dg.AssetSpec("queries", description="Queries of a domain, checked at the door.", kinds={"duckdb", "polars"}),
        dg.AssetSpec("passages", description="The pool that a domain's queries search.", kinds={"duckdb", "polars"}),
        dg.AssetSpec("human_judgements", description="People's graded judgements (qrels).", kinds={"duckdb", "polars"}),
    ],
    check_specs=[spec for asset in TABLES for spec in law(asset)],
)
def source(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """One domain's folder, package or hub data set, read once and checked at the door."""
    active = factory.active(context.partition_key)
    origin = active.source()
    settings = {"fingerprint": origin.fingerprint(), "limit": active.limit, "seed": factory.settings.profile.seed}

    def work(_: object) -> dict[str, Made]:
        tables = read_source(origin, active.limit, factory.settings.profile.seed)
        frames = {
            "queries": tables.queries,
            "passages": tables.passages,
            "human_judgements": tables.judgements.with_columns(role=pl.lit("qrels"), judge=pl.lit("people")),
        }
        counts = tables.notes["counts"]
        made = {}
        for asset, frame in frames.items():
            table, keys = TABLES[asset]
            where = {"domain": active.domain} | ({"origin": "human"} if table == "judgements" else {})
            dropped = tables.rejections.filter(pl.col("stage") == table).with_columns(stage=pl.lit(asset))
            product = Product(
                (Replace(table, frame, where),),
                content_sha256(frame, keys),
                counts[table]["in"] - counts[table].get("beyond_limit", 0),
                frame.height,
                dropped,
                {"notes": tables.notes},
            )
            made[asset] = Made(product, frame.drop("domain"))
        return made

    yield from produce(context, factory, reads=(), settings=settings, work=work)


@dg.asset(check_specs=law("benchmarks"), group_name="sources", kinds={"duckdb"})
def benchmarks(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """Queries of every registered benchmark: what no training row may overlap."""
    folders = sorted((ROOT / "benchmarks").glob("*.yaml"))
    found = read_benchmarks(folders, factory.registry.benchmarks(), factory.settings.profile.hub)

    def work(shop: Shop) -> dict[str, Made]:
        # A benchmark that is out of reach today was still a benchmark yesterday.
        names = list(found.notes["benchmarks_not_read"])
        kept = [row for row in shop.read("benchmarks").iter_rows() if row[0].split("/")[0] in names]
        rows = pl.concat([found.items, pl.DataFrame(kept, schema=found.items.schema, orient="row")])
        digest = content_sha256(rows, ["benchmark", "qid"])
        product = Product((Replace("benchmarks", rows),), digest, rows.height, rows.height, figures=found.notes)
        return {"benchmarks": Made(product, rows)}

    yield from produce(context, factory, reads=(), settings={"content": found.sha256}, work=work)
