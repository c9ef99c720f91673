"""The hard limit on money and tokens.

Before a request is sent, its worst case is reserved; when the answer is in, the reservation is replaced by what it
cost. The sums live in the exchange store (`store.ExchangeStore.claim`), so the limit holds across processes and
restarts: everything bought under the same `scope` counts against it. An attempt that may have been charged without
an answer (time-out, reset, killed process) counts at its worst case.

The limit can only be as true as the endpoint: one that writes more than `max_tokens` is charged as it reports.
Absent on purpose: what is to be expected before the first call (`estimate`).
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.prices import Cost


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
