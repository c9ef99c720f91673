"""What a training stage tells is drawn in the UI, each term of a recipe's reward among it."""

from pathlib import Path

import pytest

from assets.training import CURVES, DRAWN, TERMS
from training import rl
from training.recipes import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_loss_reward_kl_entropy_lengths_faults_speed_and_memory_have_a_panel() -> None:
    wanted = {"loss", "dev_ndcg", "reward", "kl", "entropy", "malformed_rate", "groups_without_variance"}
    assert wanted | {"completion_tokens", "tokens_per_second", "memory_gb"} <= {*DRAWN}
    assert {*TERMS} <= {*CURVES} <= {*DRAWN} and len({*DRAWN}) == len(DRAWN)


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "rl" in load_recipe(path).stages], ids=lambda path: path.stem
)
def test_every_term_of_a_recipes_reward_has_a_panel(path: Path) -> None:
    terms = rl.metrics(load_recipe(path)).keys() - rl.METRICS.keys()
    assert terms and terms <= {*TERMS}
