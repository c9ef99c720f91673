"""What a person sees while a run goes on: rich on a terminal, plain lines elsewhere.

with ChangingLine(console).shown("labelling") as line:
    line.say("40 of 400 done")          # what changes
    line.line("math: 38 rows")          # what stays
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

# What Dagster says of the channel to a process, while all is well with it.
CHANNEL = "[pipes]"


class ChangingLine:
    """Lines that stay, each with the seconds since the start, above one that changes; elsewhere all of them stay."""

    def __init__(self, console: Console) -> None:
        """`console` is where a person looks: stderr, so that stdout stays free for results."""
        self.console = console
        self.started = time.monotonic()
        self.status: Status | None = None

    @contextmanager
    def shown(self, text: str) -> Iterator["ChangingLine"]:
        """The line that changes is there for the length of a block."""
        self.show(text)
        try:
            yield self
        finally:
            self.end()

    def show(self, text: str) -> None:
        """Put the line that changes at the bottom, where there is a terminal."""
        if self.console.is_terminal and self.status is None:
            self.status = self.console.status(text)
            self.status.start()

    def end(self) -> None:
        """Take the changing line away."""
        if self.status is not None:
            self.status.stop()
            self.status = None

    def say(self, text: str) -> None:
        """What changes."""
        if self.status is not None:
            self.status.update(escape(text))
        else:
            self.line(text)

    def line(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self.console.print(
            f"[{time.monotonic() - self.started:6.1f} s] {text}",
            style=style,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


class RunProgress(logging.Handler):
    """Listens to a run: a line for every asset made and every failed check, and what assets say meanwhile.

    On a terminal what assets say is one changing line at the bottom; elsewhere it is a plain line each.
    """

    def __init__(self, console: Console) -> None:
        """`console` is where a person looks."""
        super().__init__(logging.DEBUG)
        self.changing = ChangingLine(console)
        self.place = ""

    def begin(self, place: str) -> None:
        """Name what is being made now: a domain, a recipe, the release."""
        self.place = place
        self.changing.show(place)

    def end(self) -> None:
        """Take the changing line away."""
        self.changing.end()

    def emit(self, record: logging.LogRecord) -> None:
        """One record of Dagster's log manager: an event, or what an asset said."""
        meta = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        if event is None and record.levelno >= logging.INFO:
            said = str(meta.get("orig_message") or record.getMessage())
            if record.levelno >= logging.ERROR:
                self.line(f"{self.place} · {said}", "bold red")
            elif record.levelno > logging.INFO or not said.startswith(CHANNEL):
                self._say(said)
        elif event is None:
            return
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            materialization = event.event_specific_data.materialization
            self._made(materialization.asset_key.path[-1], materialization.metadata)
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.event_specific_data
            if not evaluation.passed:
                name = f"{evaluation.asset_key.path[-1]}/{evaluation.check_name}"
                failed = evaluation.severity.value == "ERROR"
                word, style = ("FAILED", "bold red") if failed else ("warns", "yellow")
                self.line(f"check {name} {word}: {evaluation.description or ''}", style)

    def line(self, text: str, style: str = "") -> None:
        """A line that stays, with the seconds since the start."""
        self.changing.line(text, style)

    def _made(self, asset: str, metadata: dict[str, Any]) -> None:
        values = {name: getattr(value, "value", value) for name, value in metadata.items()}
        counts = f"{values.get('rows_in')} in, {values.get('rows_out')} out, {values.get('rows_rejected')} rejected"
        if values.get("unchanged"):
            self.line(f"{self.place} · {asset}: unchanged ({counts})", "dim")
            return
        paid = f", {values['calls']} calls, ${values['usd']:.2f}" if "usd" in values else ""
        self.line(f"{self.place} · {asset}: {counts}{paid}, {values.get('seconds')} s")

    def _say(self, text: str) -> None:
        self.changing.say(f"{self.place} · {text}")
