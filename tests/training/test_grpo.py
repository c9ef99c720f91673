"""Reinforcement on a toy release: from an SFT start the mean reward rises."""

from pathlib import Path
from statistics import mean

from word_stages import make_words, rl_job, run, sft_job, write_rows

from training.jobs import ModelRef


def test_the_mean_reward_rises_within_thirty_steps_from_an_sft_start(tmp_path: Path) -> None:
    words, rows = make_words(tmp_path / "words"), write_rows(tmp_path, "sft", "rl")
    taught = sft_job(words, rows, tmp_path, "reasonrank-direct", {"batch": 4, "max_steps": 60, "scheduler": "constant"})
    start = ModelRef(path=str(taught.folder), sha256=run(taught).weights_sha256)
    rolls = {"prompts": 4, "rollouts": 8, "batch": 32, "updates": 1, "max_steps": 30, "lr": 1e-3}
    job = rl_job(start, rows, tmp_path, sampling={**rolls, "max_completion_tokens": 12})
    result = run(job)
    rewards = [entry["reward"] for entry in result.history]
    assert len(rewards) == 30
    assert mean(rewards[-5:]) - mean(rewards[:5]) >= 0.3
    # By better lists, and not only by fewer that are none.
    orders = [entry["ndcg"] for entry in result.history if entry["malformed_rate"] < 0.5]
    assert mean(orders[-5:]) > mean(orders[:5])
    assert all(0.0 <= entry["groups_without_variance"] <= 1.0 for entry in result.history)
