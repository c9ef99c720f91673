"""Rerankings: a recipe's twin is asked the other way and differs in nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.rerankings import settings, twin
from training.recipes import load_recipe
from training.seams import SEAMS

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize(
    ("name", "way", "think"), [("reasonrank", "direct", False), ("reasonrank-direct", "think", True)]
)
def test_a_listwise_recipe_has_a_twin_that_differs_in_its_contract_alone(name: str, way: str, think: bool) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    found = twin(recipe)
    assert found is not None and found[0] == way
    other = found[1]
    same = [seam for seam in SEAMS if other.sha256_of(seam) == recipe.sha256_of(seam)]
    assert sorted({*SEAMS} - {*same}) == ["contract"]
    mine, theirs = settings(recipe, "bm25"), settings(other, "bm25")
    differing = {key for key in mine if mine[key] != theirs[key]}
    assert differing == {"think", "template", "prompt_sha256", "recipe_sha256"}
    assert theirs["think"] is think


@pytest.mark.parametrize("name", ["first", "direct-point", "rank-r1", "erank"])
def test_other_contracts_have_no_twin(name: str) -> None:
    assert twin(load_recipe(RECIPES / f"{name}.yaml")) is None


def test_what_runs_are_measured_with_says_whether_scores_are_on_a_scale() -> None:
    scales = {path.stem: settings(load_recipe(path), "bm25")["highest_score"] for path in RECIPES.glob("*.yaml")}
    assert scales == {
        "reasonrank": None, "reasonrank-direct": None, "rank-r1": None, "first": None, "direct-point": 1.0,
        "erank": 10.0,
    }  # fmt: skip
