"""The engine: a stream of requests in, a stream of answers out, each bought once and kept before it counts.

    engine = Engine(endpoint, store, budget, prices, pace)
    async for outcome in engine.ask(requests, check):
        ...

Outcomes come in the order in which they are ready. A request that the endpoint never answered comes out as a Failure;
an answer that is still faulty after its repair turn comes out as an Exchange with `fault` set, its text kept, for the
caller to reject. A fixed number of workers pull from the input and wait when nobody takes the output, so memory does
not grow with the number of requests. How one request is answered is `purchase`.

Absent on purpose: batch APIs, several samples per request, and a record of failures (ask again instead).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sized
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

from inference.budget import Budget
from inference.endpoint import Endpoint, EndpointDown, Line
from inference.exchange import Exchange, Failure, Request
from inference.pace import Pace, PaceSettings
from inference.prices import Prices
from inference.progress import Progress, Tally
from inference.purchase import Check, NoRoom, Purchase, Stopped, accept_all
from inference.store import ExchangeStore

Requests = AsyncIterable[Request] | Iterable[Request]
Outbox = asyncio.Queue[Exchange | Failure | None]
LOOKUP = 256
# So many requests in a row without an answer, each tried max_attempts times, are an outage.
OUTAGE = 10


@dataclass
class Engine:
    """Asks one endpoint; holds no connection between calls of `ask`."""

    endpoint: Endpoint
    store: ExchangeStore
    budget: Budget
    prices: Prices
    pace: PaceSettings

    async def ask(
        self,
        requests: Requests,
        check: Check = accept_all,
        *,
        total: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        every_s: float = 2.0,
    ) -> AsyncGenerator[Exchange | Failure, None]:
        """Answer every request, as they come ready.

        `total` is for progress and messages where `requests` has no length; `on_progress` is called every `every_s`
        seconds and at the end. Raises UnknownPrice, BudgetExceeded, EndpointRefused, EndpointDown and whatever
        `requests` or `check` raise. What was bought by then is stored; what was finished has been yielded. Close the
        generator (contextlib.aclosing) when leaving it early: requests in flight then count as presumably charged.
        """
        if total is None and isinstance(requests, Sized):
            total = len(requests)
        tally, pace = Tally(total), Pace(self.pace)
        async with Line(self.endpoint) as line:
            purchase = Purchase(line, self.store, self.budget, self.prices, pace, tally, check)
            ticker = asyncio.create_task(_tick(purchase, on_progress, every_s))
            try:
                async with aclosing(_answer_all(purchase, requests)) as outcomes:
                    async for outcome in outcomes:
                        tally.outcome(outcome)
                        yield outcome
            except NoRoom:
                spent = await asyncio.to_thread(self.store.spent, self.budget.scope)
                raise self.budget.exceeded(spent, tally.done, total) from None
            finally:
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)
                if on_progress is not None:
                    on_progress(purchase.progress())


def ask_all(
    engine: Engine,
    requests: Iterable[Request],
    check: Check = accept_all,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    every_s: float = 2.0,
) -> list[Exchange | Failure]:
    """`Engine.ask` for callers without an event loop; the outcomes as a list, in the order of the requests."""
    wanted = list(requests)

    async def collect() -> list[Exchange | Failure]:
        return [outcome async for outcome in engine.ask(wanted, check, on_progress=on_progress, every_s=every_s)]

    place = {request.id: i for i, request in enumerate(wanted)}
    return sorted(asyncio.run(collect()), key=lambda outcome: place[outcome.request_id])


async def _answer_all(purchase: Purchase, requests: Requests) -> AsyncGenerator[Exchange | Failure, None]:
    """Run the workers and hand out what they finish; raise what stopped them once all of it is handed out."""
    workers = purchase.pace.settings.max_in_flight
    outbox: Outbox = asyncio.Queue(maxsize=workers)
    turn = asyncio.Lock()
    outage = Outage(purchase.line.endpoint.base_url)
    async with aclosing(_with_stored(requests, purchase.store)) as source:
        tasks = {asyncio.create_task(_work(purchase, source, turn, outbox, outage)) for _ in range(workers)}
        closer = asyncio.create_task(_close_when_done(purchase, tasks, outbox))
        try:
            while (outcome := await outbox.get()) is not None:
                yield outcome
            error = await closer
        finally:
            for task in (*tasks, closer):
                task.cancel()
            await asyncio.gather(*tasks, closer, return_exceptions=True)
    if error is not None:
        raise error


async def _work(
    purchase: Purchase,
    source: AsyncIterator[tuple[Request, Exchange | None]],
    turn: asyncio.Lock,
    outbox: Outbox,
    outage: Outage,
) -> None:
    """Answer one request after another until the input ends or the run stops."""
    while not purchase.stopping:
        try:
            with purchase.idle():
                async with turn:
                    request, stored = await anext(source)
            outcome = await purchase.answer(request, stored)
        except (StopAsyncIteration, Stopped):
            return
        await outbox.put(outcome)
        outage.watch(outcome)


async def _close_when_done(purchase: Purchase, tasks: set[asyncio.Task[None]], outbox: Outbox) -> Exception | None:
    """Wait for the workers; after an error only for those whose request is on its way. Gives the first error."""
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    if pending:
        purchase.stop()
        await asyncio.wait(pending)
    await outbox.put(None)
    errors = [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
    for error in errors:
        if not isinstance(error, Exception):
            raise error
    return errors[0] if errors else None  # type: ignore[return-value]


async def _with_stored(
    requests: Requests, store: ExchangeStore
) -> AsyncGenerator[tuple[Request, Exchange | None], None]:
    """Pair each request with its stored answer, many to a query where they need not be waited for."""
    async for chunk in _chunks(requests):
        keys = [request.key for request in chunk]
        stored = await asyncio.to_thread(store.get_many, keys)
        for request, key in zip(chunk, keys, strict=True):
            yield request, stored.get(key)


async def _chunks(requests: Requests) -> AsyncGenerator[list[Request], None]:
    """Requests in lists: long ones from an iterable, of one from a stream whose next item may take its time."""
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield [request]
        return
    source = iter(requests)
    while chunk := list(islice(source, LOOKUP)):
        yield chunk


async def _tick(purchase: Purchase, on_progress: Callable[[Progress], None] | None, every_s: float) -> None:
    while on_progress is not None:
        await asyncio.sleep(every_s)
        on_progress(purchase.progress())


@dataclass
class Outage:
    """Notices that an endpoint has stopped answering, so that thousands of requests are not tried in vain."""

    base_url: str
    in_a_row: int = 0

    def watch(self, outcome: Exchange | Failure) -> None:
        """Count an outcome; raises EndpointDown."""
        if isinstance(outcome, Exchange):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row >= OUTAGE:
            raise EndpointDown(
                f"{self.base_url} left {OUTAGE} requests in a row without an answer, the last one "
                f"({outcome.request_id}) with {outcome.kind}: {outcome.detail}. All answers so far are kept. Check "
                "that the endpoint is up, then run again."
            )
