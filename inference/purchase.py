"""How one request is answered: from the store, or by buying, with retries, one repair turn and a budget.

The check runs on stored answers as well as on new ones: a changed parser costs nothing, and an answer that the new
one refuses is repaired. Every HTTP request is sent under a claim (`store.ExchangeStore.claim`) that reserves its worst
case and keeps others from buying the same; the claim ends with that request, so nothing is held while backing off, nor
while the endpoint has asked everybody to wait. Claims are taken, and answers committed, outside the slots of the pace,
so that the endpoint never waits for the disk. So a claim also stands while its request waits for a slot or for its
share of a rate limit, until the deadline of the request at most; those who wait so are the few in AHEAD, and hardly
more claims stand than requests are on their way.

Absent on purpose: the stream around it (`engine`) and the HTTP (`endpoint`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from inference.breaker import TOO_LATE, Breaker
from inference.endpoint import Answer, EndpointRefused, Line, Trouble, refused_as
from inference.exchange import Exchange, Failure, Request, own_fault, repair_request, task_fault
from inference.held import Held
from inference.pace import Pace, PaceSettings, backoff_s
from inference.prices import Cost, Prices, prompt_tokens_about
from inference.progress import Progress, Tally
from inference.store import now
from inference.teller import Teller

Check = Callable[[Request, str], str | None]
# A claim that another process holds may end at any time; nothing tells this process.
RIVAL_WAIT_S = 0.25
AHEAD = 0.5


class NoRoom(Exception):
    """The next request does not fit the budget, and nothing in flight will make room."""


class Stopped(Exception):
    """The run is ending; this request was not sent."""


class AskedElsewhere(Exception):
    """Somebody else is asking this; others may go first."""


def accept_all(_request: Request, _content: str) -> str | None:
    """The check that finds no fault."""
    return None


def fault_of(request: Request, exchange: Exchange, check: Check) -> str | None:
    """What is wrong with an answer, by itself or by the caller's check."""
    return own_fault(exchange) or task_fault(exchange.content, check(request, exchange.content))


def priced(
    request: Request, answer: Answer, worst: Cost, attempts: int, usd_of: Prices, share: float = 1.0
) -> Exchange:
    """The answer as it is kept, at `share` of the listed price; usage that was not reported counts at its worst."""
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
        usd=usd_of.usd(request.sampling.model, prompt, answer.cached_tokens, completed) * share,
        latency_s=answer.latency_s,
        attempts=attempts,
        created_at=now(),
        generation=request.generation,
        fingerprint=answer.fingerprint,
        repair_of=request.repair_of,
        logprobs=answer.logprobs if request.sampling.top_logprobs is not None else None,
    )


@dataclass(frozen=True)
class Bought:
    """An answer that was paid for and judged, and is being stored; it counts once `kept` gives what then stands there.

    That is another one where another process bought it meanwhile.
    """

    request: Request
    exchange: Exchange
    kept: asyncio.Future[Exchange]


@dataclass(eq=False)
class Hand:
    """One task of a stream, and whether it has something on its way: a request, or an outcome to hand over.

    A `patient` one waits for what others ask; else AskedElsewhere tells it to go on with something else meanwhile.
    """

    task: asyncio.Task[None] | None = None
    busy: bool = False
    patient: bool = False


