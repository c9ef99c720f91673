"""The store as coroutines see it: single wishes in, done many at a time.

Whatever coroutines ask of the store while a commit is under way, or within a few milliseconds under load, becomes one
job of the store's clerk: one transaction and one fsync for all of it. Answers are kept before claims are looked at,
so that what they free can be claimed at once.

Absent on purpose: SQL (`store`), and threads (`clerk`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from inference.budget import Budget
from inference.clerk import Clerk
from inference.exchange import Exchange, Request
from inference.prices import Cost
from inference.store import (
    Bought,
    Claim,
    ExchangeStore,
    Found,
    Texts,
    Wish,
    asked_now,
    found,
    kept,
    keys_of,
    mark,
    released,
    stored_texts,
)

T = TypeVar("T")
LINGER_S = 0.004
CROWD = 64


@dataclass
class _Errands:
    """What is to be done in the next transaction, and who waits for it."""

    puts: list[tuple[Bought, asyncio.Future[Exchange]]] = field(default_factory=list)
    releases: list[tuple[tuple[str, bool], asyncio.Future[None]]] = field(default_factory=list)
    marks: list[tuple[tuple[str, str | None], asyncio.Future[None]]] = field(default_factory=list)
    claims: list[tuple[Wish, asyncio.Future[Claim]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.puts) + len(self.releases) + len(self.marks) + len(self.claims)


class LookUp:
    """Stored answers that are looked for from the moment it is made, and read when it is awaited."""

    def __init__(self, clerk: Clerk, requests: Sequence[Request]) -> None:
        self._clerk = clerk
        self._requests = requests
        self._texts = self._look(requests)

    def __await__(self) -> Generator[Any, None, list[Found]]:
        texts = yield from self._texts
        if (asked := asked_now(self._requests, texts)) is not self._requests:
            texts = yield from self._look(asked)
        return found(asked, texts)

    def _look(self, requests: Sequence[Request]) -> asyncio.Future[Texts]:
        keys = keys_of(requests)
        return self._clerk.perform(lambda con: stored_texts(con, keys), writes=False)


class Teller:
    """Serves the coroutines of one run, on one event loop, under one budget; claims are the run's and no other's.

    Every method puts its errand on the list at once; it is done whether or not anybody awaits it or goes on waiting.
    Only a claim that nobody waits for any more is not made: its release may stand on the same list, and comes first.
    """

    def __init__(self, store: ExchangeStore, budget: Budget) -> None:
        self.store = store
        self.budget = budget
        self._me = store.holder()
        self._next = _Errands()
        self._due: asyncio.Handle | asyncio.TimerHandle | None = None
        self._going: asyncio.Future[list[Any]] | None = None
        self._busy = False

    def look_up(self, requests: Sequence[Request]) -> LookUp:
        """Each request, in the generation that is asked now, with its stored answer under the request's own id."""
        return LookUp(self.store.clerk, requests)

    def claim(self, request: Request, worst: Cost) -> asyncio.Future[Claim]:
        """Ask for leave to buy."""
        return self._add(self._next.claims, (request, worst))

    def put(self, request: Request, exchange: Exchange) -> asyncio.Future[Exchange]:
        """Keep an answer and book its cost; done after the commit, with the answer that now stands in the store."""
        return self._add(self._next.puts, (request, exchange))

    def release(self, key: str, presumed: bool) -> asyncio.Future[None]:
        """Give up a claim; `presumed`: the endpoint may have charged for it, so its worst case counts as spent."""
        return self._add(self._next.releases, (key, presumed))

    def mark(self, key: str, fault: str | None) -> asyncio.Future[None]:
        """Record the fault that the caller's check found in a stored answer (None: none any more)."""
        return self._add(self._next.marks, (key, fault))

    async def open(self) -> None:
        """Begin a run: what earlier ones of this process could not release is free again."""
        await self.store.clerk.perform(self.store.clear_up, writes=True)

    async def close(self) -> None:
        """End a run: everything asked so far is done, and nothing is claimed any more."""
        await self.settle()
        self.store.over(self._me)
        # If it cannot be written now, it is when the next run begins, or at the store's next beat.
        await asyncio.gather(self.store.clerk.perform(self.store.clear_up, writes=True), return_exceptions=True)

    async def settle(self) -> None:
        """Wait until everything asked so far is done."""
        while self._going is not None or len(self._next):
            self._hurry()
            if self._going is not None:
                await asyncio.wait([self._going])

    def _add(self, errands: list[tuple[Any, asyncio.Future[T]]], item: Any) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        errands.append((item, future))
        if self._going is None:
            self._set_out()
        return future

    def _set_out(self) -> None:
        """Be off: with a crowd at once, with less in a moment, and after a busy time in one that is worth a wait."""
        if len(self._next) >= CROWD:
            self._hurry()
        elif self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(LINGER_S, self._hurry) if self._busy else loop.call_soon(self._hurry)

    def _hurry(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._going is not None or not len(self._next):
            return
        errands, self._next = self._next, _Errands()
        errands.claims = [claim for claim in errands.claims if not claim[1].cancelled()]
        self._busy = len(errands) > 2
        self._going = self.store.clerk.perform(lambda con: self._run(con, errands), writes=True)
        self._going.add_done_callback(lambda going: self._hand_out(errands, going))

    def _run(self, con: sqlite3.Connection, errands: _Errands) -> list[Any]:
        me, scope = self._me, self.budget.scope
        answers: list[Any] = []
        answers += kept(con, [item for item, _ in errands.puts], scope, me) if errands.puts else []
        for (key, presumed), _ in errands.releases:
            released(con, [key], presumed, me)
        for item, _ in errands.marks:
            mark(con, *item)
        answers += [None] * (len(errands.releases) + len(errands.marks))
        wishes = [item for item, _ in errands.claims]
        return answers + (self.store.claimed(con, wishes, self.budget, me) if wishes else [])

    def _hand_out(self, errands: _Errands, going: asyncio.Future[list[Any]]) -> None:
        self._going = None
        # Before anybody is woken: what they do next takes longer than a transaction.
        if len(self._next):
            self._set_out()
        waiting: list[asyncio.Future[Any]] = []
        for errand in (errands.puts, errands.releases, errands.marks, errands.claims):
            waiting += [future for _, future in errand]
        error = asyncio.CancelledError() if going.cancelled() else going.exception()
        for i, future in enumerate(waiting):
            if future.done():
                continue
            if error is None:
                future.set_result(going.result()[i])
            else:
                future.set_exception(error)
                future.exception()  # not everybody waits: asyncio need not say that nobody asked
