"""Batch mode: the same questions through the provider's Batch API, within a day and mostly at half the price.

    engine = BatchEngine(endpoint, store, budget, prices, BatchSettings())
    async for outcome in engine.ask(requests, check):
        ...

It is asked like `engine.Engine` and gives the same outcomes, out of the same store and under the same budget. A run
first collects what earlier runs have left at the provider, paid for then, and goes on from there; a run that is killed
or left early leaves its open batches in the same way. An error ends a run at once, and the batches that are open then
are collected by the next one; only a budget that is spent waits for them.

    stream   one stream of requests: what goes into which batch, what is asked again
    desk     sends batches, watches the open ones, keeps what they bring
    rows     batches as rows of the store
    api      the provider's API
    collect  what an ended batch brought, kept, and its files deleted at the provider
    results  what stands in those files

Absent on purpose: cancelling batches (`giving_up`, on request), and pacing (a batch has limits of its own).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from inference.batch.api import BatchApi
from inference.batch.desk import Desk
from inference.batch.settings import BatchSettings
from inference.batch.stream import Stream
from inference.breaker import Breaker, BreakerSettings
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Asks, Outcome, Requests, Watch, tick
from inference.prices import Prices
from inference.progress import Tally
from inference.purchase import Check, NoRoom, accept_all
from inference.store import ExchangeStore
from inference.teller import Teller


@dataclass
class BatchEngine(Asks):
    """Asks one endpoint in batches; holds no connection outside `ask` and `open`."""

    endpoint: Endpoint
    store: ExchangeStore
    budget: Budget
    prices: Prices
    settings: BatchSettings = field(default_factory=BatchSettings)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    @asynccontextmanager
    async def open(
        self, total: int | None = None, on_progress: Watch | None = None, every_s: float = 2.0
    ) -> AsyncIterator[BatchSession]:
        """A run: one client, one watch over the open batches, one set of figures. `total` as for `Engine.open`.

        Figures: `calls` are requests sent in batches, `usd` what those cost, `in_flight` what is open of them. What
        earlier runs have left is booked as it is collected, and comes out as stored.
        """
        tally = Tally(total)
        async with BatchApi(self.endpoint, self.settings.unreachable_s) as api:
            teller = Teller(self.store, self.budget)
            desk = Desk(api, teller, self.prices, self.settings, tally)
            await desk.look()
            tasks = [asyncio.create_task(desk.watch()), asyncio.create_task(tick(desk.progress, on_progress, every_s))]
            try:
                yield BatchSession(desk, Breaker(self.breaker, self.endpoint.base_url))
                await desk.clear_away()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await desk.settle()
                if on_progress is not None:
                    on_progress(desk.progress())


@dataclass
class BatchSession:
    """An open run of a batch engine."""

    desk: Desk
    breaker: Breaker

    async def ask(self, requests: Requests, check: Check = accept_all) -> AsyncGenerator[Outcome, None]:
        """Answer every request, as they come ready; several calls may be under way at once.

        Raises UnknownPrice, BudgetExceeded, EndpointRefused, BatchRefused, BatchElsewhere, EndpointDown, MostlyErrors
        and whatever `requests` or `check` raise; what was finished by then has been yielded.
        """
        desk = self.desk
        try:
            async with aclosing(Stream(desk, self.breaker, check).outcomes(requests)) as outcomes:
                async for outcome in outcomes:
                    desk.tally.outcome(outcome)
                    yield outcome
        except NoRoom:
            budget = desk.teller.budget
            spent = await asyncio.to_thread(desk.teller.store.spent, budget.scope)
            raise budget.exceeded(spent, desk.tally.done, desk.tally.total) from None