@dataclass
class Crew:
    """The tasks of one stream of requests."""

    hands: list[Hand] = field(default_factory=list)
    stopping: bool = False

    def start(self, work: Callable[[Hand], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """A further task, which runs `work` and keeps its hand up to date."""
        hand = Hand()
        hand.task = asyncio.create_task(work(hand))
        self.hands.append(hand)
        return hand.task

    def stop(self) -> None:
        """Send nothing more: whoever waits is cancelled, whoever has something on its way may finish it."""
        self.stopping = True
        for hand in self.hands:
            if not hand.busy and hand.task is not None:
                hand.task.cancel()


@dataclass
class Purchase:
    """Answers requests over one line; shared by everything that one run of an engine asks."""

    line: Line
    teller: Teller
    prices: Prices
    settings: PaceSettings
    breaker: Breaker
    tally: Tally
    _paces: dict[str, Pace] = field(default_factory=dict)
    _here: dict[str, asyncio.Event] = field(default_factory=dict)
    # In the order in which they came.
    _waiting: dict[asyncio.Event, None] = field(default_factory=dict)
    _held: Held = field(init=False)

    def __post_init__(self) -> None:
        self._held = Held(self.teller.store.path, self.tally)

    def pace(self, model: str) -> Pace:
        """The pace of one model of the endpoint."""
        if model not in self._paces:
            self._paces[model] = Pace(self.settings)
        return self._paces[model]

    def progress(self) -> Progress:
        """The run at this moment."""
        paces = self._paces.values()
        return self.tally.picture(
            in_flight=sum(pace.in_flight for pace in paces),
            concurrency=sum(int(pace.limit) for pace in paces),
            oldest_s=max((pace.oldest_s for pace in paces), default=0.0),
            paused_s=max((pace.paused_s for pace in paces), default=0.0),
            budget=self.teller.budget,
        )

    async def answer(
        self, request: Request, stored: Exchange | None, check: Check, crew: Crew, hand: Hand
    ) -> Exchange | Failure | Bought:
        """An answer that passes the check, by one repair turn if need be, or the last faulty one, or a failure.

        What was bought and passes is not waited for: the next request may be claimed in the transaction that keeps it.
        """
        first = stored or await self._obtain(request, crew, hand)
        if isinstance(first, Failure):
            return first
        if first.from_store:
            return await self.answer_from(first, request, check, crew, hand)
        bought = self._keep(request, first, request, check)
        if bought.exchange.fault is None or not request.mend:
            return bought
        # The claim on the repair goes into the transaction that keeps what is to be mended.
        second = await self._repair(request, bought.exchange, check, crew, hand)
        stands = await bought.kept
        return second if stands is bought.exchange else await self.answer_from(stands, request, check, crew, hand)

    async def answer_from(
        self, stored: Exchange, request: Request, check: Check, crew: Crew, hand: Hand
    ) -> Exchange | Failure | Bought:
        """What a stored answer comes to: itself, or what comes of its repair turn, unless it came of one."""
        fault = fault_of(request, stored, check)
        if fault != stored.fault:
            await self.teller.mark(stored.key, fault)
        # It may have been bought for a request of another name.
        if (fault, request.id) != (stored.fault, stored.request_id):
            stored = replace(stored, fault=fault, request_id=request.id)
        if fault is None or stored.repair_of is not None or not request.mend:
            return stored
        return await self._repair(request, stored, check, crew, hand)

    async def _repair(
        self, request: Request, faulty: Exchange, check: Check, crew: Crew, hand: Hand
    ) -> Exchange | Failure | Bought:
        fault = faulty.fault or ""
        repair = repair_request(request, faulty.content, fault)
        second = await self._obtain(repair, crew, hand)
        if isinstance(second, Failure):
            return replace(second, key=request.key, detail=f"in the repair turn after '{fault}': {second.detail}")
        if second.from_store:
            return await self.answer_from(second, request, check, crew, hand)
        return self._keep(repair, second, request, check)

    def _keep(self, asked: Request, exchange: Exchange, request: Request, check: Check) -> Bought:
        """Store an answer to a request, or to its repair, with what the check finds; and also where the check fails."""
        try:
            if (fault := fault_of(request, exchange, check)) is not None:
                exchange = replace(exchange, fault=fault)
        finally:
            kept = self.teller.put(asked, exchange)
        return Bought(request, exchange, kept)

    async def _obtain(self, request: Request, crew: Crew, hand: Hand) -> Exchange | Failure:
        """The answer from the store, or from the endpoint in at most `max_attempts` HTTP requests; then it is not kept.

        Keep it before anything is awaited: the claim stands until then.
        """
        worst = self.prices.worst_case(request)
        attempts, last, began = 0, LATE, time.monotonic()
        deadline = began + self.settings.deadline_s if self.settings.deadline_s is not None else math.inf
        while True:
            hand.busy = False
            # Asked for twice in this process: the second waits for the first.
            while (rival := self._here.get(request.key)) is not None:
                await rival.wait()
            self._here[request.key] = asyncio.Event()
            try:
                outcome = await self._attempt(request, worst, attempts + 1, deadline, crew, hand)
            finally:
                self._here.pop(request.key).set()
                if self._waiting:
                    next(iter(self._waiting)).set()
            if isinstance(outcome, Exchange):
                return outcome
            hand.busy = False
            if outcome is BUSY and attempts == 0 and not hand.patient:
                raise AskedElsewhere
            if outcome is BUSY or outcome is FULL or outcome is PAUSED:
                if (left_s := deadline - time.monotonic()) > 0:
                    if outcome is PAUSED:
                        await asyncio.sleep(min(self.pace(request.sampling.model).paused_s, left_s))
                    else:
                        await self._wait(without_room=outcome is FULL)
                    continue
                outcome = LATE
            if outcome is not LATE:
                attempts, last = attempts + 1, outcome
            if outcome.fatal:
                refused = refused_as(outcome.kind) or EndpointRefused
                raise refused(
                    f"{self.line.endpoint.base_url} refuses {request.sampling.model}: {outcome.kind} "
                    f"({outcome.detail}). All answers so far are kept. {refused.remedy}"
                )
            wait = backoff_s(self.settings, attempts, outcome.retry_after_s)
            late = outcome is LATE or time.monotonic() + wait >= deadline
            if not outcome.retry or attempts >= self.settings.max_attempts or late:
                why = f", deadline of {self.settings.deadline_s:g} s" if late else ""
                detail = f"{last.detail} (attempts: {attempts}{why})"
                return Failure(request.id, request.key, last.kind, detail)
            if crew.stopping:
                raise Stopped
            await asyncio.sleep(wait)

    async def _wait(self, without_room: bool) -> None:
        """Wait a moment; what frees a rival's claim, or room in the budget, may happen in another process."""
        moment = asyncio.Event()
        self._waiting[moment] = None
        self.tally.without_room += without_room
        try:
            # asyncio.wait_for would lose a cancellation that comes with the event, and wait on for ever.
            with suppress(TimeoutError):
                async with asyncio.timeout(RIVAL_WAIT_S):
                    await moment.wait()
        finally:
            self._waiting.pop(moment, None)
            self.tally.without_room -= without_room

    async def _attempt(
        self, request: Request, worst: Cost, attempt: int, deadline: float, crew: Crew, hand: Hand
    ) -> Exchange | Trouble:
        """One HTTP request under a claim, unless the answer is stored; without an answer the claim ends with it."""
        if crew.stopping:
            raise Stopped
        pace = self.pace(request.sampling.model)
        about = prompt_tokens_about(request)
        sent = False
        try:
            claim = await self.teller.claim(request, worst)
            self.tally.spent = claim.spent
            self._held.note(request.key, claim.held_by)
            if claim.exchange is not None:
                return claim.exchange
            if claim.status == "full" and claim.reserved.tokens == 0:
                raise NoRoom
            if claim.status != "granted":
                return BUSY if claim.status == "busy" else FULL
            entered = await pace.enter(about, deadline)
            if entered is None:
                await self.teller.release(request.key, presumed=False)
                return PAUSED if time.monotonic() < deadline else LATE
            try:
                if crew.stopping:
                    raise Stopped
                left_s = deadline - time.monotonic()
                if left_s > 0:
                    hand.busy = True
                    sent = True
                    self.tally.calls += 1
                outcome = await self.line.send(request, left_s) if sent else LATE
            finally:
                pace.leave(entered)
            if sent:
                self._adapt(pace, outcome, entered, about)
            if isinstance(outcome, Trouble):
                await self.teller.release(request.key, presumed=outcome.may_cost)
                return outcome
            exchange = priced(request, outcome, worst, attempt, self.prices)
            self.tally.bought(exchange)
            return exchange
        except BaseException:
            # Cancelled on its way: the endpoint works on it, and may charge, all the same.
            self.teller.release(request.key, presumed=sent)
            raise

    def _adapt(self, pace: Pace, outcome: Answer | Trouble, entered: float, about: int) -> None:
        if isinstance(outcome, Answer):
            if outcome.prompt_tokens is not None and outcome.completion_tokens is not None:
                pace.tokens.take(outcome.prompt_tokens + outcome.completion_tokens - about)
            pace.speed_up()
            return
        self.tally.troubles[outcome.kind] += 1
        if outcome.slow_down:
            pace.slow_down(entered, outcome.retry_after_s)


# Not a trouble of this request: the answer, or room in the budget, is on its way elsewhere, or nobody may send now.
BUSY = Trouble("asked elsewhere", "", retry=True)
FULL = Trouble("no room in the budget", "", retry=True)
PAUSED = Trouble("asked to wait", "", retry=True)
# Nor is this one: the request's time was up before its turn came, so nothing was sent and nothing can be charged.
LATE = Trouble(TOO_LATE, "its turn did not come in time", retry=False)
