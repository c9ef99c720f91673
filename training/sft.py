"""The supervised stage (METHOD.md section 3), a process of its own.

    python -m training.sft JOB.json

Trains on the `sft` rows of a release: with TRL's SFTTrainer where the objective is cross-entropy, on the response only;
else with one of `training.objectives`. Batches of like length, fp32 weights with bf16 arithmetic. Loss is reported each
step. Deliberately absent: an evaluation loop;
what a checkpoint is worth is measured by `training.rerank`.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ranking.decoding.replies import LETTERS
from training.curves import quiet
from training.examples import PairGroup, RankingExample, pair_groups, sft_examples
from training.host import settle
from training.jobs import LeftOut, SftJob, TrainResult, finished, publish, workspace
from training.rankers import NO, YES
from training.reporting import Reporter, open_reporter
from training.seams import FirstTokenRankNet, SoftmaxCrossEntropy, Student, Supervised

# Names of TRL's log entries, and what they are called here.
METRICS = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    "cross_entropy": "cross_entropy",
    "ranknet": "ranknet",
    "accuracy": "accuracy",
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
    from transformers import set_seed

    from training.checkpoints import read_rows, require, write_checkpoint
    from training.curves import Curve, merged, only_curve
    from training.student import load_tokenizer, resolve

    set_seed(job.seed)
    source = resolve(job.model, job.base_cache)
    tokenizer = load_tokenizer(source)
    with workspace(job) as part:
        curve = Curve("sft", METRICS, reporter)
        data, trainer_of = _prepare(job, read_rows(job.rows, "sft"), tokenizer)
        require(data.row_ids, data.left_out, job.rows, "sft")
        trainer = trainer_of(source, part)
        trainer.add_callback(curve.callback())
        only_curve(trainer)
        used, left = len(set(data.row_ids)), len(data.left_out)
        reporter.note(f"sft: {used} rows, {left} left out, starting from {job.model.path}")
        begun = time.time()
        trainer.train()
        result = write_checkpoint(
            part,
            job,
            merged(trainer.model),
            tokenizer,
            row_ids=data.row_ids,
            queries_cut=data.queries_cut,
            left_out=data.left_out,
            seen=trainer.seen,
            history=curve.history,
            tokens=curve.tokens,
            started=started,
            train_seconds=time.time() - begun,
        )
        publish(part, job, result)
    return result


@dataclass(frozen=True)
class Data:
    """What a stage learns from: the row of each example, how many queries were cut, and the rows that make none."""

    row_ids: Sequence[str]
    queries_cut: int
    left_out: Sequence[LeftOut]

    @classmethod
    def of(cls, examples: Sequence[RankingExample] | Sequence[PairGroup], left_out: Sequence[LeftOut]) -> "Data":
        """The account of some examples; a row that makes several counts once."""
        return cls([e.row_id for e in examples], len({e.row_id for e in examples if e.query_cut}), left_out)


def _prepare(
    job: SftJob, rows: Sequence[Mapping[str, Any]], tokenizer: Any
) -> tuple[Data, Callable[[Path | str, Path], Any]]:
    """The examples of the recipe's objective, and what makes its trainer from a model's source and a work folder."""
    objective = job.recipe.supervised
    if isinstance(objective, SoftmaxCrossEntropy):
        groups, left_out = pair_groups(rows, job.recipe, tokenizer, job.seed)
        return Data.of(groups, left_out), partial(_group_trainer, job, groups, tokenizer)
    examples, left_out = sft_examples(rows, job.recipe, tokenizer, job.seed)
    made = _first_token_trainer if isinstance(objective, FirstTokenRankNet) else _cross_entropy_trainer
    return Data.of(examples, left_out), partial(made, job, examples, tokenizer)


def _cross_entropy_trainer(
    job: SftJob, examples: Sequence[RankingExample], tokenizer: Any, source: Path | str, part: Path
) -> Any:
    from datasets import Dataset
    from trl import SFTTrainer

    from training.student import load_student

    trainer = _recording(SFTTrainer)(
        model=load_student(source),
        args=_config(job.recipe.supervised, job.recipe.model, part, job.seed),
        train_dataset=Dataset.from_list([{"prompt": e.prompt, "completion": e.completion} for e in examples]),
        processing_class=tokenizer,
        peft_config=lora(job.recipe.model),
    )
    trainer.of_tokens = _by_tokens(trainer.train_dataset["input_ids"], [e.row_id for e in examples])
    return trainer


def _first_token_trainer(
    job: SftJob, examples: Sequence[RankingExample], tokenizer: Any, source: Path | str, part: Path
) -> Any:
    from training.objectives import FirstTokenTrainer

    objective = job.recipe.supervised
    assert isinstance(objective, FirstTokenRankNet)  # by `_prepare`
    rows = []
    for example in examples:
        prompt = _prompt_ids(tokenizer, example.prompt)
        said = tokenizer(example.completion[0]["content"], add_special_tokens=False)["input_ids"]
        tokens = [[*prompt, *said, tokenizer.eos_token_id]]
        rows.append({"row_id": example.row_id, "tokens": tokens, "prompt": len(prompt), "order": example.teacher_order})
    letters = _tokens(tokenizer, LETTERS[: max(len(example.teacher_order) for example in examples)])
    return FirstTokenTrainer(
        letters=letters, weight=objective.weight, rows=rows, **_row_trainer(job, tokenizer, source, part)
    )


def _group_trainer(job: SftJob, groups: Sequence[PairGroup], tokenizer: Any, source: Path | str, part: Path) -> Any:
    from training.objectives import GroupTrainer

    yes, no = _tokens(tokenizer, (YES, NO))
    rows = [{"row_id": g.row_id, "tokens": [_prompt_ids(tokenizer, prompt) for prompt in g.prompts]} for g in groups]
    return GroupTrainer(yes=yes, no=no, rows=rows, **_row_trainer(job, tokenizer, source, part))


def _row_trainer(job: SftJob, tokenizer: Any, source: Path | str, part: Path) -> dict[str, Any]:
    """What the trainers of `training.objectives` share."""
    from transformers import TrainingArguments

    from training.student import load_student

    model, adapters = load_student(source), lora(job.recipe.model)
    if adapters is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapters)
    rates = _lengths_and_rates(job.recipe.supervised)
    return {
        "model": model,
        "args": TrainingArguments(remove_unused_columns=False, **rates, **common(job.recipe.model, part, job.seed)),
        "processing_class": tokenizer,
        "pad": tokenizer.pad_token_id,
    }


def _prompt_ids(tokenizer: Any, prompt: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False))


def _tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The token of each word at the start of an answer. Raises SeveralTokensError."""
    from training.first_token import token_ids

    return list(token_ids(tokenizer, words).values())


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


def _config(objective: Supervised, model: Student, part: Path, seed: int) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        max_length=objective.max_tokens,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        **_lengths_and_rates(objective),
        **common(model, part, seed),
    )


def _lengths_and_rates(objective: Supervised) -> dict[str, Any]:
    return {
        "learning_rate": objective.lr,
        "num_train_epochs": objective.epochs,
        "max_steps": objective.max_steps or -1,
        "per_device_train_batch_size": objective.batch,
        "gradient_accumulation_steps": objective.accumulation,
        "lr_scheduler_type": objective.scheduler,
        "warmup_steps": objective.warmup,
        "weight_decay": objective.weight_decay,
    }


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
