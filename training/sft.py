"""Cold-start supervised fine-tuning (METHOD.md section 3), a process of its own.

    python -m training.sft JOB.json

Trains on the `sft` rows of a release with TRL's SFTTrainer: token negative log-likelihood on the response only, batches
of like length, fp32 weights with bf16 arithmetic. Loss is reported each step. Deliberately absent: an evaluation loop;
what a checkpoint is worth is measured by `training.rerank`.
"""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.curves import quiet
from training.host import settle
from training.jobs import SftJob, TrainResult, finished, publish, workspace
from training.recipes import CrossEntropy, Student
from training.reporting import Reporter, open_reporter

# Names of TRL's log entries, and what they are called here.
METRICS = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
}


def run(job: SftJob, reporter: Reporter) -> TrainResult:
    """Do the job, or return its stored result. Raises TrainingDataError when no row fits."""
    if (done := finished(job)) is not None:
        reporter.note(f"sft: nothing to do, {job.folder} is finished")
        return done
    started = time.time()
    quiet()
    from datasets import Dataset
    from transformers import set_seed
    from trl import SFTTrainer

    from training.checkpoints import read_rows, require, write_checkpoint
    from training.curves import Curve, merged, only_curve
    from training.examples import sft_examples
    from training.student import load_student, load_tokenizer, resolve

    set_seed(job.seed)
    source = resolve(job.model, job.base_cache)
    tokenizer = load_tokenizer(source)
    examples, left_out = sft_examples(read_rows(job.rows, "sft"), job.recipe, tokenizer, job.seed)
    require(examples, left_out, job.rows, "sft")
    reporter.note(f"sft: {len(examples)} rows, {len(left_out)} left out, starting from {job.model.path}")
    with workspace(job) as part:
        curve = Curve("sft", METRICS, reporter)
        trainer = _recording(SFTTrainer)(
            model=load_student(source),
            args=_config(job.recipe.objective, job.recipe.model, part, job.seed),
            train_dataset=Dataset.from_list([{"prompt": e.prompt, "completion": e.completion} for e in examples]),
            processing_class=tokenizer,
            peft_config=lora(job.recipe.model),
            callbacks=[curve.callback()],
        )
        only_curve(trainer)
        trainer.of_tokens = _by_tokens(trainer.train_dataset["input_ids"], [e.row_id for e in examples])
        begun = time.time()
        trainer.train()
        result = write_checkpoint(
            part,
            job,
            merged(trainer.model),
            tokenizer,
            examples=examples,
            left_out=left_out,
            seen=trainer.seen,
            history=curve.history,
            tokens=curve.tokens,
            started=started,
            train_seconds=time.time() - begun,
        )
        publish(part, job, result)
    return result


def _recording(trainer: type) -> Any:
    """A trainer class that keeps in `seen` the ids of the rows that its steps drew.

    TRL drops every column but its own, so a row is known again by its tokens (`of_tokens`).
    """

    class Recording(trainer):
        of_tokens: Mapping[tuple[int, ...], Sequence[str]]

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.seen: set[str] = set()

        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
                self.seen.update(self.of_tokens[tuple(ids[mask.bool()].tolist())])
            return super().training_step(model, inputs, *rest, **named)

    return Recording


def _by_tokens(tokens: Iterable[Sequence[int]], row_ids: Sequence[str]) -> dict[tuple[int, ...], list[str]]:
    found: dict[tuple[int, ...], list[str]] = {}
    for ids, row_id in zip(tokens, row_ids, strict=True):
        found.setdefault(tuple(ids), []).append(row_id)
    return found


def _config(objective: CrossEntropy, model: Student, part: Path, seed: int) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        learning_rate=objective.lr,
        num_train_epochs=objective.epochs,
        max_steps=objective.max_steps or -1,
        per_device_train_batch_size=objective.batch,
        gradient_accumulation_steps=objective.accumulation,
        lr_scheduler_type=objective.scheduler,
        warmup_steps=objective.warmup,
        weight_decay=objective.weight_decay,
        max_length=objective.max_tokens,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        **common(model, part, seed),
    )


def common(model: Student, part: Path, seed: int) -> dict[str, Any]:
    """Trainer settings that every stage shares: precision, device, seeds, and no files but our own."""
    from training.student import arithmetic, best_device

    cpu = best_device() == "cpu"
    return {
        "output_dir": str(part),
        "use_cpu": cpu,
        "bf16": model.bf16 and arithmetic("bfloat16") == "bfloat16",
        "fp16": False,
        "gradient_checkpointing": model.gradient_checkpointing,
        "dataloader_pin_memory": not cpu,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
    }


def lora(model: Student) -> Any:
    """The adapter configuration, or None where all weights learn."""
    if model.tuning == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(r=model.rank, lora_alpha=model.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def main(argv: Sequence[str]) -> None:
    """Run the job file named on the command line."""
    (path,) = argv
    settle()
    with open_reporter() as reporter:
        run(SftJob.model_validate_json(Path(path).read_bytes()), reporter)


if __name__ == "__main__":
    main(sys.argv[1:])
