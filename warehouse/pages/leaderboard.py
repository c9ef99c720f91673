"""The leaderboard's page: quality against cost, bars by domain, the rows, calibration, and what the models wrote.

    values = page_values(board, made, texts, models, settings, judges, champion, benchmarks)
    write_report(path, "leaderboard.html.j2", values)

Deliberately absent: figures that are not already a row of the board or of the runs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from warehouse.benchmarks.boards import Board
from warehouse.evaluation import FIRST_STAGE, TEACHER, TWIN, Runs, student_of
from warehouse.intake.sources import ALL_DOMAINS
from warehouse.leaderboard import STAGES, in_order, with_measures
from warehouse.pages import pictures
from warehouse.pages.comparisons import Bar, Point, bars, pareto, reliability, weights
from warehouse.pages.extremes import Texts, extremes
from warehouse.pages.pasted import pasted
from warehouse.pages.published import benchmark_tables
from warehouse.pages.reports import data_uri
from warehouse.thinking import with_and_without

SHOWN = ("recipe", "domain", "stage", "queries", "value", "low", "high", "p_holm", "malformed_rate")
CURVES = ("loss", "reward", "malformed_rate")
COSTS = {"tokens_per_query": "tokens a query", "seconds_per_query": "seconds a query", "usd_per_query": "USD a query"}


def page_values(
    board: pl.DataFrame,
    made: Runs,
    texts: Texts,
    models: pl.DataFrame,
    settings: Mapping[str, Mapping[str, Any]],
    judges: Sequence[str],
    champion: str | None,
    benchmarks: Sequence[Board] = (),
    cards: Mapping[str, str] | None = None,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """What leaderboard.html.j2 shows; `settings` are each recipe's for evaluation, `judges` the teachers' names.

    `champion` is the id of a model; None: no model stands above the first stage. `benchmarks` were measured here.
    `cards` are the README.md of checkpoints by the model's id, where there are any.
    """
    rows = with_measures(board)
    for row in rows:
        as_it_is = row["stage"] == student_of(row["stage"])
        row["champion"] = as_it_is and row["model"] == (champion or FIRST_STAGE)
        row["malformed"] = json.loads(row["malformed"] or "{}")
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    return {
        "rows": rows,
        "champion": champion,
        "held": next((row for row in rows if row["champion"]), None),
        "pareto": [
            pareto(_points(rows, cost, len(recipes) > 1), label)
            for cost, label in COSTS.items()
            if cost != "usd_per_query" or any(row[cost] for row in rows)  # without money there is nothing to draw
        ],
        "bars": [(recipe, _bars([row for row in rows if row["recipe"] == recipe])) for recipe in recipes],
        "calibrated": [
            {**row, **(told := json.loads(row["calibration"])), "picture": reliability(told["bins"], row["stage"])}
            for row in rows
            if row["calibration"] and row["domain"] == ALL_DOMAINS
        ],
        "chains": with_and_without(made, board, resamples, 0),
        "weights": _weights(made.weights),
        "extremes": [
            {"recipe": recipe, "stage": stage, **extremes(made, recipe, stage, texts)}
            for recipe in recipes
            if (stage := _looked_at([row for row in rows if row["recipe"] == recipe]))
        ],
        "settings": [f"{name}: {_prose(values)}" for name, values in settings.items()],
        "models": _cards(board, models, cards or {}),
        "stand_in": any("stand-in" in judge for judge in judges),
        "calls": _examples(made.calls),
        "benchmarks": benchmark_tables(benchmarks),
    }


def picture(board: pl.DataFrame) -> bytes:
    """The first recipe's NDCG@10 by domain and stage as a PNG, for places that take no SVG."""
    rows = with_measures(board)
    return pictures.leaderboard_bars([row for row in rows if row["recipe"] == rows[0]["recipe"]])


def _points(rows: Sequence[Mapping[str, Any]], cost: str, many: bool) -> list[Point]:
    """All domains' queries together, a point a recipe and stage; the first stage is the same for every recipe.

    A stage whose cost nobody told is not drawn.
    """
    points: list[Point] = []
    for row in rows:
        first = row["stage"] == FIRST_STAGE
        if (
            row["domain"] == ALL_DOMAINS
            and row[cost] is not None
            and not (first and any(point.kind == FIRST_STAGE for point in points))
        ):
            label = row["stage"] if first or not many else f"{row['recipe']} {row['stage']}"
            points.append(
                Point(
                    label, row[cost], row["value"], row["low"], row["high"], _kind(row), row["champion"] and not first
                )
            )
    return points


def _bars(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A domain's name and its chart."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    return [
        (
            domain,
            bars(
                [
                    Bar(row["stage"], row["value"], row["low"], row["high"], _kind(row), row["champion"])
                    for row in rows
                    if row["domain"] == domain
                ],
                domain,
            ),
        )
        for domain in domains
    ]


def _weights(tried: pl.DataFrame) -> list[dict[str, Any]]:
    """The curve behind every fusion weight that was chosen, a recipe and stage each."""
    shown = []
    for (recipe, stage), rows in tried.sort("recipe", "stage", "fold").group_by("recipe", "stage", maintain_order=True):
        chosen = rows.filter("chosen").select("fold", "weight", "value", "queries").to_dicts()
        picture = weights(rows.to_dicts(), str(stage))
        shown.append({"recipe": recipe, "stage": stage, "chosen": chosen, "picture": picture})
    return shown


def _kind(row: Mapping[str, Any]) -> str:
    return student_of(row["stage"]) + (" fused" if row["fused"] or TWIN in row["stage"] else "")


def _looked_at(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The stage whose queries are shown: the champion's, else the last that was trained, as it ranks by itself."""
    stages = [row["stage"] for row in rows if row["champion"] and row["stage"] != FIRST_STAGE]
    trained = [row["stage"] for row in rows if row["stage"] == student_of(row["stage"]) not in (FIRST_STAGE, TEACHER)]
    found = stages or in_order(trained)
    return found[-1] if found else None


def _cards(board: pl.DataFrame, models: pl.DataFrame, written: Mapping[str, str]) -> list[dict[str, Any]]:
    shown = models.filter(pl.col("model").is_in(board["model"].unique().to_list())).sort("recipe", "created_at")
    known = models.select("weights_sha256", "stage", "model").iter_rows()
    names = {weights: f"{stage} {model[:12]}" for weights, stage, model in known}
    cards = []
    for row in shown.iter_rows(named=True):
        history = json.loads(row["history"])
        parent = names.get(row["parent"], row["parent"])
        curve = data_uri(pictures.curves(history, CURVES)) if history else ""
        said, programs = pasted(written.get(row["model"], ""))
        cards.append({**row, "parent_name": parent, "picture": curve, "asked": said, "programs": programs})
    return cards


def _prose(settings: Mapping[str, Any]) -> str:
    how = ", ".join(
        f"{name} {value}" for name, value in settings["decoding"].items() if name != "name" and value is not None
    )
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
