"""Rows of `models`: which weights there are, and from what they were made."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from warehouse.lake import Lake, canonical_sha256, now
from warehouse.ledger import rejected

MODEL_ROWS = {"model": pl.String, "row_id": pl.String}


class UnknownModel(LookupError):
    """No such model in the lake."""


def model_row(result: Mapping[str, Any], *, recipe: str, path: str) -> dict[str, Any]:
    """A row of `models` from what a training process left in its result.json.

    The row's id is the hash of job and weights, so an id is never given twice.
    """
    same = ("recipe_sha256", "stage", "release", "weights_sha256", "seed", "steps", "tokens", "seconds")
    return {
        "model": canonical_sha256([result["job"], result["weights_sha256"]])[:24],
        "recipe": recipe,
        **{name: result[name] for name in same},
        "parent": result["model"]["sha256"],
        "job_sha256": result["job"],
        "path": path,
        "versions": json.dumps({**result["versions"], "hardware": result["hardware"]}, sort_keys=True),
        "history": json.dumps(result["history"]),
        "created_at": now(),
    }


def model_rows(model: str, row_ids: Sequence[str]) -> pl.DataFrame:
    """Rows of `model_rows`: which rows of its release a model was trained on."""
    return pl.DataFrame({"model": [model] * len(row_ids), "row_id": list(row_ids)}, schema=MODEL_ROWS)


def newest_model(lake: Lake, recipe: str, stage: str) -> Mapping[str, Any]:
    """The newest row of a recipe's stage. Raises UnknownModel."""
    rows = lake.read("models", {"recipe": recipe, "stage": stage}).sort("created_at")
    if rows.is_empty():
        raise UnknownModel(f"there is no {stage} model of recipe {recipe!r} yet. Materialize {stage}_model first.")
    return rows.row(-1, named=True)


def named_models(models: pl.DataFrame, name: str) -> pl.DataFrame:
    """Rows of `models` that a name means, oldest first: recipe/stage, or an id or the beginning of one."""
    recipe, _, stage = name.partition("/")
    means = (pl.col("recipe") == recipe) & (pl.col("stage") == stage) | pl.col("model").str.starts_with(name)
    return models.filter(means if name else pl.lit(False)).sort("created_at")


def left_out_rows(asset: str, rows: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """Rejections for training rows that a process could not use, from (row_id, reason)."""
    return rejected(asset, [(row_id, "not_trained_on", reason) for row_id, reason in rows])
