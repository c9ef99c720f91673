"""The self-consistency filter: a teacher's ranking is kept only if it agrees with the judgements (METHOD section 2)."""

import polars as pl

from ranking.metrics import evaluate


def consistency(rankings: pl.DataFrame) -> pl.DataFrame:
    """`rankings` (ranking_id, final_list, relevant_docids) with a column `consistency`: NDCG@10, relevance binary.

    With one positive, rank 4 scores 0.431 and rank 5 scores 0.387, so alpha = 0.4 asks for rank 4 or better.
    """
    run = (
        rankings.select("ranking_id", docid="final_list")
        .explode("docid")
        .with_columns(score=-pl.int_range(pl.len()).over("ranking_id"))
    )
    qrels = rankings.select("ranking_id", docid="relevant_docids").explode("docid").with_columns(grade=pl.lit(1))
    if rankings.is_empty():
        return rankings.with_columns(consistency=pl.lit(None, dtype=pl.Float64))
    scores = evaluate(run, qrels.drop_nulls("docid"), ["nDCG@10"], by=["ranking_id"])
    return rankings.join(
        scores.rename({"nDCG@10": "consistency"}), on="ranking_id", how="left", maintain_order="left"
    ).with_columns(pl.col("consistency").fill_null(0.0))
