"""What a run of the engine has done so far, as counts a person or a metadata table can read.

`Tally` counts inside the engine; `Progress` is the frozen picture of it that callbacks receive.

Absent on purpose: drawing. The front door renders `Progress`; `Progress.line` is for places without a terminal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.budget import Budget
from inference.exchange import Exchange, Failure, fault_kind
from inference.prices import NOTHING, Cost


@dataclass(frozen=True)
class Progress:
    """A moment of a run. `done` = good + faulty + failed; `stored` of them came free from the store.

    `answers`, `usd`, `prompt_tokens` and `completion_tokens` count what this run bought, repair turns included;
    `calls` counts its HTTP requests, and `troubles` those without an answer by kind, most of which a retry mended.
    `spent` is all spending under the budget as it was last seen, in every process. `rate` and `tokens_per_s` are means
    over the run. `held` is how many requests now wait for a batch that another run has sent, by that batch;
    `waited_for_batches` counts all that had to. `without_room` wait for room in the budget. `files_deleted` counts the
    files of ended batches that this run has deleted at the provider, `files_left` those that it could not reach.
    `paused_s` is how long the endpoint still wants nobody to ask (Retry-After).
    """

    total: int | None
    done: int
    good: int
    stored: int
    repaired: int
    faulty: Mapping[str, int]
    failed: Mapping[str, int]
    troubles: Mapping[str, int]
    calls: int
    answers: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    elapsed_s: float
    rate: float
    eta_s: float | None
    tokens_per_s: float
    in_flight: int
    concurrency: int
    oldest_s: float
    paused_s: float
    spent: Cost
    budget: Budget
    held: Mapping[str, int] = field(default_factory=dict)
    waited_for_batches: int = 0
    without_room: int = 0
    files_deleted: int = 0
    files_left: int = 0

    @property
    def line(self) -> str:
        """The picture in one line."""
        of_total = f"/{self.total:,}" if self.total is not None else ""
        parts = [f"{self.done:,}{of_total} done", f"{self.stored:,} stored", f"{self.calls:,} calls"]
        parts += [f"{self.repaired:,} repaired"] if self.repaired else []
        parts += [f"{n:,} faulty ({kind})" for kind, n in sorted(self.faulty.items())]
        parts += [f"{n:,} failed ({kind})" for kind, n in sorted(self.failed.items()) if n]
        parts += [f"{n:,} x {kind}" for kind, n in sorted(self.troubles.items())]
        parts += [f"{self.rate:.1f}/s", f"{self.in_flight} in flight of {self.concurrency}"]
        parts += [f"{n:,} wait for {batch}" for batch, n in self.held.items()]
        parts += [f"{self.without_room:,} wait for room in the budget"] if self.without_room else []
        parts += [f"{self.files_left:,} files of batches to be deleted there yet"] if self.files_left else []
        if self.oldest_s >= 1:
            parts.append(f"oldest {self.oldest_s:.0f} s")
        if self.paused_s >= 1:
            parts.append(f"the endpoint asks to wait {_clock(self.paused_s)}")
        tokens = self.prompt_tokens + self.completion_tokens
        parts += [f"{tokens:,} tokens ({self.tokens_per_s:,.0f}/s)", f"${self.usd:,.2f}"]
        if self.budget.usd is not None:
            parts.append(f"${self.spent.usd:,.2f} of ${self.budget.usd:,.2f} spent")
        if self.budget.tokens is not None:
            parts.append(f"{self.spent.tokens:,} of {self.budget.tokens:,} tokens spent")
        if self.eta_s is not None:
            parts.append(f"{_clock(self.eta_s)} left")
        return ", ".join(parts)

    @property
    def figures(self) -> dict[str, float]:
        """The picture as numbers by name, for metadata and for Prometheus; kinds are part of the name."""
        named = {
            "done": self.done, "good": self.good, "cache_hits": self.stored, "repaired": self.repaired,
            "calls": self.calls, "answers": self.answers, "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens, "usd": self.usd, "requests_per_s": self.rate,
            "tokens_per_s": self.tokens_per_s,
            "in_flight": self.in_flight, "concurrency": self.concurrency, "oldest_in_flight_s": self.oldest_s,
            "waiting_for_batches": sum(self.held.values()), "waited_for_batches": self.waited_for_batches,
            "without_room": self.without_room, "batch_files_deleted": self.files_deleted,
            "batch_files_left": self.files_left, "spent_usd": self.spent.usd, "spent_tokens": self.spent.tokens,
            "elapsed_s": self.elapsed_s,
        }  # fmt: skip
        known = {
            "total": self.total, "eta_s": self.eta_s, "budget_usd": self.budget.usd,
            "budget_tokens": self.budget.tokens,
        }  # fmt: skip
        named |= {name: value for name, value in known.items() if value is not None}
        for group, counts in (("faulty", self.faulty), ("failed", self.failed), ("trouble", self.troubles)):
            named |= {f"{group}_{kind.replace(' ', '_')}": n for kind, n in sorted(counts.items())}
        return named


@dataclass
class Tally:
    """Counts kept by one run of the engine."""

    total: int | None
    good: int = 0
    stored: int = 0
    repaired: int = 0
    faulty: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    spent: Cost = NOTHING
    held: Counter[str] = field(default_factory=Counter)
    waited_for_batches: int = 0
    without_room: int = 0
    files_deleted: int = 0
    files_left: int = 0
    started: float = field(default_factory=time.monotonic)
    _unanswered: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.good + self.faulty.total() + self.failed.total()

    def bought(self, exchange: Exchange) -> None:
        self.answers += 1
        self.prompt_tokens += exchange.prompt_tokens
        self.completion_tokens += exchange.completion_tokens
        self.usd += exchange.usd

    def outcome(self, outcome: Exchange | Failure) -> None:
        """Count what a request has come to; where it had failed and was asked once more, in place of the failure."""
        if (kind := self._unanswered.pop(outcome.request_id, None)) is not None:
            self.failed[kind] -= 1
        if isinstance(outcome, Failure):
            self._unanswered[outcome.request_id] = outcome.kind
            self.failed[outcome.kind] += 1
            return
        self.stored += outcome.from_store
        self.repaired += outcome.repaired
        if outcome.fault is None:
            self.good += 1
        else:
            self.faulty[fault_kind(outcome.fault)] += 1

    def picture(
        self, in_flight: int, concurrency: int, oldest_s: float, budget: Budget, paused_s: float = 0.0
    ) -> Progress:
        """The run at this moment, with what only its pace and its budget know."""
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
            faulty=dict(self.faulty),
            failed=dict(self.failed),
            troubles=dict(self.troubles),
            calls=self.calls,
            answers=self.answers,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            usd=self.usd,
            elapsed_s=elapsed,
            rate=rate,
            eta_s=eta,
            tokens_per_s=(self.prompt_tokens + self.completion_tokens) / elapsed if elapsed > 0 else 0.0,
            in_flight=in_flight,
            concurrency=concurrency,
            oldest_s=oldest_s,
            paused_s=paused_s,
            spent=self.spent,
            budget=budget,
            held=dict(+self.held),
            waited_for_batches=self.waited_for_batches,
            without_room=self.without_room,
            files_deleted=self.files_deleted,
            files_left=self.files_left,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
