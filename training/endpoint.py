"""Reranking over an endpoint: a decoder's calls as requests of the engine, with its store, its budget and its pace.

    answered = await decode_over([engine], desk, ask, read)        # desk.ranked holds the orders afterwards

`ask` makes a ticket's request and `read` says what its answer means; the same questions asked again are in the store
and cost nothing. Every call goes out as soon as its own query can make it, as many at once as the engine's pace allows.
A malformed answer is not asked again, since evaluation counts it (METHOD.md section 5); pass a `check` to have it
mended once. Deliberately absent: requests and readings by a recipe's contract, log-probabilities among them
(training.requests).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from inference.engine import Asks, Watch
from inference.exchange import Exchange, Failure, Request
from inference.purchase import Check, accept_all
from ranking.decoding.calls import Reply
from ranking.decoding.desk import Desk, Ticket


class CallUnanswered(RuntimeError):
    """The endpoint never answered a call, so its query has no order; all answers that came are stored."""


@dataclass(frozen=True)
class Answered:
    """A call, what the model said, and what that means; `exchange` is None where the endpoint refused the call."""

    ticket: Ticket
    exchange: Exchange | None
    reply: Reply


async def decode_over(
    engines: Sequence[Asks],
    desk: Desk,
    ask: Callable[[Ticket], Request],
    read: Callable[[Ticket, Exchange], Reply],
    check: Check = accept_all,
    *,
    forgo: Callable[[Ticket, Failure], Reply | None] = lambda _ticket, _failure: None,
    on_progress: Watch | None = None,
) -> list[Answered]:
    """Ask until the desk is done; engines[call.ranker] answers a call. Answers come in the order of their arrival.

    One engine given twice, for a cascade over one endpoint, is opened once and keeps one pace. `forgo` may say what
    becomes of a call that is never answered.

    Raises CallUnanswered, and what `Session.ask` of the engine raises; what was answered by then is stored.
    """
    inboxes: dict[int, asyncio.Queue[Request | None]] = {id(engine): asyncio.Queue() for engine in engines}
    waiting: dict[str, Ticket] = {}
    answered: list[Answered] = []

    def hand_out() -> None:
        for ticket in desk.take():
            request = ask(ticket)
            waiting[request.id] = ticket
            inboxes[id(engines[ticket.call.ranker])].put_nowait(request)
        if desk.done:
            for inbox in inboxes.values():
                inbox.put_nowait(None)

    async def requests(inbox: asyncio.Queue[Request | None]) -> AsyncIterator[Request]:
        while (request := await inbox.get()) is not None:
            yield request

    async def listen(engine: Asks, inbox: asyncio.Queue[Request | None]) -> None:
        async with aclosing(engine.ask(requests(inbox), check, on_progress=on_progress)) as outcomes:
            async for outcome in outcomes:
                ticket = waiting.pop(outcome.request_id)
                if not isinstance(outcome, Failure):
                    reply = read(ticket, outcome)
                    answered.append(Answered(ticket, outcome, reply))
                elif (given_up := forgo(ticket, outcome)) is not None:
                    reply = given_up
                    answered.append(Answered(ticket, None, reply))
                else:
                    raise CallUnanswered(
                        f"a call of query number {ticket.query} was never answered ({outcome.kind}: {outcome.detail}) "
                        f"after {len(answered)} that were. All answers are kept: ask again, and only the rest is asked."
                    )
                desk.put(ticket, reply)
                hand_out()

    hand_out()
    listeners = [
        asyncio.create_task(listen(engine, inboxes[id(engine)])) for engine in {id(e): e for e in engines}.values()
    ]
    try:
        await asyncio.gather(*listeners)
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    return answered


def request_id(ticket: Ticket) -> str:
    """An id for a ticket's request, unique at its desk."""
    return f"{ticket.query}/{ticket.round}/{ticket.place}"


def spoken(exchange: Exchange) -> str:
    """What a model said, with its chain in tags again where the endpoint has taken it out of the content."""
    if not exchange.reasoning or "<think>" in exchange.content:
        return exchange.content
    return f"<think>{exchange.reasoning}</think>{exchange.content}"
