"""Which model `--model` means: the champion, a model of this home, a checkpoint folder, the untouched base, or the
profile's teacher behind its endpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rankmill.settings import Settings, SettingsError
from training.jobs import ModelRef, base_model, served_model, weights_sha256
from training.recipes import Recipe
from warehouse.models import named_models
from warehouse.promotion import standing

DEFAULT_RECIPE = "reasonrank"
CHAMPION = "champion"
TEACHER = "teacher"


@dataclass(frozen=True)
class ChosenModel:
    """A model, the recipe it is asked by, and the names it goes by; the first name is the one that was typed."""

    reference: ModelRef
    recipe: Recipe
    names: tuple[str, ...]

    @property
    def is_teacher(self) -> bool:
        """Whether it stands behind the teacher's endpoint, and no weights of it are here."""
        return self.names[0] == TEACHER

    @property
    def told(self) -> str:
        """What tables call it: the name that was typed, and of an endpoint its model."""
        return " ".join(self.names) if self.is_teacher else self.names[0]

    @property
    def short(self) -> str:
        """A short name that tells its weights from others: of a hash its beginning, of an endpoint its model."""
        told = self.reference.sha256.removeprefix("hf:")
        return told.removeprefix("endpoint:") if self.is_teacher else told[:12]


def choose_model(settings: Settings, model: str, recipe_name: str | None = None) -> ChosenModel:
    """The model that `model` names; `recipe_name` replaces the recipe that it was trained by. Raises SettingsError."""
    if model == CHAMPION:  # a folder of this name is ./champion
        return _known_model(settings, _champion(settings), recipe_name, (CHAMPION,))
    if model == TEACHER:  # nor is this one a folder
        served = settings.profile.teacher.model
        return ChosenModel(served_model(served), settings.recipe(recipe_name or DEFAULT_RECIPE), (TEACHER, served))
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
        matches = named_models(known, model)
        if matches.height:
            return _known_model(settings, matches.row(-1, named=True), recipe_name, (model,))
    listing = "; ".join(f"{r['model'][:12]} ({r['recipe']}/{r['stage']})" for r in known.iter_rows(named=True))
    raise SettingsError(
        f"there is no model {model!r}. Models of this home: {listing or 'none yet'}; "
        "or give a checkpoint folder, `base`, or `teacher`."
    )


def choose_models(settings: Settings, *asked: tuple[str | None, str | None]) -> list[ChosenModel]:
    """The models of a cascade by name and recipe; one that has no name is none. Raises SettingsError."""
    return [choose_model(settings, model, recipe) for model, recipe in asked if model is not None]


def tag(models: Sequence[ChosenModel]) -> str:
    """What the lines of a run are tagged with: recipes, and whose weights were asked."""
    known = [f"{one.recipe.name}-{one.short}" for one in models]
    return "-".join(["rankmill", *known]).replace(" ", "_").replace("/", "-")


def _champion(settings: Settings) -> Mapping[str, Any]:
    if settings.has_lake:
        lake = settings.lake()
        name = standing(lake.read("promotions")).champion
        if name is not None:
            return lake.read("models", {"model": name}).row(0, named=True)
    raise SettingsError(
        "there is no champion: no model stands above bm25. `rankmill models` says why; `rankmill promote` makes one."
    )


def _known_model(
    settings: Settings, row: Mapping[str, Any], recipe_name: str | None, typed: tuple[str, ...]
) -> ChosenModel:
    reference = ModelRef(path=str(settings.home / row["path"]), sha256=row["weights_sha256"])
    names = _distinct(*typed, f"{row['recipe']}/{row['stage']}", row["model"], row["model"][:12])
    return ChosenModel(reference, settings.recipe(recipe_name or row["recipe"]), names)


def _distinct(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
