"""How a training stage is carried out, SFT and RL alike: from a job to its published checkpoint.

    result = carry_out(job, METRICS, prepare, reporter)

`prepare(job, rows, tokenizer)` gives what is learned from and what makes the trainer; the rest is the same for all of
them: finished work is returned, the work of a killed process is gone on with (training.survival), the curve is kept and
watched (training.faults), and the best step is chosen where the recipe asks for it (training.selection). Deliberately
absent: what is learned (training.sft, training.rl).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from training.checkpoints import TrainingDataError, read_rows, require, write_checkpoint
from training.curves import Curve, Tally, left_behind, merged, only_curve, quiet
from training.examples import PairGroup, RankingExample
from training.faults import TrainingStopped, explained, guard
from training.first_token import SeveralTokensError
from training.jobs import LeftOut, RlJob, SftJob, TrainResult, finished, publish, workspace
from training.rankers import ranker_for
from training.ranks import best_device, count, first, join, same, wait
from training.recipes import RecipeError
from training.reporting import Reporter
from training.seams import Student
from training.selection import Selection, dev_lists
from training.shortened import Shortened
from training.student import StudentError
from training.survival import Keeper, Member, alone


@dataclass(frozen=True)
class Data:
    """What a stage learns from: the row of each example, what was shortened, and the rows that make none."""

    row_ids: Sequence[str]
    shortened: Shortened
    left_out: Sequence[LeftOut]

    @classmethod
    def of(cls, examples: Sequence[RankingExample] | Sequence[PairGroup], left_out: Sequence[LeftOut]) -> "Data":
        """The account of some examples."""
        return cls([e.row_id for e in examples], Shortened.of(examples), left_out)


@dataclass
class Bench:
    """Where a trainer is built: the weights it starts from, its tokenizer, a folder for its files, its tally.

    Whatever else has something to go on with after a death joins `members`.
    """

    source: Path | str
    tokenizer: Any
    model: Student
    desk: Path
    tally: Tally
    members: dict[str, Member] = field(default_factory=dict)

    @cached_property
    def twin(self) -> Any:
        """A second student in the dtype of inference, which is given the policy's weights before it writes.

        Writing with the policy itself under autocast casts every weight and the whole cache anew for each token
        (measured: 20 times slower). New adapters draw from torch's random state, which is left as it was: the order of
        the rows is drawn from it, and not every process has a twin.
        """
        import torch

        from training.student import load_student

        twin = load_student(self.source, dtype=self.model.inference_dtype)
        if (adapters := lora(self.model)) is not None:
            from peft import get_peft_model

            with torch.random.fork_rng():
                twin = get_peft_model(twin, adapters, autocast_adapter_dtype=False)
        return twin.eval()


# Errors that say what to do next: the way to them in the code says nothing more.
PLAIN = (TrainingDataError, TrainingStopped, RecipeError, StudentError, SeveralTokensError)
Rows = Sequence[Mapping[str, Any]]
Prepare = Callable[[Any, Rows, Any], tuple[Data, Callable[[Bench], Any]]]


def carry_out(job: SftJob | RlJob, names: Mapping[str, str], prepare: Prepare, reporter: Reporter) -> TrainResult:
    """Do the job, or return its stored result; `names` are those of the trainer's log entries, and ours.

    Raises TrainingDataError when no row fits, TrainingStopped where the stage cannot go on.
    """
    started = time.time()
    join()
    if same(finished(job)) is None:
        with alone(job, reporter):
            if same(finished(job)) is None:  # by whom this process waited for
                return _train(job, names, prepare, reporter, started)
    done = finished(job)
    assert done is not None
    reporter.note(f"{job.stage}: nothing to do, {job.folder} is finished")
    return done


def _train(
    job: SftJob | RlJob, names: Mapping[str, str], prepare: Prepare, reporter: Reporter, started: float
) -> TrainResult:
    quiet()
    from transformers import set_seed

    from training.student import load_tokenizer, resolve

    set_seed(job.seed)
    if first():
        resolve(job.model, job.base_cache)  # which may convert it
    wait()
    source = resolve(job.model, job.base_cache)
    tokenizer = load_tokenizer(source)
    data, trainer_of = prepare(job, read_rows(job.rows, job.stage), tokenizer)
    require(data.row_ids, data.left_out, job.rows, job.stage)
    tally = Tally()
    curve = Curve(job.stage, names, reporter, tally)
    members: dict[str, Member] = {"curve": curve, "tally": tally}
    keeper = Keeper(job, job.recipe.grpo.updates if job.stage == "rl" else 1, members)
    bench = Bench(source, tokenizer, job.recipe.model, keeper.desk, tally, members)
    trainer = trainer_of(bench)
    if (selection := _selection(job, bench, curve, trainer)) is not None:
        members["selection"] = selection
        trainer.add_callback(selection.callback())
    for callback in (curve.callback(), guard(job, curve.history, keeper.told), keeper.callback()):
        trainer.add_callback(callback)
    only_curve(trainer)
    used, left = len(set(data.row_ids)), len(data.left_out)
    reporter.note(f"{job.stage}: {used} rows, {left} left out, starting from {job.model.path}")
    reporter.note(f"{job.stage}: shortened to the recipe's budgets: {data.shortened.words()}")
    with left_behind(curve, job.curve), explained(job, lambda: f"step {trainer.state.global_step + 1}", keeper.told):
        trainer.train(resume_from_checkpoint=keeper.found(reporter))
    model, seen, tokens = whole_model(trainer, bench, selection), tally.rows(), tally.sums()[0]
    if not first():
        wait()
        result = finished(job)
        assert result is not None  # the first process has published it
        return result
    from training.student import in_one_piece

    with workspace(job) as part, in_one_piece():
        result = write_checkpoint(
            part,
            job,
            merged(model),
            tokenizer,
            row_ids=data.row_ids,
            shortened=data.shortened,
            left_out=data.left_out,
            seen=seen,
            history=curve.history,
            steps=trainer.state.global_step,
            chosen_step=None if selection is None else selection.step,
            dev_ndcg=None if selection is None else selection.best,
            went_on_at=keeper.went_on_at,
            tokens=tokens,
            started=started,
            train_seconds=curve.seconds,
        )
        publish(part, job, result)
    wait()
    keeper.forget()
    return result


def whole_model(trainer: Any, bench: Bench, selection: Selection | None) -> Any:
    """The trained model with all of its weights, in the first process: those of the best step, else of the last one.

    Several processes may each hold a part of it: those are put together on the CPU, in a model made anew.
    """
    weights = None if selection is not None else whole_weights(trainer)  # all of them ask
    if not first():
        return None
    model = trainer.model
    if count() > 1:
        from training.student import in_one_piece, load_student

        with in_one_piece():
            model = load_student(bench.source, device="cpu")
        if (adapters := lora(bench.model)) is not None:
            from peft import get_peft_model

            model = get_peft_model(model, adapters)
    if selection is not None:
        model.load_state_dict(selection.kept(), strict=False)
    elif count() > 1:
        model.load_state_dict(weights)
    return model


def whole_weights(trainer: Any) -> Mapping[str, Any]:
    """All weights by name; where no process holds them, they come together on the first one's CPU, and all ask."""
    weights: Mapping[str, Any] = (
        trainer.accelerator.get_state_dict(trainer.model_wrapped) if count() > 1 else trainer.model.state_dict()
    )
    return weights


