"""Rollouts of reinforcement by a real vLLM beside the policy, on the CPU; `make test-vllm` runs it.

What vLLM says of the tokens that it wrote must be what the policy says of them, after every update: then the weights
that it writes with are those that learn.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import polars as pl
import pytest

from training import sft
from training.jobs import ModelRef, RlJob, SftJob, TrainResult, finished, write_job
from training.recipes import Recipe, load_recipe
from training.reporting import LineReporter
from training.running import Vllm

pytestmark = pytest.mark.vllm

HERE = Path(__file__).resolve().parent
TOPICS = ("rivers", "planets", "bridges", "violins")
SMALL = {
    "units": {"max_passages": 3, "passage_tokens": 16, "query_tokens": 16},
    "objective": {"lr": 2e-4, "epochs": 4, "batch": 4, "accumulation": 1, "max_tokens": 400, "max_steps": 4},
    "sampling": {
        "prompts": 2, "updates": 1, "rollouts": 4, "batch": 4, "lr": 1e-4, "max_completion_tokens": 24,
        "max_prompt_tokens": 400, "max_steps": 4,
    },
    "model": {"base": "smollm2", "gradient_checkpointing": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    made = [
        {
            "row_id": f"{split}/{topic}", "domain": "toy", "qid": topic, "split": split,
            "query": f"Why do {topic} matter?", "docids": [f"{topic}/{n}" for n in range(3)],
            "passages": ["Nothing of note.", f"All about {topic}.", f"One word on {topic}."],
            "final_order": [1, 2, 0], "relevant": [1], "reasoning": "", "license": "CC0-1.0", "source": "toy",
        }
        for split in ("sft", "rl")
        for topic in TOPICS
    ]  # fmt: skip
    pl.DataFrame(made).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(HERE.parents[1] / "recipes" / "reasonrank-direct.yaml", SMALL)


@pytest.fixture(scope="module")
def taught(recipe: Recipe, rows: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A student that has seen the form of an answer, so that its rollouts are worth different rewards."""
    base = ModelRef(path=str(checkpoint), sha256="base")
    job = SftJob(recipe=recipe, release="toy", rows=rows, model=base, output=tmp_path_factory.mktemp("sft"), seed=1)
    return ModelRef(path=str(job.folder), sha256=sft.run(job, LineReporter()).weights_sha256)


def test_rollouts_are_written_with_the_weights_that_learn(
    recipe: Recipe, rows: Path, taught: ModelRef, python: str, tmp_path: Path
) -> None:
    fresh, stale = (by_vllm(recipe, rows, taught, python, tmp_path / name, name) for name in ("fresh", "stale"))
    steps = [entry for entry in fresh.history if entry["step"]]
    assert len(steps) == recipe.grpo.max_steps and any(entry["grad_norm"] > 0 for entry in steps)
    apart = [entry["vllm_difference"] for entry in steps]
    behind = [entry["vllm_difference"] for entry in stale.history if entry["step"]]
    # Rounding alone: vLLM computes in bf16. Weights that stay behind are further off with every update.
    assert max(apart) < 0.1
    assert behind[0] == pytest.approx(apart[0], abs=0.02) and behind[-1] > 2 * apart[-1]


def by_vllm(recipe: Recipe, rows: Path, start: ModelRef, python: str, output: Path, way: str) -> TrainResult:
    vllm = Vllm(mode="colocate", memory=0.15, sleep=False)
    job = RlJob(recipe=recipe, release="toy", rows=rows, model=start, output=output, seed=1, vllm=vllm)
    libraries = sysconfig.get_paths()["purelib"]
    command = [python, str(HERE / "rollouts.py"), str(write_job(job)), libraries, way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    result = finished(job)
    assert isinstance(result, TrainResult), done.stderr[-4_000:]
    return result
