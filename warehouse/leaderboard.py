"""The leaderboard: scores and calls into one row a recipe, domain and stage, and the page that shows them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ranking.metrics import DEFAULT_MEASURES
from ranking.statistics import bootstrap_mean
from warehouse.evaluation import FIRST_STAGE
from warehouse.pages import pictures
from warehouse.pages.reports import data_uri

STAGES = (FIRST_STAGE, "base", "sft", "rl")
HEADLINE = "nDCG@10"
ALL_DOMAINS = "all"
SHOWN = ("recipe", "domain", "stage", "queries", "value", "low", "high", "malformed_rate")
CURVES = ("loss", "reward", "malformed_rate")


def leaderboard(
    scores: pl.DataFrame,
    calls: pl.DataFrame,
    splits: Mapping[str, str],
    models: pl.DataFrame,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    """One row a recipe, domain and stage, and one of all domains' queries together.

    `scores`: recipe, stage, model, domain, qid, measure, value. `calls`: recipe, stage, domain, fault, tokens, seconds.
    `splits`: the split evaluated on, by domain. Intervals are bootstraps over queries; `versus_*` is the paired
    difference to BM25.
    """
    wide = scores.pivot(on="measure", index=["recipe", "stage", "model", "domain", "qid"], values="value")
    release = dict(models.select("model", "release").iter_rows())
    rows = []
    for recipe in wide["recipe"].unique().sort():
        ours = wide.filter(pl.col("recipe") == recipe)
        base = ours.filter(pl.col("stage") == FIRST_STAGE)
        for domain in [*sorted(ours["domain"].unique()), ALL_DOMAINS]:
            for stage in in_order(ours["stage"].unique().to_list()):
                part = _of(ours.filter(pl.col("stage") == stage), domain)
                if part.is_empty():
                    continue
                # What was fused was asked once, for both.
                by = (pl.col("recipe") == recipe) & (pl.col("stage") == stage.partition("+")[0])
                asked = _of(calls.filter(by), domain)
                rows.append(
                    {
                        "recipe": recipe,
                        "domain": domain,
                        "stage": stage,
                        "fused": "+" in stage,
                        "model": part["model"][0],
                        "release": release.get(part["model"][0], ""),
                        "split": splits.get(domain, "held-out"),
                        "queries": part.height,
                        **_statistics(part, _of(base, domain), resamples, seed),
                        **_cost(asked, part.height),
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def in_order(stages: Sequence[str]) -> list[str]:
    """Stages as they follow each other, each one's fused run behind it."""
    return sorted(stages, key=lambda stage: (STAGES.index(stage.partition("+")[0]), stage))


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
        rivals = [r["value"] for r in rows if (r["recipe"], r["domain"]) == (row["recipe"], row["domain"])]
        row["best"] = row["value"] == max(rivals)
    return rows


def page_values(
    board: pl.DataFrame,
    calls: pl.DataFrame,
    models: pl.DataFrame,
    settings: Mapping[str, Mapping[str, Any]],
    judges: Sequence[str],
) -> dict[str, Any]:
    """What leaderboard.html.j2 shows; `settings` are each recipe's for evaluation, `judges` the teachers' names."""
    rows = page_rows(board)
    shown = models.filter(pl.col("model").is_in(board["model"].unique().to_list())).sort("recipe", "created_at")
    known = models.select("weights_sha256", "stage", "model").iter_rows()
    names = {weights: f"{stage} {model[:12]}" for weights, stage, model in known}
    cards = []
    for row in shown.iter_rows(named=True):
        history = json.loads(row["history"])
        parent = names.get(row["parent"], row["parent"])
        curve = data_uri(pictures.curves(history, CURVES)) if history else ""
        cards.append({**row, "parent_name": parent, "picture": curve})
    return {
        "rows": rows,
        "picture": data_uri(bars(board)),
        "settings": [f"{name}: {_prose(values)}" for name, values in settings.items()],
        "models": cards,
        "stand_in": any("stand-in" in judge for judge in judges),
        "calls": _examples(calls),
    }


def bars(board: pl.DataFrame) -> bytes:
    """The first recipe's NDCG@10 by domain and stage as a picture."""
    rows = page_rows(board)
    return pictures.leaderboard_bars([row for row in rows if row["recipe"] == rows[0]["recipe"]])


def _prose(settings: Mapping[str, Any]) -> str:
    how = ", ".join(f"{name} {value}" for name, value in settings["decoding"].items() if name != "name")
    return (
        f"{settings['first_stage']}; {settings['decoding']['name']} ({how}), passages cut to "
        f"{settings['passage_tokens']} tokens, greedy; fusion {settings['fusion']}; prompt template "
        f"{settings['template']}; a malformed answer keeps the order shown for what is missing and is counted."
    )


def _examples(calls: pl.DataFrame) -> list[dict[str, Any]]:
    ordered = calls.sort("domain", "qid", "messages_sha256")
    return [
        row
        for stage in STAGES
        for row in ordered.filter(pl.col("stage") == stage)
        .group_by("domain", maintain_order=True)
        .head(1)
        .iter_rows(named=True)
    ]
