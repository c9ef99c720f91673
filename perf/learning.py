"""What every contestant of `training.py` shares: its examples, its clock and its report.

    def build(task: Task) -> Any:                       # a transformers Trainer over task.examples
        ...

    if __name__ == "__main__":
        compete(build)

A contestant goes through all examples once, in the batches that its own sampler makes, and is measured from the end of
its first step, which warms up, to the end of its last. Tokens and padding are counted in the batches that reach the
model. Absent on purpose: checkpoints, which nobody writes here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What is learned: `examples` hold row_id, prompt and completion; `job` is the file of an SftJob."""

    job: Path
    model: Path
    examples: list[dict[str, Any]]
    batch: int
    folder: Path


def compete(build: Callable[[Task], Any]) -> None:
    """Run a contestant on the task in the command line, and write its report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args()
    examples = [json.loads(line) for line in given.examples.read_text(encoding="utf-8").splitlines()]
    trainer = build(Task(given.job, given.model, examples, given.batch, given.report.parent / "work"))

    from transformers import TrainerCallback

    batches: list[tuple[int, int]] = []
    ends: list[float] = []
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *rest: Any) -> Any:
        mask = inputs["attention_mask"]
        batches.append((int(mask.sum()), mask.numel()))
        return step(model, inputs, *rest)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    trainer.training_step = counted
    trainer.add_callback(Clock())
    trainer.train()
    tokens, places = (sum(part) for part in zip(*batches[1:], strict=True))
    report = {
        "seconds": ends[-1] - ends[0],
        "tokens": tokens,
        "padding": 1.0 - tokens / places,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    given.report.write_text(json.dumps(report), encoding="utf-8")
