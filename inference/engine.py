"""The engine: a stream of requests in, a stream of answers out, each bought once and kept before it counts.

    engine = Engine(endpoint, store, budget, prices, pace)
    async for outcome in engine.ask(requests, check):
        ...

    async with engine.open() as session:      # several streams over one client, one pace, one set of figures
        ... session.ask(some, check) ... session.ask(others, check) ...

Outcomes come in the order in which they are ready. A request that the endpoint never answered comes out as a Failure;
an answer that is still faulty after its repair turn comes out as an Exchange with `fault` set, its text kept, for the
caller to reject. Everybody waits when nobody takes the output (`stream`), so memory does not grow with the number of
requests. How one request is answered is `purchase`; the cheaper, slower way of asking is `batch`.

Absent on purpose: a record of failures (ask again instead).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sized
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from inference.breaker import Breaker, BreakerSettings
from inference.budget import Budget
from inference.clerk import StoreUnusable
from inference.endpoint import Endpoint, Line
from inference.exchange import Outcome, Request, Requests
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.progress import Progress, Tally
from inference.purchase import Check, NoRoom, Purchase, accept_all
from inference.running import run
from inference.store import ExchangeStore
from inference.stream import answers
from inference.teller import Teller

Watch = Callable[[Progress], None]


class OpenRun(Protocol):
    """An open run, which answers one or several streams of requests."""

    def ask(self, requests: Requests, check: Check = accept_all) -> AsyncGenerator[Outcome, None]:
        """Answer every request, as they come ready."""


class Asks(ABC):
    """Whoever answers a stream of requests: `Engine`, or `batch.engine.BatchEngine`."""

    @abstractmethod
    def open(
        self, total: int | None = None, on_progress: Watch | None = None, every_s: float = 2.0
    ) -> AbstractAsyncContextManager[OpenRun]:
        """A run over one client, with one set of figures; `on_progress` is called every `every_s` seconds."""

    async def ask(
        self,
        requests: Requests,
        check: Check = accept_all,
        *,
        total: int | None = None,
        on_progress: Watch | None = None,
        every_s: float = 2.0,
    ) -> AsyncGenerator[Outcome, None]:
        """Answer every request, as they come ready; a run of its own. See the `ask` of what `open` gives."""
        if total is None and isinstance(requests, Sized):
            total = len(requests)
        async with (
            self.open(total, on_progress, every_s) as session,
            aclosing(session.ask(requests, check)) as outcomes,
        ):
            async for outcome in outcomes:
                yield outcome


@dataclass
class Engine(Asks):
    """Asks one endpoint; holds no connection outside `ask` and `open`."""

    endpoint: Endpoint
    store: ExchangeStore
    budget: Budget
    prices: Prices
    pace: PaceSettings
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    @asynccontextmanager
    async def open(
        self, total: int | None = None, on_progress: Watch | None = None, every_s: float = 2.0
    ) -> AsyncIterator[Session]:
        """A run: one client, one pace, one set of figures. `total` is the number of requests to come, if known.

        `on_progress` is called every `every_s` seconds and at the end.
        """
        tally = Tally(total)
        async with Line(self.endpoint) as line:
            breaker = Breaker(self.breaker, self.endpoint.base_url)
            teller = Teller(self.store, self.budget)
            await teller.open()
            purchase = Purchase(line, teller, self.prices, self.pace, breaker, tally)
            ticker = asyncio.create_task(tick(purchase.progress, on_progress, every_s))
            try:
                yield Session(purchase)
            finally:
                await teller.close()
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)
                if on_progress is not None:
                    with suppress(StoreUnusable):  # the last claim has not seen what came after it
                        tally.spent = self.store.spent(self.budget.scope)
                    on_progress(purchase.progress())


@dataclass
class Session:
    """An open run of an engine."""

    purchase: Purchase

    async def ask(self, requests: Requests, check: Check = accept_all) -> AsyncGenerator[Outcome, None]:
        """Answer every request, as they come ready; several calls may be under way at once.

        Raises UnknownPrice, BudgetExceeded, EndpointRefused, EndpointDown, MostlyErrors and whatever `requests` or
        `check` raise. What was bought by then is stored; what was finished has been yielded. Close the generator
        (contextlib.aclosing) when leaving it early: what is in flight is taken in then, as `stream` tells.
        """
        purchase = self.purchase
        try:
            async with aclosing(answers(purchase, requests, check)) as outcomes:
                async for outcome in outcomes:
                    purchase.tally.outcome(outcome)
                    yield outcome
        except NoRoom:
            budget, tally = purchase.teller.budget, purchase.tally
            spent = await asyncio.to_thread(purchase.teller.store.spent, budget.scope)
            raise budget.exceeded(spent, tally.done, tally.total) from None


def ask_all(
    engine: Asks,
    requests: Iterable[Request],
    check: Check = accept_all,
    *,
    on_progress: Watch | None = None,
    every_s: float = 2.0,
) -> list[Outcome]:
    """`ask` for callers without an event loop; the outcomes as a list, in the order of the requests."""
    wanted = list(requests)

    async def collect() -> list[Outcome]:
        return [outcome async for outcome in engine.ask(wanted, check, on_progress=on_progress, every_s=every_s)]

    place = {request.id: i for i, request in enumerate(wanted)}
    return sorted(run(collect()), key=lambda outcome: place[outcome.request_id])


async def tick(progress: Callable[[], Progress], on_progress: Watch | None, every_s: float) -> None:
    """Show a run's progress every `every_s` seconds, until cancelled."""
    while on_progress is not None:
        await asyncio.sleep(every_s)
        on_progress(progress())
