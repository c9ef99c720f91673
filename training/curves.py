"""The learning curve: what a trainer logs, under this project's names, kept and reported step by step.

    tally = Tally()                                 # filled by the trainer, batch by batch
    curve = Curve("sft", {"loss": "loss"}, reporter, tally)
    SFTTrainer(..., callbacks=[curve.callback()])
    curve.history                                   # [{"step": 1, "loss": 2.3, "seconds": 4.1, ...}, ...]

Beside what is logged an entry has `seconds`, `tokens_per_second` (padding is no token), `padding` (its share of all
places in the batches) and `memory_gb` (the most that this process has held so far). Deliberately absent: plots and
metric stores; the asset draws the curve from result.json, or from what a stage that failed left behind.
"""

import json
import logging
import math
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.ranks import everyone, first
from training.reporting import Reporter
from training.survival import Member

GB = 1e9


class Tally(Member):
    """What the batches held so far: whose rows, how many tokens, and in how many places."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.tokens = 0
        self.places = 0

    def count(self, mask: Any) -> None:
        """Add one batch by its attention mask."""
        self.tokens += int(mask.sum())
        self.places += mask.numel()

    def sums(self) -> tuple[int, int]:
        """Tokens and places of all processes; all of them ask."""
        parts = everyone((self.tokens, self.places))
        return sum(tokens for tokens, _ in parts), sum(places for _, places in parts)

    def rows(self) -> set[str]:
        """Rows of all processes; all of them ask."""
        return set().union(*everyone(self.seen))

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        tokens, places = self.sums()
        return {"seen": sorted(self.rows()), "tokens": tokens, "places": places}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the first process holds what all had."""
        self.seen |= set(state["seen"])
        if first():
            self.tokens, self.places = state["tokens"], state["places"]


class Curve(Member):
    """Collects one entry an optimizer step and hands each to the reporter."""

    def __init__(self, stage: str, names: Mapping[str, str], reporter: Reporter, tally: Tally) -> None:
        self.stage = stage
        self.names = names
        self.reporter = reporter
        self.tally = tally
        self.history: list[dict[str, float]] = []
        self._aside: dict[str, float] = {}
        self._last = (time.perf_counter(), 0, 0)

    @property
    def seconds(self) -> float:
        """Seconds spent in steps, those of killed processes that were kept among them."""
        return sum(entry.get("seconds", 0.0) for entry in self.history if entry["step"])

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {"history": self.history}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.history[:] = state["history"]

    def begin(self) -> None:
        """Start the clock of the next step."""
        self._last = (time.perf_counter(), *self.tally.sums())

    def aside(self, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Figures that took `seconds` beside the step's own work; those of step 0 are an entry of their own."""
        self._last = (self._last[0] + seconds, *self._last[1:])
        if step == 0:
            self._append(step, total, dict(metrics))
        else:
            self._aside.update(metrics)

    def record(self, step: int, total: int, logs: Mapping[str, Any]) -> None:
        """Keep what a trainer logged; the summary it logs at the end has no loss of its own and is passed over."""
        if "loss" not in logs:
            return
        # TRL says None where there was no number to mean.
        given = {ours: logs[theirs] for theirs, ours in self.names.items() if theirs in logs}
        metrics = {name: math.nan if value is None else float(value) for name, value in given.items()}
        then, tokens, places = self._last
        self.begin()
        now, all_tokens, all_places = self._last
        metrics["seconds"] = round(now - then, 3)
        metrics["tokens_per_second"] = round((all_tokens - tokens) / max(now - then, 1e-9), 1)
        if all_places > places:
            metrics["padding"] = round(1.0 - (all_tokens - tokens) / (all_places - places), 4)
        metrics["memory_gb"] = round(peak_memory() / GB, 2)
        self._append(step, total, metrics | self._aside)
        self._aside = {}

    def _append(self, step: int, total: int, metrics: dict[str, float]) -> None:
        self.history.append({"step": float(step), **metrics})
        self.reporter.step(self.stage, step, total, metrics)

    def callback(self) -> Any:
        """A transformers TrainerCallback that records."""
        from transformers import TrainerCallback

        curve = self

        class Recorder(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                curve.begin()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                curve.record(state.global_step, state.max_steps, logs or {})

        return Recorder()


@contextmanager
def left_behind(curve: Curve, path: Path) -> Iterator[None]:
    """Leave the curve so far at `path` where the steps end in an error: it shows what went wrong."""
    try:
        yield
    except Exception:
        if first() and curve.history:
            path.write_text(json.dumps(curve.history), encoding="utf-8")
        raise


def peak_memory() -> float:
    """The most bytes that this process has held: of the accelerator where there is one, else of memory."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def only_curve(trainer: Any) -> None:
    """Take away the callback that prints every log entry as a dictionary."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def merged(model: Any) -> Any:
    """The model with its adapters merged into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def quiet() -> None:
    """Keep the libraries' bars and notices off stderr: progress is ours to tell."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(trl|transformers|torch|peft|accelerate)(\.|$)")