def _selection(job: SftJob | RlJob, bench: Bench, curve: Curve, trainer: Any) -> Selection | None:
    """What finds the best step, where the recipe wants it found."""
    how = job.recipe.selecting(job.stage)
    if how is None:
        return None
    weights = partial(whole_weights, trainer)
    if not first():
        return Selection(job, how, None, (), curve, weights)
    from training.student import in_one_piece

    with in_one_piece():
        ranker = ranker_for(job.recipe, bench.twin, bench.tokenizer)
    lists, left_out = dev_lists(read_rows(job.rows, "dev"), how, job.recipe, ranker, job.seed)
    fewer = f" ({how.dev_rows} asked for)" if how.dev_rows is not None and len(lists) < how.dev_rows else ""
    curve.reporter.note(
        f"{job.stage}: {len(lists)} dev lists{fewer} every {how.evaluate_every} steps, {len(left_out)} left out"
    )
    return Selection(job, how, ranker, lists, curve, weights)


def common(model: Student, folder: Path, seed: int) -> dict[str, Any]:
    """Trainer settings that every stage shares: precision, device, seeds; what is kept when is `Keeper`'s to say.

    Make the arguments before weights are read: they tell transformers whether each process reads its part alone.
    """
    from training.student import arithmetic

    cpu = best_device() == "cpu"
    return {
        "output_dir": str(folder),
        "use_cpu": cpu,
        "bf16": model.bf16 and arithmetic("bfloat16") == "bfloat16",
        "fp16": False,
        "gradient_checkpointing": model.gradient_checkpointing,
        "dataloader_pin_memory": not cpu,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
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
