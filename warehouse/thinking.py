"""With a chain against without one: students that differ in that alone, paired query by query.

    table = with_and_without(made, board, resamples=10_000, seed=0)

Two ways there are. A student's twin has the same weights and is asked the other way (sft and sft~direct); a recipe's
twin was trained the other way (reasonrank and reasonrank-direct). Both are known by their settings: the same first
stage, decoder, window and passage budget, and only one of them thinks. Deliberately absent: fused runs, in which the
first stage speaks too, and any verdict.
"""

from itertools import product
from typing import Any

import polars as pl

from ranking.statistics import compare, holm
from warehouse.evaluation import FIRST_STAGE, Runs, student_of
from warehouse.intake.sources import ALL_DOMAINS
from warehouse.leaderboard import HEADLINE, KEYS

ALIKE = ("first_stage", "decoder", "window_size", "passage_tokens")
COSTS = ("tokens_per_query", "seconds_per_query")


def with_and_without(made: Runs, board: pl.DataFrame, resamples: int, seed: int) -> list[dict[str, Any]]:
    """A row a pair, over the queries that both ranked: `thinks` and `direct` (recipe and stage), their means, the
    difference with its interval, p (corrected by Holm over the pairs), wins, ties and losses, and what a query took.
    """
    unfused = made.settings.filter(pl.col("stage") != FIRST_STAGE, ~pl.col("stage").str.contains("+", literal=True))
    sides = [unfused.filter(pl.col("think") == thinks).to_dicts() for thinks in (True, False)]
    values = made.scores.filter(pl.col("measure") == HEADLINE).select("recipe", "stage", *KEYS, "value")
    costs = board.filter(pl.col("domain") == ALL_DOMAINS).select("recipe", "stage", *COSTS)
    rows = []
    for thinks, direct in product(*sides):
        if not _twins(thinks, direct):
            continue
        pair = _of(values, thinks).join(_of(values, direct), on=KEYS, suffix="_direct")
        if pair.is_empty():
            continue
        against = pair["value_direct"].to_numpy()
        row = (
            compare({"": pair["value"].to_numpy()}, against, resamples, seed)
            .drop("system", "p_holm")
            .row(0, named=True)
        )
        took = {
            f"{name}_{side}": _of(costs, one)[name].item()
            for side, one in (("thinks", thinks), ("direct", direct))
            for name in COSTS
        }
        names = {side: f"{one['recipe']} {one['stage']}" for side, one in (("thinks", thinks), ("direct", direct))}
        rows.append({**names, "queries": pair.height, "other": float(against.mean()), **row, **took})
    return [{**row, "p_holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]


def _twins(thinks: dict[str, Any], direct: dict[str, Any]) -> bool:
    """Whether two runs are of one student asked two ways, or of one stage trained two ways and asked as trained."""
    if any(thinks[name] != direct[name] for name in ALIKE):
        return False
    if thinks["recipe"] == direct["recipe"]:
        return thinks["model"] == direct["model"]
    as_trained = all(one["stage"] == student_of(one["stage"]) for one in (thinks, direct))
    return as_trained and thinks["stage"] == direct["stage"]


def _of(frame: pl.DataFrame, run: dict[str, Any]) -> pl.DataFrame:
    return frame.filter(pl.col("recipe") == run["recipe"], pl.col("stage") == run["stage"])
