"""The contestant `ours` of `training.py`: the supervised stage as `training.sft` builds it, in a process it settled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from learning import Task, compete

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` is the room, not the benchmark

from training.host import settle


def build(task: Task) -> Any:
    """The stage's trainer, with the curve that it records."""
    from training.curves import Curve, Tally, only_curve, quiet
    from training.examples import RankingExample
    from training.jobs import SftJob
    from training.reporting import LineReporter
    from training.sft import METRICS, _cross_entropy_trainer
    from training.stages import Bench
    from training.student import load_tokenizer

    quiet()
    job = SftJob.model_validate_json(task.job.read_bytes())
    examples = [RankingExample(one["row_id"], one["prompt"], one["completion"], (), ()) for one in task.examples]
    bench = Bench(task.model, load_tokenizer(task.model), job.recipe.model, task.folder, Tally())
    trainer = _cross_entropy_trainer(job, examples, bench)
    trainer.add_callback(Curve("sft", METRICS, LineReporter(), bench.tally).callback())
    only_curve(trainer)
    return trainer


if __name__ == "__main__":
    settle()
    compete(build)
