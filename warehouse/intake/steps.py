"""The first steps of every domain: its source, read and checked at the door, and its first-stage candidates.

Deliberately absent: where a source is and which are active (registry.py), and how one is read (sources.py).
"""

import polars as pl

from ranking.retrieval import first_stage
from warehouse.intake.door import SourceError
from warehouse.intake.registry import Active
from warehouse.intake.sources import read_source
from warehouse.lake import Lake, Replace, content_sha256
from warehouse.ledger import Product, rejected
from warehouse.production import Made, Shop, Step, is_made, own

SOURCES = ("queries", "passages", "human_judgements")
_TABLES = {
    "queries": ("queries", ["qid"]),
    "passages": ("passages", ["docid"]),
    "human_judgements": ("judgements", ["qid", "docid"]),
}


def source_step(active: Active, seed: int) -> Step:
    """Queries, passages and people's judgements of one domain, read once. It and its work raise SourceError."""
    origin = active.source()
    settings = {"fingerprint": origin.fingerprint(), "limit": active.limit, "seed": seed}

    def work(_: Shop) -> dict[str, Made]:
        tables = read_source(origin, active.limit, seed)
        judge = tables.notes.get("judgements_from", "people")
        frames = {
            "queries": tables.queries,
            "passages": tables.passages,
            "human_judgements": tables.judgements.with_columns(role=pl.lit("qrels"), judge=pl.lit(judge)),
        }
        counts = tables.notes["counts"]
        made = {}
        for asset, frame in frames.items():
            table, keys = _TABLES[asset]
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

    return Step(SOURCES, active.domain, settings, work)


def refusal(lake: Lake, active: Active, seed: int) -> str | None:
    """Why the door refuses a folder as it is now; None where it does not, or where nothing of it has changed."""
    if active.kind != "folder":
        return None
    try:
        if not is_made(lake, source_step(active, seed)):
            read_source(active.source(), active.limit, seed)
    except SourceError as error:
        return str(error)
    return None


def candidates_step(domain: str, depth: int) -> Step:
    """The `depth` best candidates of every query by BM25 (k1 0.9, b 0.4, stems), excluded_docids left out."""

    def work(shop: Shop) -> dict[str, Made]:
        queries = shop.read_domain("queries").sort("qid")
        found = first_stage(queries, shop.read_domain("passages"), depth)
        rows = found.with_columns(domain=pl.lit(domain))
        without = queries.join(found, on="qid", how="anti")["qid"]
        dropped = rejected("candidates", [(qid, "no_candidate", "no passage shares a word with it") for qid in without])
        product = Product(
            (Replace("candidates", rows, {"domain": domain}),),
            content_sha256(rows, ["qid", "rank"]),
            queries.height,
            queries.height - dropped.height,
            dropped,
            {"candidates": rows.height, "candidates_per_query": rows.height / max(1, queries.height)},
        )
        return {"candidates": Made(product, rows.drop("domain"))}

    reads = [("queries", own(domain)), ("passages", own(domain))]
    return Step(("candidates",), domain, {"depth": depth}, work, reads)
