"""How a training process tells what it is doing: through Dagster Pipes when launched by it, else plain lines.

    with open_reporter() as reporter:
        reporter.step("sft", 3, 25, {"loss": 2.1})

Through Pipes every step is a line of the run's log; otherwise it is a line on stderr, so stdout stays free for a
program to read. Of several processes the first one tells. Deliberately absent: progress bars (a terminal's business)
and metric stores (result.json keeps the curve).
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import dagster_pipes

from training.ranks import first


class Reporter(Protocol):
    """Where progress goes."""

    def note(self, text: str) -> None:
        """Say one thing in words."""

    def fail(self, text: str) -> None:
        """Say why it ends."""

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Say that a step is done, with its numbers."""


class LineReporter:
    """Plain lines on stderr."""

    def note(self, text: str) -> None:
        """One line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def fail(self, text: str) -> None:
        """One line."""
        self.note(text)

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """One line with the numbers."""
        self.note(line(stage, step, total, metrics))


class SilentReporter:
    """What the other processes of a stage tell."""

    def note(self, text: str) -> None:
        """Nothing."""

    def fail(self, text: str) -> None:
        """Nothing."""

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""


class PipesReporter:
    """Log lines of a Dagster Pipes session."""

    def __init__(self, pipes: dagster_pipes.PipesContext) -> None:
        self.pipes = pipes

    def note(self, text: str) -> None:
        """One log line in the run's event log."""
        self.pipes.log.info(text)

    def fail(self, text: str) -> None:
        """One log line, as an error."""
        self.pipes.log.error(text)

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """One log line."""
        self.pipes.log.info(line(stage, step, total, metrics))


def line(stage: str, step: int, total: int, metrics: Mapping[str, float]) -> str:
    """`sft 3/25  loss 2.100  lr 1e-05`."""
    return "  ".join([f"{stage} {step}/{total}", *(f"{name} {value:.4g}" for name, value in metrics.items())])


@contextmanager
def open_reporter() -> Iterator[Reporter]:
    """The reporter that fits how this process was launched."""
    if not first():
        yield SilentReporter()
    elif dagster_pipes.PipesEnvVarParamsLoader().is_dagster_pipes_process():
        with dagster_pipes.open_dagster_pipes() as pipes:
            yield PipesReporter(pipes)
    else:
        yield LineReporter()
