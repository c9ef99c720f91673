"""Recipes: what is chosen, what is refused, and what the hash is over."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from training_toys import RECIPE, SMALL

from training.recipes import SEAMS, RecipeError, load_recipe, merge
from training.seams import Grpo, ListwiseDirect, Reward

ROOT = Path(__file__).parents[2]


def test_the_shipped_recipe_holds_the_papers_7b_values() -> None:
    recipe = load_recipe(RECIPE)
    assert recipe.name == "reasonrank"
    assert (recipe.objective.lr, recipe.objective.epochs, recipe.objective.warmup) == (5e-6, 5, 0.1)
    assert recipe.objective.batch * recipe.objective.accumulation == 8
    assert recipe.objective.max_tokens == 23_552
    assert (recipe.reward.k, recipe.reward.recall_weight, recipe.reward.rbo_weight) == (10, 0.2, 0.1)
    assert (recipe.reward.list_fault, recipe.reward.tags_fault) == (0.0, -1.0)
    sampling = recipe.sampling
    assert (sampling.prompts, sampling.rollouts, sampling.temperature) == (16, 8, 1.0)
    assert (sampling.kl, sampling.clip, sampling.lr) == (0.001, 0.2, 1e-6)
    assert sampling.max_steps / sampling.updates == 200  # the paper counts draws
    assert (recipe.decoding.window, recipe.decoding.step, recipe.decoding.top) == (20, 10, 100)
    assert recipe.model.base == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_under_every_profile(profile: Path) -> None:
    given = yaml.safe_load(profile.read_text())
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        own = given.get("recipes", {}).get(path.stem, {})
        assert load_recipe(path, given.get("recipe", {}), own).name == path.stem


@pytest.mark.parametrize("seam", sorted(SEAMS))
def test_an_unknown_name_is_an_error_that_lists_the_valid_ones(seam: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(RECIPE, {seam: {"name": "no-such-choice"}})
    message = str(error.value)
    assert "no-such-choice" in message and str(RECIPE) in message and seam in message
    assert all(name in message for name in SEAMS[seam])


@pytest.mark.parametrize("seam", sorted(SEAMS))
def test_an_unknown_parameter_is_an_error_that_lists_the_valid_ones(seam: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(RECIPE, {seam: {"temprature": 1}})
    chosen = getattr(load_recipe(RECIPE), seam)
    assert "temprature" in str(error.value)
    assert all(parameter in str(error.value) for parameter in type(chosen).model_fields)


@pytest.mark.parametrize("seam", sorted(SEAMS))
def test_a_missing_choice_is_an_error_that_lists_the_valid_names(seam: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(RECIPE.read_text())
    del raw[seam]
    path = tmp_path / "partial.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=f"{seam}: missing; valid names: {next(iter(SEAMS[seam]))}"):
        load_recipe(path)


def test_an_unknown_seam_is_an_error_that_lists_the_seams() -> None:
    with pytest.raises(RecipeError, match=r"decodin: unknown; valid seams: .*decoding"):
        load_recipe(RECIPE, {"decodin": {"name": "sliding_window"}})


def test_a_missing_file_is_an_error_that_lists_the_recipes() -> None:
    with pytest.raises(RecipeError, match=r"no such recipe; .*reasonrank"):
        load_recipe(RECIPE.with_name("reasonrnak.yaml"))


def test_the_twin_without_a_chain_differs_in_the_contract_and_in_the_room_for_answers_alone() -> None:
    twin, other = load_recipe(RECIPE.with_name("reasonrank-direct.yaml")), load_recipe(RECIPE)
    assert (other.contract.think, twin.contract.think) == (True, False) and twin.name == "reasonrank-direct"
    for seam in sorted(SEAMS.keys() - {"contract"}):
        mine, theirs = (getattr(recipe, seam).model_dump() for recipe in (twin, other))
        differing = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
        assert differing <= {"max_completion_tokens", "max_new_tokens"}, seam
    # A switch and no copy: what is changed in one is changed in both.
    written = yaml.safe_load(RECIPE.with_name("reasonrank-direct.yaml").read_text())
    assert written.keys() & SEAMS.keys() == {"contract", "sampling", "decoding"}


def test_a_recipe_that_extends_another_says_what_differs_and_goes_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "reasonrank.yaml").write_text(RECIPE.read_text())
    (tmp_path / "quick.yaml").write_text("extends: reasonrank\nobjective: {lr: 1.0e-3}\n")
    (tmp_path / "quicker.yaml").write_text("extends: quick\ndescription: Two of a kind.\nobjective: {epochs: 1}\n")
    quicker = load_recipe(tmp_path / "quicker.yaml", {"objective": {"batch": 3}})
    assert (quicker.name, quicker.description) == ("quicker", "Two of a kind.")
    assert (quicker.objective.lr, quicker.objective.epochs, quicker.objective.batch) == (1e-3, 1, 3)
    assert quicker.sha256_of("units", "reward", "sampling") == load_recipe(RECIPE).sha256_of(
        "units", "reward", "sampling"
    )


def test_a_recipe_that_extends_none_or_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").write_text("extends: reasonrnak\n")
    with pytest.raises(RecipeError, match=r"reasonrnak\.yaml: no such recipe \(extended by lost\.yaml\); .*: lost"):
        load_recipe(tmp_path / "lost.yaml")
    (tmp_path / "one.yaml").write_text("extends: other\n")
    (tmp_path / "other.yaml").write_text("extends: one\n")
    with pytest.raises(RecipeError, match=r"other\.yaml: extends one, and so itself"):
        load_recipe(tmp_path / "one.yaml")


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        Grpo(prompts=3, rollouts=3, updates=2, batch=4)


def test_overrides_change_only_what_they_name() -> None:
    plain, small = load_recipe(RECIPE), load_recipe(RECIPE, SMALL)
    assert small.objective.max_steps == 4 and small.objective.scheduler == plain.objective.scheduler
    assert small.reward == plain.reward


def test_a_choice_of_another_name_replaces_the_old_ones_parameters() -> None:
    recipe = load_recipe(RECIPE, {"contract": {"name": "listwise_direct"}})
    assert isinstance(recipe.contract, ListwiseDirect)
    assert recipe.contract.template == "rank_student_direct" and not recipe.contract.think


TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers()), lambda inner: st.dictionaries(st.sampled_from("abc"), inner)
)


@given(TREES)
def test_merging_nothing_or_itself_changes_nothing(tree: dict[str, Any]) -> None:
    assert merge(tree, {}) == tree
    assert merge(tree, tree) == tree


def test_the_hash_is_over_the_choices_and_not_over_words_or_key_order(tmp_path: Path) -> None:
    raw = yaml.safe_load(RECIPE.read_text())
    raw["description"] = "another"
    path = tmp_path / "reordered.yaml"
    path.write_text(yaml.safe_dump(dict(reversed(raw.items())), sort_keys=False))
    assert load_recipe(path).sha256 == load_recipe(RECIPE).sha256
    assert load_recipe(RECIPE, {"sampling": {"kl": 0.01}}).sha256 != load_recipe(RECIPE).sha256


def test_a_seams_hash_ignores_the_other_seams() -> None:
    plain, other = load_recipe(RECIPE), load_recipe(RECIPE, {"decoding": {"top": 50}})
    assert plain.sha256_of("units", "objective") == other.sha256_of("units", "objective")
    assert plain.sha256_of("decoding") != other.sha256_of("decoding")


def test_a_recipe_survives_json() -> None:
    recipe = load_recipe(RECIPE, {"contract": {"name": "listwise_direct"}})
    again = type(recipe).model_validate_json(recipe.model_dump_json())
    assert again == recipe and again.sha256 == recipe.sha256


def test_every_parameter_is_described() -> None:
    for choices in SEAMS.values():
        for choice in choices.values():
            assert all(field.description for field in choice.model_fields.values()), choice


def test_recipes_and_jobs_import_without_torch() -> None:
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'dagster', 'prefect'} & set(sys.modules)"
    code = f"import sys, training.recipes, training.jobs; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_every_reward_declares_its_scope() -> None:
    rewards = [choice for name, choice in SEAMS["reward"].items() if name != "none"]
    assert all(issubclass(choice, Reward) and choice().scope in ("completion", "query_group") for choice in rewards)
    over = {path.stem for path in (ROOT / "recipes").glob("*.yaml") if load_recipe(path).over_queries}
    assert over == {"erank"}
    with pytest.raises(RecipeError, match=r"multi_view: scope: Input should be 'completion'"):
        load_recipe(RECIPE, {"reward": {"scope": "query_group"}})


def test_a_fusion_weight_is_a_share_or_is_chosen_on_dev() -> None:
    fused = load_recipe(RECIPE, {"fusion": {"name": "rrf", "weight": "dev"}})
    assert fused.fusion.weight == "dev"
    half = load_recipe(RECIPE, {"fusion": {"name": "rrf", "weight": 0.5}})
    assert fused.sha256_of("fusion") != half.sha256_of("fusion")
    for wrong in ("test", 1.5, -0.1):
        with pytest.raises(RecipeError, match="weight"):
            load_recipe(RECIPE, {"fusion": {"name": "rrf", "weight": wrong}})


def test_a_recipe_that_goes_over_the_list_once_has_the_hash_that_it_had() -> None:
    recipe = load_recipe(RECIPE, SMALL)
    assert "passes" not in recipe.decoding.model_dump()
    assert load_recipe(RECIPE, SMALL, {"decoding": {"passes": 2}}).sha256 != recipe.sha256
