"""From runs to scores to a leaderboard: which held-out queries count, what each stage scored, and how sure that is."""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from ranking.lists import seed_of
from ranking.metrics import DEFAULT_MEASURES, bootstrap_mean, evaluate
from ranking.prompts import titled

STAGES = ("bm25", "base", "sft", "rl")
HEADLINE = "nDCG@10"
ALL_DOMAINS = "all"


def held_out(queries: pl.DataFrame, qrels: pl.DataFrame, limit: int | None, seed: int) -> pl.DataFrame:
    """The queries to evaluate on: a domain's test split where it has one, else dev; at most `limit`, chosen by hash.

    Only queries with a relevant passage in `qrels` count, as in trec_eval. Returns domain, qid, text, split.
    """
    judged = qrels.filter(pl.col("grade") > 0).select("domain", "qid").unique()
    known = queries.join(judged, on=["domain", "qid"], how="semi")
    tested = known.filter(pl.col("split") == "test")["domain"].unique().to_list()
    chosen = known.filter(
        pl.col("split") == pl.when(pl.col("domain").is_in(tested)).then(pl.lit("test")).otherwise(pl.lit("dev"))
    )
    draws = [seed_of(f"evaluate/{domain}/{qid}", seed) for domain, qid in chosen.select("domain", "qid").iter_rows()]
    ordered = chosen.with_columns(draw=pl.Series(draws, dtype=pl.Int64)).sort("domain", "draw")
    kept = ordered if limit is None else ordered.group_by("domain", maintain_order=True).head(limit)
    return kept.select("domain", "qid", "text", "split").sort("domain", "qid")


def candidate_texts(queries: pl.DataFrame, candidates: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """Candidates with both texts, as a reranker reads them: domain, qid, query, docid, rank, score, text."""
    texts = passages.select(
        "domain",
        "docid",
        text=pl.Series([titled(t, x) for t, x in passages.select("title", "text").iter_rows()], dtype=pl.String),
    )
    return (
        candidates.join(queries.select("domain", "qid", query="text"), on=["domain", "qid"], how="inner")
        .join(texts, on=["domain", "docid"], how="inner")
        .select("domain", "qid", "query", "docid", "rank", "score", "text")
        .sort("domain", "qid", "rank")
    )


def score(run: pl.DataFrame, qrels: pl.DataFrame) -> pl.DataFrame:
    """Per-query scores in long form: domain, qid, measure, value; every query of `qrels` has a row a measure."""
    wide = evaluate(run, qrels, DEFAULT_MEASURES, by=["domain", "qid"])
    return wide.unpivot(index=["domain", "qid"], variable_name="measure", value_name="value")


def leaderboard(
    scores: pl.DataFrame, calls: pl.DataFrame, queries: pl.DataFrame, models: pl.DataFrame, resamples: int, seed: int
) -> pl.DataFrame:
    """One row a recipe, domain and stage, and one for the mean of all domains.

    `scores`: recipe, stage, model, domain, qid, measure, value. `calls`: recipe, stage, domain, fault, tokens, seconds.
    `queries`: domain, split. Intervals are bootstraps over queries; `versus_*` is the paired difference to BM25.
    """
    wide = scores.pivot(on="measure", index=["recipe", "stage", "model", "domain", "qid"], values="value")
    split = dict(queries.select("domain", "split").iter_rows())
    release = dict(models.select("model", "release").iter_rows())
    rows = []
    for recipe in wide["recipe"].unique().sort():
        ours = wide.filter(pl.col("recipe") == recipe)
        base = ours.filter(pl.col("stage") == "bm25")
        for domain in [*sorted(ours["domain"].unique()), ALL_DOMAINS]:
            for stage in STAGES:
                part = _of(ours.filter(pl.col("stage") == stage), domain)
                if part.is_empty():
                    continue
                asked = _of(calls.filter((pl.col("recipe") == recipe) & (pl.col("stage") == stage)), domain)
                rows.append(
                    {
                        "recipe": recipe,
                        "domain": domain,
                        "stage": stage,
                        "fused": False,
                        "model": part["model"][0],
                        "release": release.get(part["model"][0], ""),
                        "split": split.get(domain, "held-out"),
                        "queries": part.height,
                        **_statistics(part, _of(base, domain), resamples, seed),
                        **_cost(asked, part.height),
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def _of(frame: pl.DataFrame, domain: str) -> pl.DataFrame:
    return frame if domain == ALL_DOMAINS else frame.filter(pl.col("domain") == domain)


def _statistics(part: pl.DataFrame, base: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    _, low, high = bootstrap_mean(part[HEADLINE].to_numpy(), resamples, seed)
    pair = part.join(base.select("domain", "qid", base=HEADLINE), on=["domain", "qid"], how="inner")
    versus, versus_low, versus_high = bootstrap_mean((pair[HEADLINE] - pair["base"]).to_numpy(), resamples, seed)
    measures = {measure: float(part[measure].mean() or 0.0) for measure in DEFAULT_MEASURES}  # type: ignore[arg-type]
    return {
        "measures": json.dumps(measures),
        "low": low,
        "high": high,
        "versus_bm25": versus,
        "versus_low": versus_low,
        "versus_high": versus_high,
    }


def _cost(calls: pl.DataFrame, queries: int) -> dict[str, float]:
    tokens = float((calls["prompt_tokens"] + calls["completion_tokens"]).sum())
    return {
        "malformed_rate": float(calls["fault"].is_not_null().sum()) / max(1, calls.height),
        "calls_per_query": calls.height / queries,
        "tokens_per_query": tokens / queries,
        "seconds_per_query": float(calls["seconds"].sum()) / queries,
    }


def page_rows(board: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of a leaderboard for people: measures spread out, the best stage of each domain marked."""
    rows = []
    for row in board.iter_rows(named=True):
        measures = json.loads(row["measures"])
        rows.append({**row, "value": measures[HEADLINE], "recall": measures["R@10"], "rr": measures["RR"]})
    for row in rows:
        rivals: Sequence[float] = [
            r["value"] for r in rows if (r["recipe"], r["domain"]) == (row["recipe"], row["domain"])
        ]
        row["best"] = row["value"] == max(rivals)
    return rows
