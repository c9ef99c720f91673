"""When a stage has to stop: a loss that is no number or has left its start far behind, full memory, a full disk.

    fault = diagnose("sft", history)                   # after every step; None while all is well
    with explained(job, where): trainer.train()        # out of memory, in words
    return attempted(lambda: run(job), job, reporter, PLAIN)   # told in one line, or with its traceback

Divergence is a loss of more than 3 times its start (the least of its first five steps, 1 at least) for 20 steps on end;
under reinforcement, whose loss starts at zero, a KL to the starting policy of more than 10 nats a token for as long.
Deliberately absent: repair. The same job with the same seed would come to the same end, so a person changes it.
"""

import errno
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from training.jobs import Job, RerankJob, TrainJob
from training.reporting import Reporter

RISE, FLOOR, OPENING = 3.0, 1.0, 5
HIGHEST_KL = 10.0
ON_END = 20
# What must be a number for the next step to be one.
NUMBERS = ("loss", "reward", "kl", "grad_norm")
# safetensors and torch raise errors of their own, with what the system said somewhere in the text, or not at all.
NO_ROOM = ("no space left", "disk quota exceeded", "pytorchstreamwriter failed writing")
NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


class TrainingStopped(RuntimeError):
    """A stage that cannot go on; the message says what, when, the likely cause, what to change and what is kept."""


def diagnose(stage: str, history: Sequence[Mapping[str, float]]) -> str | None:
    """What is wrong with the newest entry of a curve, with its likely cause, or None."""
    last = history[-1]
    for name in NUMBERS:
        if name in last and not math.isfinite(last[name]):
            return f"{name} is {last[name]}. Likely cause: steps that are too large, or a target that cannot be scored"
    steps = [entry for entry in history if "loss" in entry]
    tail = steps[-ON_END:]
    if len(tail) < ON_END:
        return None
    if stage == "rl":
        if all(entry.get("kl", 0.0) > HIGHEST_KL for entry in tail):
            return (
                f"the KL to the starting policy has stood above {HIGHEST_KL:g} for {ON_END} steps ({last['kl']:.3g} "
                f"now). Likely cause: steps that are too large, or a KL weight that is too small"
            )
        return None
    start = min(entry["loss"] for entry in steps[:OPENING])
    if min(entry["loss"] for entry in tail) > RISE * max(start, FLOOR):
        return (
            f"the loss has stood above {RISE:g} times its start for {ON_END} steps ({start:.3g} at first, "
            f"{last['loss']:.3g} now). Likely cause: steps that are too large"
        )
    return None


def smaller_steps(job: TrainJob) -> str:
    """What to change where steps are too large."""
    if job.stage == "rl":
        settings = job.recipe.grpo
        return f"Lower sampling.lr ({settings.lr:g}) or raise sampling.kl ({settings.kl:g})"
    supervised = job.recipe.supervised
    return f"Lower objective.lr ({supervised.lr:g}) or raise objective.warmup ({supervised.warmup:g})"


def less_memory(job: TrainJob | RerankJob) -> str:
    """What to change where memory is out."""
    recipe = job.recipe
    read = f"decoding.batch ({recipe.decoding.batch})"
    if isinstance(job, RerankJob):
        return f"Lower {read}"
    again = "" if recipe.model.gradient_checkpointing else ", set model.gradient_checkpointing: true"
    if recipe.selecting(job.stage) is not None:
        again += f"; where it was ranking dev rows, lower {read}"
    if job.stage == "rl":
        grpo = recipe.grpo
        return (
            f"Lower sampling.batch ({grpo.batch}), sampling.max_completion_tokens ({grpo.max_completion_tokens}) or "
            f"sampling.max_prompt_tokens ({grpo.max_prompt_tokens}){again}"
        )
    supervised = recipe.supervised
    return (
        f"Lower objective.batch ({supervised.batch}; raise objective.accumulation for it) or objective.max_tokens "
        f"({supervised.max_tokens}){again}"
    )


@contextmanager
def explained(job: TrainJob | RerankJob, where: Callable[[], str], kept: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory into TrainingStopped; `where` says how far the stage had come."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _is_memory(error)):
            raise
        said = str(error).strip().split("\n")[0] or type(error).__name__
        raise TrainingStopped(
            f"{job.stage} is out of memory at {where()} ({said}). Likely cause: a batch of long texts. "
            f"{less_memory(job)}. {kept()}"
        ) from error


def guard(job: TrainJob, history: Sequence[Mapping[str, float]], kept: Callable[[], str]) -> Any:
    """A transformers TrainerCallback that raises TrainingStopped; add it behind the one that records `history`."""
    from transformers import TrainerCallback

    class Guard(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if history and "loss" in (logs or {}) and (fault := diagnose(job.stage, history)) is not None:
                raise TrainingStopped(
                    f"{job.stage} stopped at step {state.global_step}: {fault}. {smaller_steps(job)}. {kept()}"
                )

    return Guard()


def attempted(work: Callable[[], object], job: Job, reporter: Reporter, plain: tuple[type[Exception], ...] = ()) -> int:
    """Do a stage's work; what is `plain` and a full disk are told in their own words alone. Gives the exit status."""
    try:
        work()
    except plain as error:
        reporter.fail(str(error))
    except Exception as error:
        if not _is_full_disk(error):
            raise
        said = str(error).strip().split("\n")[0]
        reporter.fail(
            f"{job.stage}: a disk is full ({said}). Look with `df -h {job.output} {job.base_cache}` and free some: "
            f"what was finished and each whole checkpoint are kept, and the same command goes on from them"
        )
    else:
        return 0
    return 1


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether a disk without room is at the bottom of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error).lower() for sign in NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_memory(error: BaseException) -> bool:
    return any(sign in str(error).lower() for sign in NO_MEMORY)
