"""Which model `--model` means: a model of this home, a checkpoint folder, or the untouched base."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rankmill.settings import Settings, SettingsError
from training.jobs import ModelRef, base_model, weights_sha256
from training.recipes import Recipe

DEFAULT_RECIPE = "reasonrank"


@dataclass(frozen=True)
class ChosenModel:
    """A model, the recipe it is asked by, and the names it goes by; the first name is the one that was typed."""

    reference: ModelRef
    recipe: Recipe
    names: tuple[str, ...]


def choose_model(settings: Settings, model: str, recipe_name: str | None = None) -> ChosenModel:
    """The model that `model` names; `recipe_name` replaces the recipe that it was trained by. Raises SettingsError."""
    if Path(model).is_dir():
        recipe = settings.recipe(recipe_name or DEFAULT_RECIPE)
        try:
            reference = ModelRef(path=str(Path(model).absolute()), sha256=weights_sha256(Path(model)))
        except FileNotFoundError as error:
            raise SettingsError(str(error)) from None
        return ChosenModel(reference, recipe, _distinct(model, Path(model).absolute().name))
    if model.split("/")[-1] == "base":
        recipe = settings.recipe(recipe_name or (model.split("/")[0] if "/" in model else DEFAULT_RECIPE))
        return ChosenModel(base_model(recipe), recipe, _distinct(model, "base"))
    known = pl.DataFrame()
    if settings.has_lake:
        known = settings.lake().read("models").sort("created_at")
        name, _, stage = model.partition("/")
        named = (pl.col("recipe") == name) & (pl.col("stage") == stage) | pl.col("model").str.starts_with(model)
        matches = known.filter(named)
        if model and matches.height:
            row = matches.row(-1, named=True)
            reference = ModelRef(path=str(settings.home / row["path"]), sha256=row["weights_sha256"])
            names = _distinct(model, f"{row['recipe']}/{row['stage']}", row["model"], row["model"][:12])
            return ChosenModel(reference, settings.recipe(recipe_name or row["recipe"]), names)
    listing = "; ".join(f"{r['model'][:12]} ({r['recipe']}/{r['stage']})" for r in known.iter_rows(named=True))
    raise SettingsError(
        f"there is no model {model!r}. Models of this home: {listing or 'none yet'}; "
        "or give a checkpoint folder, or `base`."
    )


def _distinct(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
