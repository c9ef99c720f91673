"""Models with scores by rule, as training and benchmark_runs leave them in a lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from small_lake import message

from warehouse.lake import Append, Lake, Replace

QUERIES = 12  # a domain; a gain on every query of one is significant
Values = Mapping[str, Sequence[float]]


def level(value: float, *domains: str) -> dict[str, list[float]]:
    """The same value on every query of the domains, but for what makes queries differ."""
    return {domain: [value + 0.001 * n for n in range(QUERIES)] for domain in domains}


FIRST = level(0.4, "law", "math")


def scores(recipe: str, systems: Mapping[str, Values], first: Values = FIRST) -> pl.DataFrame:
    """Rows of `scores` of a recipe: models by id, and the first stage."""
    stages = {"bm25": first, **systems}
    return pl.DataFrame(
        [
            {"run": f"run-{name}", "recipe": recipe, "stage": "bm25" if name == "bm25" else "sft", "model": name,
             "domain": domain, "qid": f"q{n}", "fused": False, "measure": measure, "value": value}
            for name, values in stages.items()
            for domain, of_domain in values.items()
            for n, value in enumerate(of_domain)
            for measure in ("nDCG@10", "RR")
        ]
    )  # fmt: skip


def evaluate(lake: Lake, recipe: str, systems: Mapping[str, Values], first: Values = FIRST) -> None:
    """What training and benchmark_runs leave in the lake: rows of models, and scores in place of the recipe's old.

    Where dev queries are the reported ones, both tables of scores are the same.
    """
    known = lake.read("models")["model"].to_list()
    made = [
        {"model": name, "recipe": recipe, "stage": "sft", "release": "release-1", "path": f"models/{name}",
         "weights_sha256": name, "created_at": f"2026-01-{len(known) + n:02}"}
        for n, name in enumerate((name for name in systems if name not in known), start=1)
    ]  # fmt: skip
    told = [Append("models", pl.DataFrame(made))] if made else []
    rows = scores(recipe, systems, first)
    both = [Replace(table, rows, {"recipe": recipe}) for table in ("scores", "dev_scores")]
    lake.commit([*told, *both], message("runs"))
