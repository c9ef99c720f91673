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

from pydantic import BaseModel, ConfigDict, Field

from inference.batch.api import BatchApi
from inference.batch.desk import Desk
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


class BatchSettings(BaseModel):
    """Sizes and patience of batch mode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_requests: int = Field(5_000, ge=1, le=50_000, description="Most requests in a batch; OpenAI allows 50,000.")
    max_bytes: int = Field(100_000_000, ge=1, description="Most bytes of a batch's input file; OpenAI allows 200 MB.")
    open_batches: int = Field(4, ge=1, description="Most batches open at an endpoint at once, over all processes.")
    poll_s: float = Field(30.0, gt=0, description="Seconds between two looks at the open batches.")
    completion_window: str = Field("24h", pattern=r"^[1-9]\d*[hd]$", description="The time that the provider has.")
    rounds: int = Field(
        3, ge=0, description="How often a request is sent again after an error or an expiry before it is a failure."
    )
    settle_s: float = Field(
        60.0, ge=0, description="How long a batch whose creation was cut short may take to appear in the list."
    )
    unreachable_s: float = Field(
        900.0, gt=0, description="How long the endpoint may be out of reach before the run is given up."
    )

    delete_files: bool = Field(
        True, description="Delete a batch's files at the provider once it has ended and its answers are stored."
    )

    @property
    def window_s(self) -> int:
        """The completion window in seconds."""
        return int(self.completion_window[:-1]) * (3_600 if self.completion_window.endswith("h") else 86_400)


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
