"""The leaderboard's page: rows of the board as a person reads them, beside what the models wrote."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from warehouse.leaderboard import STAGES, with_measures
from warehouse.pages import pictures
from warehouse.pages.reports import data_uri

SHOWN = ("recipe", "domain", "stage", "queries", "value", "low", "high", "p_holm", "malformed_rate")
CURVES = ("loss", "reward", "malformed_rate")


def page_values(
    board: pl.DataFrame,
    calls: pl.DataFrame,
    models: pl.DataFrame,
    settings: Mapping[str, Mapping[str, Any]],
    judges: Sequence[str],
) -> dict[str, Any]:
    """What leaderboard.html.j2 shows; `settings` are each recipe's for evaluation, `judges` the teachers' names."""
    rows = with_measures(board)
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
    rows = with_measures(board)
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
