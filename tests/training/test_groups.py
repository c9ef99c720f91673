"""Groups of rollouts that are all worth the same: kept, drawn anew, dropped or replaced by older ones."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_systems import system
from word_stages import Died, Mortal, figures, make_words, rl_job, run, sft_job, write_rows

from training.groups import FAR, Groups, group_of, put, without_variance
from training.jobs import ModelRef, TrainResult
from training.recipes import RecipeError
from training.seams import Grpo

SMALL: dict[str, Any] = {"prompts": 3, "rollouts": 2, "batch": 6, "updates": 1}
# Rollouts in each step, and steps so small that the student is of two minds until the end.
EACH_STEP: dict[str, Any] = {**SMALL, "lr": 1e-4, "max_completion_tokens": 12}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), "sft", "rl")


@pytest.fixture(scope="module")
def taught(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A student that is right often enough for some groups to be all right, and for others to be of two minds."""
    folder = tmp_path_factory.mktemp("taught")
    job = sft_job(
        make_words(folder / "words"), rows, folder, "reasonrank-direct",
        {"batch": 4, "max_steps": 60, "scheduler": "constant"},
    )  # fmt: skip
    return ModelRef(path=str(job.folder), sha256=run(job).weights_sha256)


class Alone:
    """As much of a trainer in one process as groups are arranged with."""

    processing_class = SimpleNamespace(pad_token_id=9)
    accelerator = SimpleNamespace(gather=lambda values: values, process_index=0)
    state = SimpleNamespace(global_step=5)

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {"train": defaultdict(list)}

    def share(self, name: str) -> float:
        (value,) = self._metrics["train"][name]
        return float(value)


def batch_of(*prompts: int, width: int = 2, written: int = 3) -> dict[str, torch.Tensor]:
    """Groups of two rollouts whose tokens all say which prompt they belong to; the last written place is padding."""
    numbers = torch.tensor([number for number in prompts for _ in range(2)])[:, None]
    mask = torch.ones(len(numbers), written, dtype=torch.long)
    mask[:, -1] = 0
    return {
        "prompt_ids": numbers.expand(-1, width).clone(),
        "prompt_mask": torch.ones(len(numbers), width, dtype=torch.long),
        "completion_ids": numbers.expand(-1, written).clone() * mask + 9 * (1 - mask),
        "completion_mask": mask,
        "advantages": torch.tensor([-1.0, 1.0] * len(prompts)),
        "old_per_token_logps": -numbers.float().expand(-1, written).clone(),
        "ref_per_token_logps": -numbers.float().expand(-1, written).clone(),
        "num_items_in_batch": mask.sum(),
    }


def rewards_of(*varied: bool) -> torch.Tensor:
    return torch.tensor([value for both in varied for value in ((0.0, 1.3) if both else (1.3, 1.3))])


def arranged(groups: Groups, trainer: Alone, *given: Any) -> dict[str, torch.Tensor]:
    return groups.arrange(trainer, *given)


def said(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["completion_ids"] * batch["completion_mask"]


def nobody(count: int, attempt: int) -> Any:
    raise AssertionError("nothing was to be drawn")


def test_a_group_has_variance_when_two_of_its_rewards_differ() -> None:
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.1000001, -1.0, -1.0])
    assert without_variance(rewards, 4).tolist() == [True, False]
    assert without_variance(rewards, 2).tolist() == [True, True, False, True]


def test_a_group_put_into_a_batch_is_padded_on_the_side_of_its_texts() -> None:
    made = put(batch_of(1, 2), batch_of(7, width=4, written=5), [(1, 0)], size=2, pad=9)
    assert made["prompt_ids"].tolist()[1:3] == [[9, 9, 1, 1], [7, 7, 7, 7]]
    assert made["completion_ids"].tolist()[1:3] == [[1, 1, 9, 9, 9], [7, 7, 7, 7, 9]]
    assert made["completion_mask"].sum(dim=1).tolist() == [2, 2, 4, 4]
    assert made["ref_per_token_logps"][0].tolist() == [-1, -1, -1, FAR, FAR]
    narrow = put(batch_of(1, width=4, written=5), batch_of(7), [(0, 0)], size=2, pad=9)
    assert narrow["prompt_ids"].tolist() == [[9, 9, 7, 7]] * 2 and narrow["prompt_mask"][0].tolist() == [0, 0, 1, 1]


def test_a_group_by_itself_has_no_padding_and_fits_back() -> None:
    wide = put(batch_of(1, 2), batch_of(7, width=4, written=5), [(1, 0)], size=2, pad=9)
    alone = group_of(wide, 0, 2)
    assert alone["prompt_ids"].shape == (2, 2) and alone["completion_ids"].shape == (2, 2)
    back = put(wide, alone, [(0, 0)], size=2, pad=9)
    assert torch.equal(
        back["completion_ids"] * back["completion_mask"], wide["completion_ids"] * wide["completion_mask"]
    )


def test_keep_leaves_the_batch_and_counts() -> None:
    trainer, batch = Alone(), batch_of(1, 2, 3, 4)
    kept = arranged(Groups(Grpo(**SMALL), 1), trainer, batch, rewards_of(True, False, True, True), nobody)
    assert kept is batch and trainer.share("groups_without_variance") == 0.25


