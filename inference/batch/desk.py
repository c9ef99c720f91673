"""Where batches leave and come back: sends them, watches all that are open at an endpoint, and keeps what they bring.

The store is the only memory. A batch that this process has sent, one that another process waits for, and one whose
sender was killed are watched and collected alike; that is also how a run goes on after a kill. Before a creation, the
row says that it is about to happen; where its answer is lost, the provider's list is asked for the batch by its tag,
and only when the batch has not turned up there for `settle_s` do its requests count as not sent.

Absent on purpose: which requests go into which batch, and what is asked again (`stream`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from inference.batch.api import ENDED, URL, BatchApi, Unsure
from inference.batch.collect import Ended, clear_away, collect
from inference.batch.rows import (
    Asked,
    Draft,
    Row,
    begin_creating,
    created,
    end,
    endings,
    file_batch,
    let_go,
    open_rows,
)
from inference.batch.settings import BatchSettings
from inference.breaker import EndpointDown
from inference.endpoint import EndpointRefused, chat_body
from inference.exchange import Request
from inference.prices import Cost, Prices
from inference.progress import Progress, Tally
from inference.store import Claim
from inference.teller import Teller

# How much longer than its window the claims of a batch stand, so that a run on the next day still finds them.
LEASE_BEYOND_S = 86_400.0


@dataclass
class Desk:
    """Serves one run of a batch engine; `changes` counts the batches that were seen to end."""

    api: BatchApi
    teller: Teller
    prices: Prices
    settings: BatchSettings
    tally: Tally
    error: Exception | None = None
    changes: int = 0
    _open_at_most: int = field(init=False)
    _open: set[str] = field(default_factory=set)
    _sent: dict[str, tuple[int, float]] = field(default_factory=dict)
    _ended: dict[str, Ended] = field(default_factory=dict)
    _listeners: set[asyncio.Event] = field(default_factory=set)
    _partings: list[asyncio.Future[None]] = field(default_factory=list)
    _clearing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._open_at_most = self.settings.open_batches

    @property
    def address(self) -> str:
        """The endpoint as the rows name it."""
        return self.api.endpoint.base_url.rstrip("/")

    def progress(self) -> Progress:
        """The run at this moment."""
        oldest = min((sent_at for _, sent_at in self._sent.values()), default=time.monotonic())
        return self.tally.picture(
            in_flight=sum(count for count, _ in self._sent.values()),
            concurrency=self.settings.open_batches * self.settings.max_requests,
            oldest_s=time.monotonic() - oldest,
            budget=self.teller.budget,
        )

    def listen(self, event: asyncio.Event) -> None:
        """Have an event set whenever a batch has ended or the watch is over."""
        self._listeners.add(event)

    def leave(self, event: asyncio.Event) -> None:
        """Have it set no more."""
        self._listeners.discard(event)

    def ended(self, batch: str) -> Ended | None:
        """How a batch of this run ended, told once; None while it is open."""
        return self._ended.pop(batch, None)

    def hold_back(self) -> bool:
        """Have fewer batches open from now on, as the provider's queue is full; False where no other is open."""
        others = len(self._open | self._sent.keys())
        self._open_at_most = max(1, min(self._open_at_most, others))
        return others > 0

    async def file(self, batch: str, model: str, asked: Sequence[Asked]) -> list[Claim] | None:
        """Claim requests and file a batch of those that are granted; None while too many batches are open.

        Raises UnknownPrice and BatchElsewhere.
        """
        listed = self.prices.of(model)
        # Whether a hit of the cache is cheaper in a batch, too, differs by provider and model: counted as if not.
        price = listed.model_copy(update={"cached": max(listed.input, listed.cached)})
        draft = Draft(batch, self.address, model, price, self.settings.window_s + LEASE_BEYOND_S)
        wishes = []
        for request, attempt in asked:
            worst = self.prices.worst_case(request)
            wishes.append(((request, Cost(worst.usd * price.batch, worst.tokens)), attempt))
        store, budget = self.teller.store, self.teller.budget
        claims = await store.clerk.perform(
            lambda con: file_batch(con, store, draft, wishes, budget, self._open_at_most), writes=True
        )
        if claims:
            self.tally.spent = claims[-1].spent
            if granted := sum(claim.status == "granted" for claim in claims):
                self._sent[batch] = (granted, time.monotonic())
        return claims

    async def send(self, batch: str, requests: Sequence[Request]) -> None:
        """Send a batch that was filed. Raises EndpointRefused, BatchRefused and EndpointDown, and then it has ended."""
        clerk = self.teller.store.clerk
        creating = False
        try:
            name = self.api.endpoint.token_limit_name
            file_id = await self.api.upload(f"rankmill-{batch}.jsonl", b"".join(input_line(r, name) for r in requests))
            files = [file_id] if self.settings.delete_files else []
            if not await clerk.perform(partial(begin_creating, batch=batch, files=files), writes=True):
                return  # this process slept so long that another one took it for dead
            creating = True
            self.tally.calls += len(requests)
            remote = await self.api.create(file_id, batch, self.settings.completion_window)
        except BaseException as error:
            certain = not creating or isinstance(error, EndpointRefused | EndpointDown)
            work = partial(end, batch=batch, ended_as="not sent") if certain else partial(let_go, batch=batch)
            # Not awaited here, since this may be a cancellation.
            self._partings.append(clerk.perform(work, writes=True))
            if isinstance(error, Unsure):
                return
            raise
        await clerk.perform(partial(created, batch=batch, remote=remote), writes=True)

    async def settle(self) -> None:
        """Wait until the store knows all that it has been told."""
        await self.teller.settle()
        await asyncio.gather(*self._partings, return_exceptions=True)

    async def watch(self) -> None:
        """Look at the open batches again and again; what goes wrong stands in `error`."""
        try:
            while True:
                await asyncio.sleep(self.settings.poll_s)
                await self.look()
        except Exception as error:  # noqa: BLE001 - raised by whoever listens
            self.error = error
            self._wake()

    async def look(self) -> None:
        """Look at every open batch of the endpoint once, and collect those that have ended."""
        store = self.teller.store
        rows = await store.clerk.perform(lambda con: open_rows(con, store, self.address), writes=False)
        self._open = {row.batch for row in rows}
        before = self.changes
        for row in await self._identified(rows):
            remote = await self.api.show(row.remote or "", self._remedy(row))
            if remote.status in ENDED:
                delete = self.settings.delete_files
                ended = await collect(self.api, store, row, remote, self._remedy(row), delete)
                self._close(row.batch, ended)
        elsewhere = await store.clerk.perform(partial(endings, batches=[*self._sent]), writes=False)
        for batch, ended_as in elsewhere.items():
            self._close(batch, Ended(ended_as))
        if self.changes > before:
            self.tally.spent = await asyncio.to_thread(store.spent, self.teller.budget.scope)
            self._wake()
            await self.clear_away()

    async def clear_away(self) -> None:
        """Delete at the provider what ended batches have left there."""
        if self.settings.delete_files:
            async with self._clearing:
                cleared = await clear_away(self.api, self.teller.store, self.address)
                self.tally.files_deleted += cleared.deleted
                self.tally.files_left = cleared.left

    async def _identified(self, rows: Sequence[Row]) -> list[Row]:
        """The batches that the provider knows; those that it never got to know are ended, if that is certain."""
        clerk = self.teller.store.clerk
        known = [row for row in rows if row.remote is not None]
        cut_short = [row for row in rows if row.remote is None and not row.sending]
        if doubtful := [row for row in cut_short if row.creating_at is not None]:
            since = min(row.creating_at or 0.0 for row in doubtful)
            tagged = {remote.tag: remote.id for remote in await self.api.recent(since)}
            for row in (row for row in doubtful if row.batch in tagged):
                await clerk.perform(partial(created, batch=row.batch, remote=tagged[row.batch]), writes=True)
                known.append(replace(row, remote=tagged[row.batch]))
            cut_short = [row for row in cut_short if row.batch not in tagged]
        for row in cut_short:
            if row.creating_at is None or time.time() - row.creating_at > self.settings.settle_s:
                await clerk.perform(partial(end, batch=row.batch, ended_as="not sent"), writes=True)
                self._close(row.batch, Ended("not sent"))
        return known

    def _close(self, batch: str, ended: Ended) -> None:
        self.changes += 1
        self._open.discard(batch)
        if self._sent.pop(batch, None) is not None:
            self._ended[batch] = ended

    def _remedy(self, row: Row) -> str:
        return (
            "If the batch is lost there, give it up (it then counts as spent): "
            f"python -m inference.batch {self.teller.store.path} --give-up {row.batch}"
        )

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()


def input_line(request: Request, token_limit_name: str) -> bytes:
    """A line of a batch's input file; its custom id is the request's key."""
    body = chat_body(request, token_limit_name)
    return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}\n' % (request.key.encode(), URL.encode(), body)
