"""The hard limit on money and tokens, and the estimate that comes before the first call.

Before a request is sent, its worst case is reserved; when the answer is in, the reservation is replaced by what it
cost. The sums live in the exchange store (`store.ExchangeStore.claim`), so the limit holds across processes and
restarts: everything bought under the same `scope` counts against it. An attempt that may have been charged without
an answer (time-out, reset, killed process) counts at its worst case.

The limit can only be as true as the endpoint: one that writes more than `max_tokens` is charged as it reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from inference.exchange import Request
from inference.prices import Cost, Prices, prompt_tokens_about

if TYPE_CHECKING:
    from inference.store import ExchangeStore


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
        total = spent + reserved + worst
        return (self.usd is None or total.usd <= self.usd) and (self.tokens is None or total.tokens <= self.tokens)

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
    """What a set of requests would buy: `usd_at_most` if every answer used all of its max_tokens."""

    requests: int
    stored: int
    calls: int
    prompt_tokens: int
    completion_tokens_at_most: int
    usd_at_most: float


def estimate(requests: Iterable[Request], prices: Prices, store: ExchangeStore) -> Estimate:
    """Calls, tokens and USD before anything is bought; repair turns are not foreseen. Raises UnknownPrice."""
    total = stored = prompt = completion = 0
    usd = 0.0
    missing: set[str] = set()
    source = iter(requests)
    while chunk := list(islice(source, 500)):
        total += len(chunk)
        have = store.has([r.key for r in chunk])
        for request in chunk:
            price = prices.of(request.sampling.model)
            if request.key in have or request.key in missing:
                stored += 1
                continue
            missing.add(request.key)
            tokens = prompt_tokens_about(request)
            prompt += tokens
            completion += request.sampling.max_tokens
            usd += (tokens * price.input + request.sampling.max_tokens * price.output) / 1e6
    return Estimate(total, stored, total - stored, prompt, completion, usd)