def test_skip_draws_other_prompts_and_drops_what_is_still_without_variance() -> None:
    asked = []

    def draw(count: int, attempt: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        asked.append((count, attempt))
        return (batch_of(5, 6), rewards_of(False, True)) if attempt == 0 else (batch_of(8), rewards_of(False))

    trainer = Alone()
    sampling = Grpo(**SMALL, no_variance="skip", resamples=2)
    made = arranged(Groups(sampling, 1), trainer, batch_of(1, 2, 3), rewards_of(False, True, False), draw)
    assert asked == [(2, 0), (1, 1)]
    assert made["prompt_ids"][:, 0].tolist() == [6, 6, 2, 2, 3, 3]
    assert made["completion_mask"].sum(dim=1).tolist() == [2, 2, 2, 2, 0, 0]
    assert made["num_items_in_batch"] == 8
    shares = [trainer.share(f"groups_{name}") for name in ("without_variance", "redrawn", "dropped")]
    assert shares == pytest.approx([2 / 3, 1 / 3, 1 / 3])


def test_replay_takes_groups_of_earlier_steps_and_remembers_the_newest() -> None:
    groups, trainer = Groups(Grpo(**SMALL, no_variance="replay", remembered=3), 1), Alone()
    first = arranged(groups, trainer, batch_of(1, 2, 3), rewards_of(True, False, True), nobody)
    assert first["prompt_ids"][:, 0].tolist() == [1, 1, 2, 2, 3, 3]  # nothing is remembered yet
    again = Groups(groups.sampling, 1)
    again.restore(groups.state())
    for one in (groups, again):
        trainer = Alone()
        second = arranged(one, trainer, batch_of(4, 5, 6), rewards_of(False, True, True), nobody)
        old = second["prompt_ids"][:2, 0].tolist()
        assert old in ([1, 1], [3, 3])
        # With the probabilities that they were drawn with, not the present ones.
        assert second["old_per_token_logps"][0, 0] == -old[0]
        assert trainer.share("groups_replayed") == pytest.approx(1 / 3)
        assert [int(group["prompt_ids"][0, 0]) for group in one.memory] == [3, 5, 6]


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"no_variance": "skip"}, "query_reciprocal_rank is over all passages of a query; with it does: keep"),
        ({"no_variance": "replay"}, "with it does: keep"),
        ({"resamples": 2}, "resamples belongs to no_variance: skip, and no_variance is keep"),
        ({"no_variance": "skip", "remembered": 2}, "remembered belongs to no_variance: replay"),
        ({"no_variance": "drop"}, "'keep', 'skip' or 'replay'"),
    ],
)
def test_what_does_not_work_together_says_what_does(sampling: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        system("erank", sampling=sampling)


def test_a_recipe_that_keeps_them_has_the_hash_that_it_had() -> None:
    recipe = system("reasonrank")
    assert not {"no_variance", "resamples", "remembered"} & recipe.sampling.model_dump().keys()
    assert system("reasonrank", sampling={"no_variance": "skip"}).sha256 != recipe.sha256


def outcome(taught: ModelRef, rows: Path, folder: Path, **sampling: Any) -> TrainResult:
    return run(rl_job(taught, rows, folder, sampling={**EACH_STEP, **sampling}))


def test_each_way_learns_something_else_from_the_same_groups(taught: ModelRef, rows: Path, tmp_path: Path) -> None:
    ways: dict[str, dict[str, Any]] = {"keep": {}, "skip": {"resamples": 2}, "replay": {}}
    made = {way: outcome(taught, rows, tmp_path / way, no_variance=way, **more) for way, more in ways.items()}
    assert len({result.weights_sha256 for result in made.values()}) == 3
    first = {way: result.history[0]["groups_without_variance"] for way, result in made.items()}
    assert first["keep"] == first["skip"] == first["replay"]  # the same rollouts, before anything was learned
    shares = [entry["groups_without_variance"] for result in made.values() for entry in result.history]
    assert 0 < sum(shares) < len(shares)
    assert any(entry["groups_redrawn"] > 0 for entry in made["skip"].history)
    for entry in made["skip"].history:
        assert entry["groups_redrawn"] + entry["groups_dropped"] == pytest.approx(entry["groups_without_variance"])
    assert any(entry["groups_replayed"] > 0 for entry in made["replay"].history)


def test_where_no_group_has_variance_skip_leaves_the_weights_alone(rows: Path, tmp_path: Path) -> None:
    words = make_words(tmp_path / "words")  # knows no answer: every rollout is worth -1
    skipped = outcome(words, rows, tmp_path / "skip", no_variance="skip", resamples=1, max_steps=2)
    assert [entry["groups_dropped"] for entry in skipped.history] == [1.0, 1.0]
    assert skipped.weights_sha256 == words.sha256


@pytest.mark.parametrize("more", [{"no_variance": "skip", "resamples": 1}, {"no_variance": "replay"}])
def test_a_stage_that_died_goes_on_to_the_same_weights(
    more: dict[str, Any], taught: ModelRef, rows: Path, tmp_path: Path
) -> None:
    whole = outcome(taught, rows, tmp_path / "whole", **more)
    job = rl_job(taught, rows, tmp_path / "killed", sampling={**EACH_STEP, **more}, checkpoint_steps=2)
    with pytest.raises(Died):
        run(job, Mortal(5))
    result = run(job)
    assert result.went_on_at == (4,)
    assert result.weights_sha256 == whole.weights_sha256 and figures(result) == figures(whole)
