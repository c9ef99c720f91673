"""One stream of requests through batches: what is stored, what goes into which batch, what is asked again.

A request is looked up, then waits until a batch of its model is full or nothing more is to come, is claimed and sent
with it, and is looked up again when the batch has ended. A faulty answer gets its one repair turn in a later batch; a
request that came back without an answer goes into the next one, `rounds` times. One that somebody else has claimed, and
one that the budget has no room for, are tried again whenever a batch has ended, and at every `poll_s`.

Absent on purpose: HTTP and rows (`desk`).
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice

from inference.batch.api import BatchRefused
from inference.batch.collect import Ended
from inference.batch.desk import Desk
from inference.batch.rows import Asked
from inference.breaker import Breaker
from inference.endpoint import EndpointRefused, Trouble, refused_as
from inference.exchange import Exchange, Failure, Outcome, Request, Requests, repair_request
from inference.purchase import Check, NoRoom, fault_of
from inference.store import Claim, Found

LOOKUP = 512
# What a line of the input file holds beside the messages.
ROOM_PER_LINE = 512
QUEUE_FULL = "token_limit_exceeded"


@dataclass(eq=False)
class _Wanted:
    """A request of the caller's, and what is to be bought for it: itself, or the turn that mends its first answer.

    `fault` is the first answer's, once there is one. `twins` ask for the same thing and are told the same.
    """

    original: Request
    asked: Request
    fault: str | None = None
    attempts: int = 0
    twins: list[_Wanted] = field(default_factory=list)


class Stream:
    """Answers the requests of one `ask`; at most `open_batches` times `max_requests` of them are in hand at once."""

    def __init__(self, desk: Desk, breaker: Breaker, check: Check) -> None:
        self._desk = desk
        self._breaker = breaker
        self._check = check
        self._settings = desk.settings
        self._most_in_hand = desk.settings.open_batches * desk.settings.max_requests
        self._in_hand = 0
        self._arrived: deque[list[Found]] = deque()
        self._waits_for_input_since = math.inf
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        self._by_key: dict[str, _Wanted] = {}
        self._ready: defaultdict[str, deque[_Wanted]] = defaultdict(deque)
        self._sent: dict[str, list[_Wanted]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._claimed_elsewhere: list[_Wanted] = []
        self._to_mend: list[_Wanted] = []
        self._marks: list[asyncio.Future[None]] = []
        self._outcomes: deque[Outcome] = deque()
        self._held = False
        self._seen_changes = 0
        self._next_turn = 0.0
        self._room.set()

    async def outcomes(self, requests: Requests) -> AsyncGenerator[Outcome, None]:
        """Answer every request; whatever stops this comes after what was finished."""
        self._desk.listen(self._changed)
        reader = asyncio.create_task(self._read(requests))
        reader.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                self._changed.clear()
                error = await self._step(reader)
                while self._outcomes:
                    self._in_hand -= 1
                    self._room.set()
                    yield self._outcomes.popleft()
                if error is not None:
                    raise error
                if reader.done() and self._in_hand == 0:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._changed.wait()
        finally:
            self._desk.leave(self._changed)
            tasks = (reader, *self._sending)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: Requests) -> None:
        """Look up what comes in, as long as there is room for it."""
        self._waits_for_input_since = time.monotonic()
        async for chunk in _in_chunks(requests, min(LOOKUP, self._settings.max_requests)):
            self._waits_for_input_since = math.inf
            while self._in_hand + len(chunk) > self._most_in_hand:
                self._room.clear()
                self._changed.set()
                await self._room.wait()
            self._in_hand += len(chunk)
            self._arrived.append(list(await self._desk.teller.look_up(chunk)))
            self._waits_for_input_since = time.monotonic()
            self._changed.set()

    async def _step(self, reader: asyncio.Task[None]) -> Exception | None:
        """Do what can be done now; gives the error that ends the stream."""
        try:
            if self._desk.error is not None:
                raise self._desk.error
            for task in [task for task in self._sending if task.done()]:
                self._sending.discard(task)
                task.result()
            while self._arrived:
                for request, stored in self._arrived.popleft():
                    wanted = _Wanted(request, request)
                    if stored is None:
                        self._want(wanted)
                    else:
                        self._judge(wanted, stored)
            await self._take_turn()
            await self._mend()
            if reader.done():
                reader.result()
            # Where no more is read for now, waiting would not fill a batch.
            idle = time.monotonic() - self._waits_for_input_since >= self._settings.poll_s
            await self._dispatch(flush=reader.done() or idle or not self._room.is_set())
            await self._mend()
            await asyncio.gather(*self._marks)
            self._marks.clear()
        except Exception as error:  # noqa: BLE001 - raised once the outcomes are handed out
            return error
        return None

    def _want(self, wanted: _Wanted) -> None:
        """Put a request with those that are to be sent, unless the same one is here already."""
        model, key = wanted.asked.sampling.model, wanted.asked.key
        self._desk.prices.of(model)  # before anything is sent
        if (first := self._by_key.get(key)) is not None:
            first.twins.append(wanted)
            return
        self._by_key[key] = wanted
        try:
            wanted.asked.messages_json.decode()
        except UnicodeDecodeError as error:
            # One line that is no text would have the provider refuse the whole batch.
            self._give_up(wanted, Trouble("no text", f"its messages are not valid Unicode: {error}", retry=False))
        else:
            self._ready[model].append(wanted)

    def _judge(self, wanted: _Wanted, exchange: Exchange) -> None:
        """Hand an answer out, or have it mended."""
        fault = fault_of(wanted.original, exchange, self._check)
        if fault != exchange.fault:
            self._marks.append(self._desk.teller.mark(exchange.key, fault))
        if fault is not None and wanted.fault is None and wanted.original.mend:
            turn = repair_request(wanted.original, exchange.content, fault)
            self._to_mend.append(_Wanted(wanted.original, turn, fault))
            return
        outcome = replace(exchange, request_id=wanted.original.id, fault=fault)
        self._outcomes.append(outcome)
        self._breaker.watch(outcome)

    async def _mend(self) -> None:
        """Look up the repair turns of faulty answers; buy those that are not stored."""
        turns, self._to_mend = self._to_mend, []
        if turns:
            for wanted, stored in await self._looked_up(turns):
                if stored is None:
                    self._want(wanted)
                else:
                    self._judge(wanted, stored)
            self._changed.set()

    async def _take_turn(self) -> None:
        """After the end of a batch, and every `poll_s`: settle what has ended, and let the others try again."""
        if self._seen_changes == self._desk.changes and time.monotonic() < self._next_turn:
            return
        self._seen_changes = self._desk.changes
        self._next_turn = time.monotonic() + self._settings.poll_s
        self._held = False
        for batch in [*self._sent]:
            if (ended := self._desk.ended(batch)) is not None:
                await self._settle(self._sent.pop(batch), ended)
        waiting, self._claimed_elsewhere = self._claimed_elsewhere, []
        for wanted, stored in await self._looked_up(waiting):
            if stored is None:
                self._ready[wanted.asked.sampling.model].append(wanted)
            else:
                self._finish(wanted, stored)

    async def _settle(self, sent: list[_Wanted], ended: Ended) -> None:
        """Take the answers of a batch out of the store, and decide what becomes of the rest."""
        model = sent[0].asked.sampling.model
        if QUEUE_FULL in ended.codes and self._desk.hold_back():
            for wanted in sent:
                wanted.attempts -= 1
            self._ready[model].extendleft(reversed(sent))
            return
        if ended.ended_as == "failed":
            raise BatchRefused(
                f"{self._desk.address} refused a batch of {len(sent):,} requests to {model} (the first is "
                f"{sent[0].original.id}): {ended.said or 'no explanation'}. Nothing of it was charged, and all answers "
                "so far are kept. Check the model name, and that its size suits the provider (max_requests, "
                "max_bytes), then run again."
            )
        for wanted, stored in await self._looked_up(sent):
            if stored is None:
                self._retry(wanted, ended.trouble(wanted.asked.key))
            else:
                self._desk.tally.bought(stored)
                self._finish(wanted, replace(stored, from_store=False))

    def _finish(self, wanted: _Wanted, exchange: Exchange) -> None:
        """An answer is there: for this request and for its twins, who have it for nothing."""
        del self._by_key[wanted.asked.key]
        self._judge(wanted, exchange)
        for twin in wanted.twins:
            self._judge(twin, replace(exchange, from_store=True))

    def _retry(self, wanted: _Wanted, trouble: Trouble) -> None:
        """A batch brought no answer: into the next one with it, unless that would help nobody."""
        self._desk.tally.troubles[trouble.kind] += 1
        model = wanted.asked.sampling.model
        if trouble.fatal:
            refused = refused_as(trouble.kind) or EndpointRefused
            raise refused(
                f"{self._desk.address} refuses {model} in a batch: {trouble.kind} ({trouble.detail}). All answers so "
                f"far are kept. {refused.remedy}"
            )
        if trouble.retry and wanted.attempts <= self._settings.rounds:
            self._ready[model].append(wanted)
        else:
            self._give_up(wanted, trouble)

    def _give_up(self, wanted: _Wanted, trouble: Trouble) -> None:
        del self._by_key[wanted.asked.key]
        for one in (wanted, *wanted.twins):
            detail = f"{trouble.detail} (batches: {wanted.attempts})"
            if one.fault is not None:
                detail = f"in the repair turn after '{one.fault}': {detail}"
            self._outcomes.append(Failure(one.original.id, one.original.key, trouble.kind, detail))

    async def _dispatch(self, flush: bool) -> None:
        """File and send the batches that are full, and with `flush` also what is left over."""
        for model, queue in self._ready.items():
            while queue and not self._held:
                count, full = self._next_batch(queue)
                if not (full or flush):
                    break
                chosen = [queue.popleft() for _ in range(count)]
                batch = uuid.uuid4().hex
                asked = [Asked(wanted.asked, wanted.attempts + 1) for wanted in chosen]
                claims = await self._desk.file(batch, model, asked)
                left = chosen if claims is None else self._sort_out(batch, chosen, claims)
                if left:
                    # No room now, in the budget or among the open batches: the next turn tries again.
                    queue.extendleft(reversed(left))
                    self._held = True

    def _sort_out(self, batch: str, chosen: Sequence[_Wanted], claims: Sequence[Claim]) -> list[_Wanted]:
        """Send what was granted, take what is stored; gives what the budget has no room for."""
        granted: list[_Wanted] = []
        too_dear: list[_Wanted] = []
        for wanted, claim in zip(chosen, claims, strict=True):
            if claim.exchange is not None:
                self._finish(wanted, claim.exchange)
            elif claim.status == "granted":
                wanted.attempts += 1
                granted.append(wanted)
            elif claim.status == "busy":
                self._claimed_elsewhere.append(wanted)
            else:
                too_dear.append(wanted)
        if granted:
            self._sent[batch] = granted
            task = asyncio.create_task(self._desk.send(batch, [wanted.asked for wanted in granted]))
            task.add_done_callback(lambda _: self._changed.set())
            self._sending.add(task)
        elif too_dear and claims[-1].reserved.tokens == 0 and not self._sent:
            # With batches of our own that ended since the last turn, the next one hands out their answers first.
            raise NoRoom
        return too_dear

    def _next_batch(self, queue: deque[_Wanted]) -> tuple[int, bool]:
        """How many of those that wait make the next batch, and whether it is full with them."""
        size = 0
        for count, wanted in enumerate(queue):
            size += len(wanted.asked.messages_json) + ROOM_PER_LINE
            # A request that is too large by itself goes alone, for the provider to judge.
            if count == self._settings.max_requests or (count > 0 and size > self._settings.max_bytes):
                return count, True
        return len(queue), len(queue) == self._settings.max_requests

    async def _looked_up(self, wanted: Sequence[_Wanted]) -> list[tuple[_Wanted, Exchange | None]]:
        found: list[Found] = []
        for start in range(0, len(wanted), LOOKUP):
            found += await self._desk.teller.look_up([one.asked for one in wanted[start : start + LOOKUP]])
        return [(one, stored) for one, (_, stored) in zip(wanted, found, strict=True)]


async def _in_chunks(requests: Requests, most: int) -> AsyncGenerator[list[Request], None]:
    """Requests in lists: of `most` from an iterable, of one from a stream whose next item may take its time."""
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield [request]
        return
    source = iter(requests)
    while chunk := list(islice(source, most)):
        yield chunk
