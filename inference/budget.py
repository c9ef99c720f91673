"""The hard limit on money and tokens, and the estimate that comes before the first call.

Before a request is sent, its worst case is reserved; when the answer is in, the reservation is replaced by what it
cost. The sums live in the exchange store (`store.ExchangeStore.claim`), so the limit holds across processes and
restarts: everything bought under the same `scope` counts against it. An attempt that may have been charged without
an answer (time-out, reset, killed process) counts at its worst case.

The limit can only be as true as the endpoint: one that writes more than `max_tokens` is charged as it reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING

from inference.exchange import Request
from inference.prices import Cost, Prices, prompt_tokens_about

if TYPE_CHECKING:
    from inference.store import ExchangeStore, Usual

ASSUMED_TOKENS_PER_S = 30


class BudgetExceeded(Exception):
    """The next request could pass the budget; everything bought so far is stored."""


@dataclass(frozen=True)
class Budget:
    """A limit in USD, in tokens, in both, or in neither (None).

    `scope` names the sum that is counted against (one campaign, one project); `what` is the asset or command that a
    person runs again after raising the limit.
    """

    usd: float | None = None
    tokens: int | None = None
    scope: str = "all"
    what: str = "the asset"

    def admits(self, worst: Cost, spent: Cost, reserved: Cost) -> bool:
        """Whether `worst` fits beside what is spent and reserved."""
        return (self.usd is None or spent.usd + reserved.usd + worst.usd <= self.usd) and (
            self.tokens is None or spent.tokens + reserved.tokens + worst.tokens <= self.tokens
        )

    def exceeded(self, spent: Cost, answered: int, total: int | None) -> BudgetExceeded:
        """The error that stops a run: what was spent, how far it came, what to do."""
        usd_full = self.usd is not None
        stopped = (
            f"${spent.usd:,.2f} of ${self.usd:,.2f}" if usd_full else f"{spent.tokens:,} of {self.tokens or 0:,} tokens"
        )
        both = f" ({spent.tokens:,} of {self.tokens:,} tokens)" if usd_full and self.tokens is not None else ""
        of_total = f" of {total:,}" if total is not None else ""
        return BudgetExceeded(
            f"stopped at {stopped}{both} after {answered:,}{of_total} requests; all answers are kept. "
            f"Raise {'budget_usd' if usd_full else 'budget_tokens'} and materialize {self.what} again."
        )


@dataclass(frozen=True)
class Estimate:
    """What a set of requests would buy, repair turns not foreseen.

    `usd_at_most` is the bill if every answer used all of its max_tokens. `usd` and `hours` are what is to be expected
    if answers go on as the `seen` stored ones of the same model did; with none seen, every answer is taken to be full
    and to come at ASSUMED_TOKENS_PER_S.
    """

    requests: int = 0
    stored: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: float = 0.0
    completion_tokens_at_most: int = 0
    usd: float = 0.0
    usd_at_most: float = 0.0
    hours: float = 0.0
    seen: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "seen"}
        return Estimate(**sums, seen=max(self.seen, other.seen))

    @property
    def line(self) -> str:
        """The estimate in one line."""
        basis = (
            f"as {self.seen:,} stored answers were" if self.seen else f"at {ASSUMED_TOKENS_PER_S} tokens/s an answer"
        )
        return (
            f"{self.calls:,} calls to buy, {self.stored:,} stored; {self.prompt_tokens:,} prompt tokens and about "
            f"{self.completion_tokens:,.0f} more, ${self.usd:,.2f} (at most ${self.usd_at_most:,.2f}), "
            f"{self.hours:,.2f} h {basis}"
        )


def estimate(
    requests: Iterable[Request], prices: Prices, store: ExchangeStore, in_flight: int, share: float = 1.0
) -> Estimate:
    """Calls, tokens, USD and hours before anything is bought, from the real prompts; `share` of the listed price.

    Raises UnknownPrice.
    """
    total = stored = prompt = at_most = seen = 0
    expected = usd = usd_at_most = seconds = 0.0
    usual: dict[str, Usual | None] = {}
    missing: set[str] = set()
    source = iter(requests)
    while chunk := list(islice(source, 500)):
        total += len(chunk)
        for request, answer in store.look_up(chunk):
            model, limit = request.sampling.model, request.sampling.max_tokens
            price = prices.of(model)
            if answer is not None or request.key in missing:
                stored += 1
                continue
            missing.add(request.key)
            if model not in usual:
                usual[model] = store.usual(model)
            was = usual[model]
            tokens = limit if was is None else min(float(limit), was.completion_tokens)
            about = prompt_tokens_about(request)
            prompt, at_most, expected = prompt + about, at_most + limit, expected + tokens
            usd += share * (about * price.input + tokens * price.output) / 1e6
            usd_at_most += share * (about * price.input + limit * price.output) / 1e6
            seconds += tokens / ASSUMED_TOKENS_PER_S if was is None else was.seconds
            seen = max(seen, 0 if was is None else was.answers)
    hours = seconds / in_flight / 3600
    return Estimate(total, stored, total - stored, prompt, expected, at_most, usd, usd_at_most, hours, seen)
