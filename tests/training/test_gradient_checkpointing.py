"""Activations that are computed anew in the backward pass: what is learned is what is learned from kept ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from word_stages import figures, rl_job, run, sft_job

from training.jobs import ModelRef, RlJob, SftJob

FEW = {"max_steps": 4}
ADAPTERS = {"tuning": "lora", "rank": 4}
STAGES: dict[str, Any] = {
    "sft": lambda *where, student: sft_job(*where, "reasonrank", FEW, student),
    "sft, adapters": lambda *where, student: sft_job(*where, "reasonrank", FEW, {**student, **ADAPTERS}),
    "first token": lambda *where, student: sft_job(*where, "first", FEW, student),
    "groups": lambda *where, student: sft_job(*where, "direct-point", FEW, student),
    "groups, adapters": lambda *where, student: sft_job(*where, "direct-point", FEW, {**student, **ADAPTERS}),
    "rl": lambda *where, student: rl_job(*where, sampling=FEW, student=student),
    "rl, adapters": lambda *where, student: rl_job(*where, sampling=FEW, student={**student, **ADAPTERS}),
}


@pytest.fixture(scope="module")
def taught(words: ModelRef, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A student that is right often enough for the rollouts of a prompt to be worth different rewards."""
    steps = {"batch": 4, "max_steps": 60, "scheduler": "constant"}
    job = sft_job(words, rows, tmp_path_factory.mktemp("taught"), "reasonrank-direct", steps)
    return ModelRef(path=str(job.folder), sha256=run(job).weights_sha256)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_the_same_with_gradient_checkpointing(
    stage: str, taught: ModelRef, rows: Path, tmp_path: Path
) -> None:
    kept, anew = (
        STAGES[stage](taught, rows, tmp_path / name, student={"gradient_checkpointing": name == "anew"})
        for name in ("kept", "anew")
    )
    with layers_read() as once:
        expected = run(kept)
    with layers_read() as again:
        made = run(anew)
    assert len(made.history) == 4 and len(again) > len(once) > 0
    for one, other in zip(figures(expected), figures(made), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    assert any(entry["grad_norm"] > 0 for entry in made.history)
    start, before, after = load_file(Path(taught.path) / "model.safetensors"), weights(kept), weights(anew)
    assert any(not torch.equal(start[name], after[name]) for name in start)
    for name in before:
        assert torch.allclose(before[name], after[name], atol=1e-5), name


@contextmanager
def layers_read() -> Iterator[list[str]]:
    """Grows by an entry whenever a layer of a model that trains is read, be it anew."""
    read: list[str] = []

    def look(module: torch.nn.Module, _: Any) -> None:
        if module.training and type(module) is LlamaDecoderLayer:
            read.append("layer")

    hook = register_module_forward_pre_hook(look)
    try:
        yield read
    finally:
        hook.remove()


def weights(job: SftJob | RlJob) -> dict[str, torch.Tensor]:
    return load_file(job.folder / "model.safetensors")
