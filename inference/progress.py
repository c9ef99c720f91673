"""What a run of the engine has done so far, as counts a person or a metadata table can read.

`Tally` counts inside the engine; `Progress` is the frozen picture of it that callbacks receive.

Absent on purpose: drawing. The front door renders `Progress`; `Progress.line` is for places without a terminal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.exchange import Exchange, Failure


@dataclass(frozen=True)
class Progress:
    """A moment of a run. `done` = good + faulty + failed; `stored` of them came free from the store.

    `usd`, `prompt_tokens` and `completion_tokens` count what this run bought, repair turns included; `troubles`
    counts HTTP requests without an answer by kind, most of which a retry mended.
    """

    total: int | None
    done: int
    good: int
    stored: int
    repaired: int
    faulty: int
    failed: Mapping[str, int]
    troubles: Mapping[str, int]
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    elapsed_s: float
    rate: float
    eta_s: float | None
    in_flight: int
    concurrency: int

    @property
    def line(self) -> str:
        """The picture in one line."""
        of_total = f"/{self.total:,}" if self.total is not None else ""
        parts = [f"{self.done:,}{of_total} done", f"{self.stored:,} stored", f"{self.calls:,} calls"]
        parts += [f"{n:,} {name}" for name, n in (("repaired", self.repaired), ("faulty", self.faulty)) if n]
        parts += [f"{n:,} failed ({kind})" for kind, n in sorted(self.failed.items())]
        parts += [f"{n:,} x {kind}" for kind, n in sorted(self.troubles.items())]
        parts += [f"{self.rate:.1f}/s", f"{self.in_flight} in flight of {self.concurrency}"]
        parts += [f"{self.prompt_tokens + self.completion_tokens:,} tokens", f"${self.usd:,.2f}"]
        if self.eta_s is not None:
            parts.append(f"{_clock(self.eta_s)} left")
        return ", ".join(parts)


@dataclass
class Tally:
    """Counts kept by one run of the engine."""

    total: int | None
    good: int = 0
    stored: int = 0
    repaired: int = 0
    faulty: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        return self.good + self.faulty + self.failed.total()

    def bought(self, exchange: Exchange) -> None:
        self.prompt_tokens += exchange.prompt_tokens
        self.completion_tokens += exchange.completion_tokens
        self.usd += exchange.usd

    def outcome(self, outcome: Exchange | Failure) -> None:
        if isinstance(outcome, Failure):
            self.failed[outcome.kind] += 1
            return
        self.stored += outcome.from_store
        self.repaired += outcome.repaired
        if outcome.fault is None:
            self.good += 1
        else:
            self.faulty += 1

    def picture(self, in_flight: int, concurrency: int) -> Progress:
        elapsed = time.monotonic() - self.started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        # What came from the store took no time and says nothing about what is left.
        fresh = self.done - self.stored
        left = None if self.total is None else self.total - self.done
        eta = None if left is None or fresh == 0 else left * elapsed / fresh
        return Progress(
            total=self.total,
            done=self.done,
            good=self.good,
            stored=self.stored,
            repaired=self.repaired,
            faulty=self.faulty,
            failed=dict(self.failed),
            troubles=dict(self.troubles),
            calls=self.calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            usd=self.usd,
            elapsed_s=elapsed,
            rate=rate,
            eta_s=eta,
            in_flight=in_flight,
            concurrency=concurrency,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
