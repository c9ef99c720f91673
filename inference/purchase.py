"""How one request is answered: from the store, or by buying, with retries, one repair turn and a budget.

The check runs on stored answers as well as on new ones: a changed parser costs nothing, and an answer that the new
one refuses is repaired. Every HTTP request is sent under a claim (`store.ExchangeStore.claim`) that reserves its worst
case and keeps others from buying the same; the claim ends with that request, so nothing is held while backing off.

Absent on purpose: the stream around it (`engine`) and the HTTP (`endpoint`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from inference.budget import Budget
from inference.endpoint import Answer, EndpointRefused, Line, Trouble
from inference.exchange import Exchange, Failure, Request, own_fault, repair_request
from inference.pace import Pace, backoff_s
from inference.prices import Cost, Prices
from inference.progress import Progress, Tally
from inference.store import ExchangeStore, now

T = TypeVar("T")
Check = Callable[[Request, str], str | None]
# A claim that another process holds may end at any time; nothing tells this process.
RIVAL_WAIT_S = 0.25


class NoRoom(Exception):
    """The next request does not fit the budget, and nothing in flight will make room."""


class Stopped(Exception):
    """The run is ending; this request was not sent."""


def accept_all(_request: Request, _content: str) -> str | None:
    """The check that finds no fault."""
    return None


@dataclass
class Purchase:
    """Answers requests over one line; one per call of `Engine.ask`."""

    line: Line
    store: ExchangeStore
    budget: Budget
    prices: Prices
    pace: Pace
    tally: Tally
    check: Check
    stopping: bool = False
    _idle: set[asyncio.Task[None]] = field(default_factory=set)
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self) -> Progress:
        return self.tally.picture(self.pace.in_flight, int(self.pace.limit))

    def stop(self) -> None:
        """Send nothing more: whoever waits is cancelled, whoever has a request on its way may finish it."""
        self.stopping = True
        for task in tuple(self._idle):
            task.cancel()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Mark the current task as one that has nothing on its way."""
        me = asyncio.current_task()
        assert me is not None
        self._idle.add(me)
        try:
            yield
        finally:
            self._idle.discard(me)

    async def answer(self, request: Request, stored: Exchange | None) -> Exchange | Failure:
        """An answer that passes the check, by one repair turn if need be, or the last faulty one, or a failure."""
        first = await self._obtain(request, None) if stored is None else replace(stored, request_id=request.id)
        if isinstance(first, Failure):
            return first
        fault = await self._find_fault(request, first)
        if fault is None:
            return replace(first, fault=None)
        second = await self._obtain(repair_request(request, first.content, fault), first.key)
        if isinstance(second, Failure):
            return replace(second, key=request.key, detail=f"in the repair turn after '{fault}': {second.detail}")
        return replace(second, fault=await self._find_fault(request, second), repair_of=first.key)

    async def _find_fault(self, request: Request, exchange: Exchange) -> str | None:
        fault = own_fault(exchange) or self.check(request, exchange.content)
        if fault != exchange.fault:
            await _durable(self.store.mark(exchange.key, fault))
        return fault

    async def _obtain(self, request: Request, repair_of: str | None) -> Exchange | Failure:
        """The answer from the store, or from the endpoint in at most `max_attempts` HTTP requests."""
        settings = self.pace.settings
        worst = self.prices.worst_case(request)
        attempts = 0
        while True:
            outcome: Exchange | Trouble | None
            with self.idle():
                async with self.pace.slot() as entered:
                    outcome = await self._claim(request, worst)
                    if outcome is None:
                        attempts += 1
                        outcome = await self._buy(request, worst, attempts, repair_of)
                        self._adapt(outcome, entered)
                if isinstance(outcome, Exchange):
                    return outcome
                if outcome is WAIT:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._settled.wait(), RIVAL_WAIT_S)
                    continue
                if outcome.fatal:
                    raise EndpointRefused(
                        f"{self.line.endpoint.base_url} refuses {request.sampling.model}: {outcome.kind} "
                        f"({outcome.detail}). All answers so far are kept. Check base_url, the API key and the model "
                        "name in the profile, then run again."
                    )
                if not outcome.retry or attempts >= settings.max_attempts:
                    detail = f"{outcome.detail} (attempts: {attempts})"
                    return Failure(request.id, request.key, outcome.kind, detail)
                await asyncio.sleep(backoff_s(settings, attempts, outcome.retry_after_s))

    async def _claim(self, request: Request, worst: Cost) -> Exchange | Trouble | None:
        """None: send it now, the claim is ours. An Exchange: it is stored. WAIT: look again when a claim has ended."""
        if self.stopping:
            raise Stopped
        try:
            claim = await _durable(self.store.claim(request, worst, self.budget))
        except asyncio.CancelledError:
            self.store.release(request.key, presumed=False)
            raise
        if claim.exchange is not None:
            return replace(claim.exchange, request_id=request.id)
        if claim.status == "full" and claim.reserved.tokens == 0:
            raise NoRoom
        return None if claim.status == "granted" else WAIT

    async def _buy(self, request: Request, worst: Cost, attempts: int, repair_of: str | None) -> Exchange | Trouble:
        """One HTTP request under a claim; the claim ends with it, whatever comes."""
        me = asyncio.current_task()
        assert me is not None
        self._idle.discard(me)
        self.tally.calls += 1
        try:
            outcome = await self.line.send(request)
        except BaseException:
            # Cancelled on its way: the endpoint works on it, and may charge, all the same.
            self.store.release(request.key, presumed=True)
            raise
        if isinstance(outcome, Answer):
            exchange = self._priced(request, outcome, worst, attempts, repair_of)
            kept = await _durable(self.store.put(request, exchange, self.budget.scope))
            self.tally.bought(exchange)
        else:
            await _durable(self.store.release(request.key, presumed=outcome.may_cost))
        self._settled.set()
        self._settled = asyncio.Event()
        if isinstance(outcome, Answer):
            return kept
        self._idle.add(me)
        return outcome

    def _adapt(self, outcome: Exchange | Trouble, entered: float) -> None:
        if isinstance(outcome, Exchange):
            self.pace.speed_up()
            return
        self.tally.troubles[outcome.kind] += 1
        if outcome.slow_down:
            self.pace.slow_down(entered, outcome.retry_after_s)

    def _priced(self, request: Request, answer: Answer, worst: Cost, attempts: int, repair_of: str | None) -> Exchange:
        """The answer as it is kept; usage that was not reported counts at its worst case."""
        max_tokens = request.sampling.max_tokens
        prompt = worst.tokens - max_tokens if answer.prompt_tokens is None else answer.prompt_tokens
        completed = max_tokens if answer.completion_tokens is None else answer.completion_tokens
        return Exchange(
            request_id=request.id,
            key=request.key,
            model=request.sampling.model,
            served_model=answer.served_model,
            content=answer.content,
            reasoning=answer.reasoning,
            finish_reason=answer.finish_reason,
            prompt_tokens=prompt,
            completion_tokens=completed,
            cached_tokens=answer.cached_tokens,
            usd=self.prices.usd(request.sampling.model, prompt, answer.cached_tokens, completed),
            latency_s=answer.latency_s,
            attempts=attempts,
            created_at=now(),
            generation=request.generation,
            fingerprint=answer.fingerprint,
            repair_of=repair_of,
        )


# Not a trouble of the endpoint's: the answer, or room in the budget, is on its way elsewhere.
WAIT = Trouble("waiting", "", retry=True)


async def _durable(future: Future[T]) -> T:
    """Await the store; a cancelled waiter leaves the job to finish."""
    return await asyncio.shield(asyncio.wrap_future(future))
