"""The learning curve: what a trainer logs, under this project's names, kept and reported step by step.

    curve = Curve("sft", {"loss": "loss"}, reporter)
    SFTTrainer(..., callbacks=[curve.callback()])
    curve.history                                   # [{"step": 1, "loss": 2.3, "seconds": 4.1}, ...]

Deliberately absent: plots and metric stores; the asset draws the curve from result.json.
"""

import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any

from training.reporting import Reporter


class Curve:
    """Collects one entry an optimizer step and hands each to the reporter."""

    def __init__(self, stage: str, names: Mapping[str, str], reporter: Reporter) -> None:
        self.stage = stage
        self.names = names
        self.reporter = reporter
        self.history: list[dict[str, float]] = []
        self.tokens = 0
        self._last = time.perf_counter()

    def record(self, step: int, total: int, logs: Mapping[str, Any]) -> None:
        """Keep what a trainer logged; the summary it logs at the end has no loss of its own and is passed over."""
        if "loss" not in logs:
            return
        metrics = {ours: float(logs[theirs]) for theirs, ours in self.names.items() if theirs in logs}
        now = time.perf_counter()
        metrics["seconds"] = round(now - self._last, 3)
        self._last = now
        self.tokens = int(logs.get("num_tokens", self.tokens))
        self.history.append({"step": float(step), **metrics})
        self.reporter.step(self.stage, step, total, metrics)

    def callback(self) -> Any:
        """A transformers TrainerCallback that records."""
        from transformers import TrainerCallback

        curve = self

        class Recorder(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                curve._last = time.perf_counter()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                curve.record(state.global_step, state.max_steps, logs or {})

        return Recorder()


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
