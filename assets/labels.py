"""Who says what is relevant, and in what order: candidates, mined judgements, teacher rankings."""

from collections.abc import Iterator

import dagster as dg
import polars as pl

from assets.partitions import domains
from assets.production import Made, Shop, law, own, produce
from assets.resources import Factory
from flows import labelling
from ranking.agreement import agreement
from ranking.prompts import load_template, titled
from ranking.retrieval import first_stage
from warehouse.lake import Replace, content_sha256
from warehouse.ledger import Product, rejected
from warehouse.source_tables import gold_passages

SOURCES = ("queries", "passages", "human_judgements")


@dg.asset(
    check_specs=law("candidates"),
    group_name="labels",
    partitions_def=domains,
    deps=["queries", "passages"],
    kinds={"duckdb", "polars"},
)
def candidates(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """First-stage candidates of every query: BM25 (k1 0.9, b 0.4, stems), best first, excluded_docids left out."""
    depth = factory.settings.profile.candidates

    def work(shop: Shop) -> dict[str, Made]:
        queries = shop.read_domain("queries").sort("qid")
        found = first_stage(queries, shop.read_domain("passages"), depth)
        rows = found.with_columns(domain=pl.lit(shop.partition_key))
        without = queries.join(found, on="qid", how="anti")["qid"]
        dropped = rejected("candidates", [(qid, "no_candidate", "no passage shares a word with it") for qid in without])
        product = Product(
            (Replace("candidates", rows, {"domain": shop.partition_key}),),
            content_sha256(rows, ["qid", "rank"]),
            queries.height,
            queries.height - dropped.height,
            dropped,
            {"candidates": rows.height, "candidates_per_query": rows.height / max(1, queries.height)},
        )
        return {"candidates": Made(product, rows.drop("domain"))}

    key = own(context.partition_key)
    reads = [("queries", key), ("passages", key)]
    yield from produce(context, factory, reads=reads, settings={"depth": depth}, work=work)


@dg.asset(
    check_specs=law("mined_judgements"),
    group_name="labels",
    partitions_def=domains,
    deps=[*SOURCES, "candidates"],
    kinds={"openai", "duckdb"},
    pool="teacher",
)
def mined_judgements(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """What the teacher, shown the gold answer, calls positive and hard negative; measured against people."""
    profile, domain = factory.settings.profile, context.partition_key
    judged_by = profile.labels.judged_by(domain)
    settings = {
        "teacher": factory.teacher_identity(),
        "labels": profile.labels.model_dump(),
        "judged_by": judged_by,
        "prompts": [load_template(purpose).sha256 for purpose in labelling.MINING],
    }

    def work(shop: Shop) -> dict[str, Made]:
        pools = [] if judged_by == "human" else _pools(shop)
        questions = labelling.mining_questions(pools, profile.labels, profile.teacher.sampling)
        bought = factory.label(f"mined_judgements {domain}", questions, domain, context.log.info)
        mined = labelling.read_mining(questions, bought.outcomes, domain, "mined_judgements")
        human = shop.read_domain("judgements").filter(pl.col("origin") == "human")
        shown = pl.DataFrame(
            [(pool.qid, docid) for pool in pools if pool.gold_answer for docid in pool.docids],
            schema={"qid": pl.String, "docid": pl.String},
            orient="row",
        )
        # A passage that is the gold answer itself was picked with the answer in view: it says nothing of the teacher.
        gold = gold_passages(shop.read_domain("queries"), shop.read_domain("passages"))
        lost = mined.rejections.filter(pl.col("stage") == "mined_judgements").height
        product = Product(
            (
                Replace("judgements", mined.rows, {"domain": domain, "origin": "teacher"}),
                *(
                    Replace(
                        "exchanges",
                        bought.exchanges.filter(pl.col("purpose") == purpose),
                        {"domain": domain, "purpose": purpose},
                    )
                    for purpose in labelling.MINING
                ),
            ),
            content_sha256(mined.rows, ["qid", "docid"]),
            len(questions),
            len(questions) - lost,
            mined.rejections,
            {
                **bought.figures,
                "positives": int((mined.rows["grade"] == 1).sum()),
                "hard_negatives": int((mined.rows["grade"] == 0).sum()),
                "gold_passages": gold.height,
                **agreement(mined.rows, human, shown.join(gold, on=["qid", "docid"], how="anti")),
            },
            complete=bought.unanswered == 0,
        )
        return {"mined_judgements": Made(product, mined.rows.drop("domain"))}

    key = own(domain)
    reads = [(asset, key) for asset in (*SOURCES, "candidates")]
    yield from produce(context, factory, reads=reads, settings=settings, work=work)


@dg.asset(
    check_specs=law("teacher_rankings"),
    group_name="labels",
    partitions_def=domains,
    deps=[*SOURCES, "candidates", "mined_judgements"],
    kinds={"openai", "duckdb"},
    pool="teacher",
)
def teacher_rankings(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """The teacher's order of each training list, with its chain; it never sees the gold answer here."""
    profile, domain = factory.settings.profile, context.partition_key
    judged_by = profile.labels.judged_by(domain)
    settings = {
        "teacher": factory.teacher_identity(),
        "labels": profile.labels.model_dump(),
        "judged_by": judged_by,
        "prompts": [load_template("rank_teacher").sha256],
    }

    def work(shop: Shop) -> dict[str, Made]:
        judged = shop.read_domain("judgements")
        teacher = judged.filter(pl.col("origin") == "teacher")
        human = judged.filter(pl.col("origin") == "human")
        pools = _pools(shop)
        questions, dropped = labelling.ranking_questions(
            pools, teacher, human, judged_by, profile.labels, profile.teacher.sampling, "teacher_rankings"
        )
        bought = factory.label(f"teacher_rankings {domain}", questions, domain, context.log.info)
        ranked = labelling.read_rankings(questions, bought.outcomes, domain, judged_by, "teacher_rankings")
        product = Product(
            (
                Replace("rankings", ranked.rows, {"domain": domain}),
                Replace("exchanges", bought.exchanges, {"domain": domain, "purpose": "rank_teacher"}),
            ),
            content_sha256(ranked.rows, ["ranking_id"]),
            len(pools),
            ranked.rows.height,
            pl.concat([dropped, ranked.rejections]),
            bought.figures,
            complete=bought.unanswered == 0,
        )
        return {
            "teacher_rankings": Made(product, ranked.rows.select("qid", "relevant_docids", "final_list", "reasoning"))
        }

    key = own(domain)
    reads = [(asset, key) for asset in (*SOURCES, "candidates", "mined_judgements")]
    yield from produce(context, factory, reads=reads, settings=settings, work=work)


def _pools(shop: Shop) -> list[labelling.Pool]:
    """Pools of the domain's training queries; dev and test queries are never shown to a teacher."""
    queries = shop.read_domain("queries").filter(pl.col("split") == "train")
    passages = shop.read_domain("passages", ["docid", "title", "text"])
    texts = {docid: titled(title, text) for docid, title, text in passages.iter_rows()}
    human = shop.read_domain("judgements").filter(pl.col("origin") == "human")
    depth = shop.factory.settings.profile.labels.mining_depth
    return labelling.pools_of(queries, shop.read_domain("candidates"), human, texts, depth)
