"""The self-consistency filter as a step: which teacher rankings agree with the judgements that count."""

import polars as pl

from ranking.consistency import consistency
from warehouse.lake import Replace, content_sha256
from warehouse.ledger import Product, rejected
from warehouse.pages import pictures
from warehouse.production import Made, Shop, Step, own


def consistency_step(domain: str, alpha: float) -> Step:
    """A domain's rankings with NDCG@10 >= alpha (METHOD section 2)."""

    def work(shop: Shop) -> dict[str, Made]:
        scored = consistency(shop.read_domain("rankings")).sort("qid")
        kept = scored.filter(pl.col("consistency") >= alpha)
        rows = kept.select("domain", "ranking_id", "qid", "consistency", alpha=pl.lit(alpha))
        low = scored.filter(pl.col("consistency") < alpha).select("ranking_id", "consistency")
        dropped = rejected(
            "consistent_rankings",
            [(key, "inconsistent", f"NDCG@10 {value:.3f} below alpha {alpha:g}") for key, value in low.iter_rows()],
        )
        product = Product(
            (Replace("consistent_rankings", rows, {"domain": domain}),),
            content_sha256(rows, ["ranking_id"]),
            scored.height,
            rows.height,
            dropped,
            {"kept_share": rows.height / max(1, scored.height), "_values": sorted(scored["consistency"].to_list())},
        )
        plot = pictures.histogram(
            scored["consistency"].to_list(), alpha, "NDCG@10 of the ranking against the judgements"
        )
        return {"consistent_rankings": Made(product, rows.drop("domain"), {"consistency_histogram": plot})}

    return Step(("consistent_rankings",), domain, {"alpha": alpha}, work, [("teacher_rankings", own(domain))])
