"""The engine: a stream of requests in, a stream of answers out, each bought once and kept before it counts.

    engine = Engine(endpoint, store, budget, prices, pace)
    async for outcome in engine.ask(requests, check):
        ...

    async with engine.open() as session:      # several streams over one client, one pace, one set of figures
        ... session.ask(some, check) ... session.ask(others, check) ...

Outcomes come in the order in which they are ready. A request that the endpoint never answered comes out as a Failure;
an answer that is still faulty after its repair turn comes out as an Exchange with `fault` set, its text kept, for the
caller to reject. Stored answers are handed out many at a time; what must be bought goes to a fixed number of workers,
which wait when nobody takes the output, so memory does not grow with the number of requests. How one request is
answered is `purchase`; the cheaper, slower way of asking is `batch`.

Absent on purpose: a record of failures (ask again instead).
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sized
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Protocol

from inference.breaker import Breaker, BreakerSettings
from inference.budget import Budget
from inference.endpoint import Endpoint, Line
from inference.exchange import Exchange, Failure, Request
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.progress import Progress, Tally
from inference.purchase import (
    AHEAD,
    RIVAL_WAIT_S,
    AskedElsewhere,
    Bought,
    Check,
    Crew,
    Hand,
    NoRoom,
    Purchase,
    Stopped,
    accept_all,
    fault_of,
)
from inference.running import run
from inference.store import ExchangeStore, Found
from inference.teller import LookUp, Teller

Requests = AsyncIterable[Request] | Iterable[Request]
Outcome = Exchange | Failure
Watch = Callable[[Progress], None]
LOOKUP = 512
TO_BUY = 128
SOON = 32
# Requests that somebody else is asking and that are put off; with more of them, what they ask is waited for.
PUT_OFF_AT_MOST = 10_000
Item = tuple[Request, Exchange | None]


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
                    on_progress(purchase.progress())


@dataclass
class Session:
    """An open run of an engine."""

    purchase: Purchase

    async def ask(self, requests: Requests, check: Check = accept_all) -> AsyncGenerator[Outcome, None]:
        """Answer every request, as they come ready; several calls may be under way at once.

        Raises UnknownPrice, BudgetExceeded, EndpointRefused, EndpointDown, MostlyErrors and whatever `requests` or
        `check` raise. What was bought by then is stored; what was finished has been yielded. Close the generator
        (contextlib.aclosing) when leaving it early: requests in flight then count as presumably charged.
        """
        purchase = self.purchase
        try:
            async with aclosing(_answer_all(purchase, requests, check)) as outcomes:
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


async def _answer_all(purchase: Purchase, requests: Requests, check: Check) -> AsyncGenerator[Outcome, None]:
    """Run reader and workers and hand out what they finish; raise what stopped them once all of it is handed out."""
    # A few more than can be in flight: while they wait for the endpoint, the others claim and commit.
    count = purchase.settings.max_in_flight + math.ceil(AHEAD * purchase.settings.max_in_flight)
    inbox: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=purchase.settings.max_in_flight)
    outbox: asyncio.Queue[list[Outcome] | None] = asyncio.Queue(maxsize=purchase.settings.max_in_flight)
    being_kept: asyncio.Queue[Bought | None] = asyncio.Queue(maxsize=count)
    crew = Crew()
    put_off: deque[Item] = deque()
    tasks = {
        crew.start(partial(_work, purchase, inbox, put_off, being_kept, outbox, check, crew)) for _ in range(count)
    }
    tasks.add(crew.start(partial(_read, purchase, requests, inbox, outbox, check, crew)))
    courier = asyncio.create_task(_carry(purchase, being_kept, outbox, check, crew))
    closer = asyncio.create_task(_close_when_done(crew, tasks, courier, being_kept, outbox))
    try:
        while (outcomes := await outbox.get()) is not None:
            for outcome in outcomes:
                yield outcome
        error = await closer
    finally:
        for task in (*tasks, courier, closer):
            task.cancel()
        await asyncio.gather(*tasks, courier, closer, return_exceptions=True)
    if error is not None:
        raise error


async def _read(
    purchase: Purchase,
    requests: Requests,
    inbox: asyncio.Queue[Item | None],
    outbox: asyncio.Queue[list[Outcome] | None],
    check: Check,
    crew: Crew,
    hand: Hand,
) -> None:
    """Hand out what is stored and good; leave the rest to the workers."""
    look_up = purchase.teller.look_up
    sort = partial(_sort, inbox=inbox, outbox=outbox, check=check, crew=crew, hand=hand)
    if isinstance(requests, AsyncIterable):  # the next item may take its time, and wait for the answer to this one
        async for request in requests:
            await sort(await look_up([request]))
    else:
        # The first few are on their way before the next are made.
        source, length = iter(requests), 2 * SOON
        await sort(await look_up(list(islice(source, SOON))))
        ahead: LookUp | None = None
        while chunk := list(islice(source, length)):
            # One list is sorted while the next is looked up; the pause lets the store's thread begin with it.
            begun = look_up(chunk)
            await asyncio.sleep(0)
            if ahead is not None:
                # A long list takes its time to be made, which would keep purchases waiting.
                length = min(2 * length, LOOKUP if await sort(await ahead) else TO_BUY)
            ahead = begun
        if ahead is not None:
            await sort(await ahead)
    await inbox.put(None)


async def _sort(
    found: list[Found],
    inbox: asyncio.Queue[Item | None],
    outbox: asyncio.Queue[list[Outcome] | None],
    check: Check,
    crew: Crew,
    hand: Hand,
) -> bool:
    """Hand on a list; gives whether most of it was stored and good."""
    ready: list[Outcome] = []
    rest: list[Item] = []
    for request, stored in found:
        if stored is not None and stored.fault is None and fault_of(request, stored, check) is None:
            ready.append(stored)
        else:
            rest.append((request, stored))
    if ready:
        hand.busy = True
        await outbox.put(ready)
        hand.busy = False
        if crew.stopping:  # the workers have left, and nobody would take the rest
            raise asyncio.CancelledError
    for item in rest:
        await inbox.put(item)
    return len(ready) > len(rest)


async def _work(
    purchase: Purchase,
    inbox: asyncio.Queue[Item | None],
    put_off: deque[Item],
    being_kept: asyncio.Queue[Bought | None],
    outbox: asyncio.Queue[list[Outcome] | None],
    check: Check,
    crew: Crew,
    hand: Hand,
) -> None:
    """Answer one request after another until the input ends or the run stops; what others ask comes last."""
    while not crew.stopping:
        hand.busy = False
        item, hand.patient = await _next(inbox, put_off)
        if item is None:
            return
        try:
            outcome = await purchase.answer(*item, check, crew, hand)
        except Stopped:
            return
        except AskedElsewhere:
            put_off.append(item)
            continue
        hand.busy = True
        if isinstance(outcome, Bought):
            await being_kept.put(outcome)
            outcome = outcome.exchange
        else:
            await outbox.put([outcome])
        purchase.breaker.watch(outcome)


async def _carry(
    purchase: Purchase,
    being_kept: asyncio.Queue[Bought | None],
    outbox: asyncio.Queue[list[Outcome] | None],
    check: Check,
    crew: Crew,
) -> Exception | None:
    """Hand out what was bought as it is kept, which is in the order in which it came; gives the first error."""
    error: Exception | None = None
    hand = Hand(patient=True)
    while (bought := await being_kept.get()) is not None:
        try:
            outcome: Outcome | Bought = bought
            while isinstance(outcome, Bought):
                stands = await outcome.kept
                if stands is outcome.exchange:
                    outcome = stands
                else:  # another process was first, and may be content with less
                    outcome = await purchase.answer_from(stands, outcome.request, check, crew, hand)
        except Stopped:
            continue
        except Exception as failed:  # noqa: BLE001 - raised where the run ends
            error = error or failed
            crew.stop()
            continue
        await outbox.put([outcome])
    return error


async def _next(inbox: asyncio.Queue[Item | None], put_off: deque[Item]) -> tuple[Item | None, bool]:
    """The next request, and whether to be patient with it; None where there is none left."""
    while len(put_off) < PUT_OFF_AT_MOST:
        if put_off:
            try:
                # A stream may wait for an answer that was put off before it gives its next request.
                async with asyncio.timeout(RIVAL_WAIT_S):
                    item = await inbox.get()
            except TimeoutError:
                if put_off:
                    return put_off.popleft(), False
                continue
        else:
            item = await inbox.get()
        if item is not None:
            return item, False
        inbox.put_nowait(None)  # the one who reads it next ends too; the reader has left, so there is room
        break
    return (put_off.popleft() if put_off else None), True


async def _close_when_done(
    crew: Crew,
    tasks: set[asyncio.Task[None]],
    courier: asyncio.Task[Exception | None],
    being_kept: asyncio.Queue[Bought | None],
    outbox: asyncio.Queue[list[Outcome] | None],
) -> Exception | None:
    """Wait for the tasks; after an error only for those whose request is on its way. Gives the first error."""
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    if pending:
        crew.stop()
        await asyncio.wait(pending)
    await being_kept.put(None)
    not_kept = await courier
    await outbox.put(None)
    errors = [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
    for error in errors:
        if not isinstance(error, Exception):
            raise error
    return errors[0] if errors else not_kept  # type: ignore[return-value]


async def tick(progress: Callable[[], Progress], on_progress: Watch | None, every_s: float) -> None:
    """Show a run's progress every `every_s` seconds, until cancelled."""
    while on_progress is not None:
        await asyncio.sleep(every_s)
        on_progress(progress())
