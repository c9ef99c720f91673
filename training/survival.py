"""What a killed training process leaves behind, and how the next one goes on from it to the same weights.

    with alone(job, reporter):                         # another process with this job is waited for
        keeper = Keeper(job, updates, {"curve": curve, "tally": tally})
        trainer = ...(args=TrainingArguments(output_dir=keeper.desk, ...))
        trainer.add_callback(keeper.callback())
        trainer.train(resume_from_checkpoint=keeper.found(reporter))
        ...
        keeper.forget()                                # once the job is published

The trainer's own checkpoint (weights, optimizer, schedule, random states) is joined by what it does not keep: the
curve, the rows seen, and the random state from which the epoch's order of rows was drawn. It is written on a desk and
gets its name when all of it is on disk, so that whatever bears the name is whole; the one before it goes then. The
profile says how often (`training.running`); a stage that is done sooner keeps none. Deliberately absent: checkpoints as
a product (`jobs.publish`), and files of another origin: these are read by the job that wrote them, with the library
versions that wrote them.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.checkpoints import libraries
from training.jobs import TrainJob, sync
from training.ranks import first, same, wait
from training.reporting import Reporter

PREFIX = "checkpoint-"
MEMORY, ORDER = "memory.json", "order.safetensors"
ASKS_S = 0.5  # how often a job that another process holds is asked for


class Member:
    """Whoever has something to go on with beside the weights."""

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it, of all processes together; all of them ask."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        raise NotImplementedError

    def tidy(self) -> None:
        """A checkpoint with the present state is whole: files that only older ones need may go."""


@contextmanager
def alone(job: TrainJob, reporter: Reporter) -> Iterator[None]:
    """Hold the job's folder for going on; waits while a living process holds it, and takes it from a dead one.

    What holds nothing but the lock in the end is removed. The first process holds it for all of a stage.
    """
    if not first():
        wait()
        yield
        return
    folder, lock = job.resume, job.resume / "lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
        if not _locked(descriptor):
            reporter.note(f"{job.stage}: another process is at this job ({job.folder.name}); waiting for it")
            # Asked again and again: polars has signals restart what they break into, so that a process that sleeps in
            # flock does not hear Ctrl-C.
            while not _locked(descriptor):
                time.sleep(ASKS_S)
        # Whoever held it may have removed the folder: what is locked then is a file without a name.
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            break
        os.close(descriptor)
    wait()
    try:
        yield
    finally:
        if folder.exists() and {path.name for path in folder.iterdir()} <= {"lock", "desk"}:
            shutil.rmtree(folder)
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Keeper:
    """Writes and finds the checkpoints of one job; use it only within `alone`."""

    def __init__(self, job: TrainJob, updates: int, members: Mapping[str, Member]) -> None:
        """`updates`: optimizer steps made from one batch of rollouts; a checkpoint amid them would lose it."""
        self.job = job
        self.updates = updates
        self.members = members
        self.desk = job.resume / "desk"
        self.went_on_at: list[int] = []
        self._epoch: dict[str, Any] = {}
        self._found: Path | None = None
        if first():
            shutil.rmtree(self.desk, ignore_errors=True)
        wait()

    @property
    def newest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max(self.job.resume.glob(f"{PREFIX}*"), key=_step, default=None)

    def found(self, reporter: Reporter) -> str | None:
        """Where to go on from, the members' states restored; None where the job begins. Call it once, at the start."""
        if (newest := self.newest) is None:
            return None
        memory, step = json.loads((newest / MEMORY).read_text(encoding="utf-8")), _step(newest)
        if memory["versions"] != libraries():
            reporter.note(f"{self.job.stage}: step {step} was kept by other library versions; beginning anew")
            wait()
            if first():
                shutil.rmtree(newest)
            return None
        for name, member in self.members.items():
            member.restore(memory["members"][name])
        self.went_on_at = [*memory["went_on_at"], step]
        self._found = newest
        reporter.note(f"{self.job.stage}: going on from step {step}, which an earlier process reached")
        return str(newest)

    def told(self) -> str:
        """What is kept, in words."""
        if (newest := self.newest) is None:
            return "Nothing was kept so far: the stage begins anew when it is started again"
        return f"The last good state is that of step {_step(newest)}, in {newest}"

    def forget(self) -> None:
        """Remove all that was kept."""
        if first():
            shutil.rmtree(self.job.resume, ignore_errors=True)

    def callback(self) -> Any:
        """A transformers TrainerCallback that keeps; add it behind those whose state it is to keep."""
        from transformers import TrainerCallback

        keeper, job = self, self.job

        class Keeping(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.kept, self.step = time.monotonic(), state.global_step

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                keeper._begin_epoch(_generator(given["train_dataloader"]), amid=state.epoch != int(state.epoch))

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if control.should_training_stop or state.global_step % keeper.updates:
                    return
                if job.checkpoint_steps is not None:
                    control.should_save = state.global_step - self.step >= job.checkpoint_steps
                else:
                    control.should_save = same(time.monotonic() - self.kept >= job.checkpoint_seconds)

            def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                keeper._keep(state.global_step, _generator(given["train_dataloader"]))
                self.kept, self.step = time.monotonic(), state.global_step

        return Keeping()

    def _begin_epoch(self, generator: Any, amid: bool) -> None:
        """Put back the state from which the rows' order was drawn, if going on, and note it.

        The trainer itself draws that order anew and skips what was read, then restores the random state of the
        checkpoint: with these two the rest of the order is the same.
        """
        import torch
        from safetensors.torch import load_file

        if self._found is not None:
            order = load_file(self._found / ORDER)
            if amid:
                torch.set_rng_state(order["epoch"])
            if generator is not None:
                generator.set_state(order["epoch_generator" if amid else "generator"])
            self._found = None
        self._epoch = {"epoch": torch.get_rng_state()}
        if generator is not None:
            self._epoch["epoch_generator"] = generator.get_state()

    def _keep(self, step: int, generator: Any) -> None:
        """Complete what the trainer wrote on the desk, and give it its name."""
        from safetensors.torch import save_file

        states = {name: member.state() for name, member in self.members.items()}
        wait()  # each process writes a part of it
        if not first():
            wait()
            return
        made = self.desk / f"{PREFIX}{step}"
        (made / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody reads
        save_file(self._epoch | ({"generator": generator.get_state()} if generator is not None else {}), made / ORDER)
        memory = {
            "versions": libraries(),
            "went_on_at": self.went_on_at,
            "members": states,
        }
        (made / MEMORY).write_text(json.dumps(memory), encoding="utf-8")
        sync(made)
        kept = self.job.resume / made.name
        if kept.exists():
            shutil.rmtree(kept)
        made.rename(kept)
        for old in self.job.resume.glob(f"{PREFIX}*"):
            if old != kept:
                shutil.rmtree(old)
        shutil.rmtree(self.desk)
        for member in self.members.values():
            member.tidy()
        wait()


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _generator(dataloader: Any) -> Any:
    """The sampler's own generator of random numbers, or None where it draws from torch's."""
    batches = dataloader.batch_sampler
    whole = getattr(batches, "batch_sampler", batches)  # of which this process has a part, where there are several
    return getattr(getattr(whole, "sampler", None), "generator", None)
