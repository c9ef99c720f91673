"""What reinforcement draws: METHOD section 4 in TRL's terms, and which rollouts stand in one batch."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_systems import eight_rows
from training_toys import RECIPE, Lines
from word_stages import make_words, rl_job, run, write_rows

from training import rl
from training.checkpoints import TrainingDataError
from training.jobs import ModelRef, RlJob
from training.recipes import load_recipe
from training.stages import carry_out


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return make_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), "rl")


def test_the_papers_settings_are_given_to_trl_in_its_terms(tmp_path: Path) -> None:
    model = ModelRef(path="x", sha256="w")
    job = RlJob(recipe=load_recipe(RECIPE), release="r", rows=tmp_path / "r", model=model, output=tmp_path, seed=7)
    given = rl._config(job, tmp_path)
    # 16 prompts of 8 rollouts are drawn at temperature 1, and learned from in two steps of half of them.
    assert (given.generation_batch_size, given.num_generations, given.num_iterations) == (128, 8, 1)
    assert given.per_device_train_batch_size * given.gradient_accumulation_steps == 64
    assert (given.temperature, given.top_p, given.top_k, given.max_completion_length) == (1.0, 1.0, 0, 3_072)
    # KL to where the stage starts from, clip to both sides, the mean over all tokens, no token left out.
    assert (given.beta, given.epsilon, given.epsilon_high, given.delta) == (0.001, 0.2, None, None)
    assert not given.use_bias_correction_kl  # the estimator alone, not times the ratio of the policies
    assert (given.loss_type, given.scale_rewards, given.mask_truncated_completions) == ("dapo", "group", False)
    assert (given.importance_sampling_level, given.sync_ref_model) == ("token", False)
    assert (given.learning_rate, given.max_steps, given.lr_scheduler_type, given.seed) == (1e-6, 400, "constant", 7)


def judged(job: RlJob) -> list[list[str]]:
    """Do the job; the rows whose rollouts were judged together, batch by batch."""
    together: list[list[str]] = []

    def prepare(*given: Any) -> Any:
        data, trainer_of = rl._prepare(*given)

        def watched(bench: Any) -> Any:
            trainer = trainer_of(bench)
            (judge,) = trainer.reward_funcs

            def judging(*prompts: Any, **columns: Any) -> Any:
                together.append(list(columns["row_id"]))
                return judge(*prompts, **columns)

            judging.__name__ = judge.__name__
            trainer.reward_funcs[0] = judging
            return trainer

        return data, watched

    result = carry_out(job, rl.metrics(job.recipe), prepare, Lines())
    # The low-variance estimator is never below zero.
    assert all(entry["kl"] >= 0.0 for entry in result.history)
    return together


def test_a_reward_over_a_query_sees_all_rollouts_of_all_its_passages_at_once(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    # Three passages a query, two queries a batch; four batches are all eight queries.
    sampling = {"prompts": 6, "rollouts": 2, "batch": 3, "updates": 2, "max_steps": 8}
    batches = judged(rl_job(words, rows, tmp_path, "erank", sampling))
    assert len(batches) == 4
    assert all(sorted(Counter(batch).values()) == [6, 6] for batch in batches)
    seen = [row_id for batch in batches for row_id in dict.fromkeys(batch)]
    assert sorted(seen) == [row["row_id"] for row in eight_rows()] != seen


def test_fewer_prompts_than_are_drawn_together_are_an_error_and_no_model(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = rl_job(words, rows, tmp_path, sampling={"prompts": 9, "rollouts": 2, "batch": 6, "updates": 1})
    with pytest.raises(
        TrainingDataError, match=r"8 prompts fit .* sampling\.prompts draws 9 together.* Lower sampling"
    ):
        run(job)
    assert list(tmp_path.iterdir()) == []
