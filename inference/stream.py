"""One stream of requests through an open run of the engine: a reader, workers, and a courier.

    async with aclosing(answers(purchase, requests, check)) as outcomes:
        ...

The reader hands out what is stored, many at a time, and leaves the rest to a fixed number of workers, which buy it; the
courier hands out what they bought once it is kept. All of them wait when nobody takes the output.

However a stream ends, by an error, by being left early or by being cancelled, nothing more is sent, and what is on its
way is taken in and kept, since it is paid for. An error waits for all of it; whoever leaves or cancels waits for
TAKE_IN_S at most, and not at all where the wait is cancelled in turn. What has not come by then counts as presumably
charged.

Absent on purpose: how one request is answered (`purchase`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable
from functools import partial
from itertools import islice

from inference.exchange import Exchange, Outcome, Request, Requests
from inference.purchase import (
    AHEAD,
    RIVAL_WAIT_S,
    AskedElsewhere,
    Bought,
    Check,
    Crew,
    Hand,
    Purchase,
    Stopped,
    fault_of,
)
from inference.store import Found
from inference.teller import LookUp

LOOKUP = 512
TO_BUY = 128
SOON = 32
# Requests that somebody else is asking and that are put off; with more of them, what they ask is waited for.
PUT_OFF_AT_MOST = 10_000
# Docker kills ten seconds after it has asked a process to end.
TAKE_IN_S = 8.0
Item = tuple[Request, Exchange | None]
_log = logging.getLogger(__name__)


async def answers(purchase: Purchase, requests: Requests, check: Check) -> AsyncGenerator[Outcome, None]:
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
        try:
            if not closer.done():
                crew.stop()
                await _take_in(purchase, closer, outbox)
        finally:
            for task in (*tasks, courier, closer):
                task.cancel()
            await asyncio.gather(*tasks, courier, closer, return_exceptions=True)
    if error is not None:
        raise error


async def _take_in(
    purchase: Purchase, closer: asyncio.Task[Exception | None], outbox: asyncio.Queue[list[Outcome] | None]
) -> None:
    """Wait for what is on its way, but not for long; nobody takes it any more, but it is kept."""
    if in_flight := purchase.progress().in_flight:
        _log.warning(
            "Stopping: nothing more is asked, and the answers to %d requests are waited for, %g s at most.",
            in_flight, TAKE_IN_S,
        )  # fmt: skip

    async def make_room() -> None:
        while True:
            await outbox.get()

    taker = asyncio.create_task(make_room())
    try:
        await asyncio.wait([closer], timeout=TAKE_IN_S)
    finally:
        taker.cancel()


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
