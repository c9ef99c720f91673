"""The supervised stage (METHOD.md section 3), a process of its own.

    python -m training.sft JOB.json

Trains on the `sft` rows of a release: with TRL's SFTTrainer where the objective is cross-entropy, on the response only;
else with one of `training.objectives`. Batches of like length, fp32 weights with bf16 arithmetic. Loss is reported each
step. Deliberately absent: the way from a job to its checkpoint, which is the same for RL (training.stages).
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ranking.decoding.replies import LETTERS
from training.chat import prompt_ids, switches
from training.curves import Tally
from training.examples import PairGroup, RankingExample, pair_groups, sft_examples
from training.faults import attempted
from training.host import settle
from training.jobs import SftJob, TrainResult
from training.ranks import count
from training.readings import NO, YES
from training.reporting import Reporter, open_reporter
from training.seams import FirstTokenRankNet, SoftmaxCrossEntropy, Student, Supervised
from training.stages import PLAIN, Bench, Data, carry_out, common, lora

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
    """Do the job, or return its stored result. Raises TrainingDataError and TrainingStopped."""
    return carry_out(job, METRICS, _prepare, reporter)


def _prepare(job: SftJob, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[Data, Callable[[Bench], Any]]:
    """The examples of the recipe's objective, and what makes its trainer."""
    objective = job.recipe.supervised
    if isinstance(objective, SoftmaxCrossEntropy):
        groups, left_out = pair_groups(rows, job.recipe, tokenizer, job.seed)
        return Data.of(groups, left_out), partial(_group_trainer, job, groups)
    examples, left_out = sft_examples(rows, job.recipe, tokenizer, job.seed)
    made = _first_token_trainer if isinstance(objective, FirstTokenRankNet) else _cross_entropy_trainer
    return Data.of(examples, left_out), partial(made, job, examples)


def _cross_entropy_trainer(job: SftJob, examples: Sequence[RankingExample], bench: Bench) -> Any:
    from datasets import Dataset
    from trl import SFTTrainer

    from training.student import load_student

    arguments = _config(job.recipe.supervised, job.recipe.model, bench.desk, job.seed)  # before weights: see `common`
    told = {"chat_template_kwargs": switches(job.recipe.contract.think)}
    trainer = _recording(SFTTrainer)(
        model=load_student(bench.source),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": e.prompt, "completion": e.completion, **told} for e in examples]),
        processing_class=bench.tokenizer,
        peft_config=lora(job.recipe.model),
    )
    trainer.tally = bench.tally
    trainer.of_tokens = _by_tokens(trainer.train_dataset["input_ids"], [e.row_id for e in examples])
    return trainer


def _first_token_trainer(job: SftJob, examples: Sequence[RankingExample], bench: Bench) -> Any:
    from training.objectives import FirstTokenTrainer

    objective, tokenizer = job.recipe.supervised, bench.tokenizer
    assert isinstance(objective, FirstTokenRankNet)  # by `_prepare`
    rows = []
    for example in examples:
        prompt = prompt_ids(tokenizer, example.prompt, job.recipe.contract.think)
        said = tokenizer(example.completion[0]["content"], add_special_tokens=False)["input_ids"]
        tokens = [[*prompt, *said, tokenizer.eos_token_id]]
        rows.append({"row_id": example.row_id, "tokens": tokens, "prompt": len(prompt), "order": example.teacher_order})
    letters = _tokens(tokenizer, LETTERS[: max(len(example.teacher_order) for example in examples)])
    return FirstTokenTrainer(letters=letters, weight=objective.weight, rows=rows, **_row_trainer(job, bench))


def _group_trainer(job: SftJob, groups: Sequence[PairGroup], bench: Bench) -> Any:
    from training.objectives import GroupTrainer

    tokenizer = bench.tokenizer
    yes, no = _tokens(tokenizer, (YES, NO))
    think = job.recipe.contract.think
    rows = [{"row_id": g.row_id, "tokens": [prompt_ids(tokenizer, p, think) for p in g.prompts]} for g in groups]
    limit = job.recipe.supervised.max_tokens
    return GroupTrainer(yes=yes, no=no, limit=limit, rows=rows, **_row_trainer(job, bench))


def _row_trainer(job: SftJob, bench: Bench) -> dict[str, Any]:
    """What the trainers of `training.objectives` share."""
    from transformers import TrainingArguments

    from training.student import load_student

    rates = _lengths_and_rates(job.recipe.supervised)
    arguments = TrainingArguments(
        remove_unused_columns=False, **rates, **common(job.recipe.model, bench.desk, job.seed)
    )
    model, adapters = load_student(bench.source), lora(job.recipe.model)
    if adapters is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapters)
    return {
        "model": model,
        "args": arguments,
        "processing_class": bench.tokenizer,
        "pad": bench.tokenizer.pad_token_id,
        "tally": bench.tally,
    }


def _tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The token of each word at the start of an answer. Raises SeveralTokensError."""
    from training.first_token import token_ids

    return list(token_ids(tokenizer, words).values())


def _recording(trainer: type) -> Any:
    """A trainer class with batches of like length that counts in `tally` the tokens and rows that its steps drew.

    TRL drops every column but its own, so a row is known again by its tokens (`of_tokens`).
    """

    class Recording(trainer):
        of_tokens: Mapping[tuple[int, ...], Sequence[str]]
        tally: Tally

        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            from training.batching import AlikeBatches

            lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
            return AlikeBatches(lengths, self.args.train_batch_size * count())

        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            self.tally.count(inputs["attention_mask"])
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
                self.tally.seen.update(self.of_tokens[tuple(ids[mask.bool()].tolist())])
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


def main(argv: Sequence[str]) -> int:
    """Run the job file named on the command line; gives the status to exit with."""
    (path,) = argv
    settle()
    job = SftJob.model_validate_json(Path(path).read_bytes())
    with open_reporter() as reporter:
        return attempted(lambda: run(job, reporter), job, reporter, PLAIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
