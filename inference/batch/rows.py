"""Batches as rows of the store: filed before anything is sent, open until their answers are kept.

A batch is filed in one transaction with the claims on its requests and with the requests themselves, so whoever finds
the row can go on with it. `creating_at` says that the provider may know of the batch, `remote` that it does; until
then a sender has to be alive. A row ends in the transaction that keeps its answers, so that two processes that
collect the same batch book it once. It stays, its requests go. The files that it has at the provider are noted until
they are deleted there, so that a kill in between leaves none behind.

Functions that take a connection run on the store's clerk. Absent on purpose: HTTP (`api`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from inference.budget import Budget
from inference.exchange import Request, Sampling
from inference.prices import Price
from inference.store import LEASE_S, Bought, Claim, ExchangeStore, Holder, Wish, insert, kept, now, released

_BATCH = (
    "batches",
    ("batch", "endpoint", "scope", "model", "price", "requests", "filed_at", "sender", "host", "pid", "sender_until"),
)
_LINE = ("batch_lines", ("batch", "key", "request_id", "generation", "repair_of", "attempt", "messages", "sampling"))
_FILE = ("batch_files", ("file", "batch"))
_LEFT = (
    "SELECT f.file FROM batch_files AS f JOIN batches AS b ON b.batch = f.batch "
    "WHERE b.endpoint = ? AND b.ended_as IS NOT NULL"
)
_OPEN = (
    "SELECT batch, endpoint, scope, model, price, requests, filed_at, creating_at, remote, host, pid, sender_until "
    "FROM batches WHERE ended_as IS NULL"
)
_LINES = "SELECT request_id, generation, repair_of, attempt, messages, sampling FROM batch_lines WHERE batch = ?"
_END = "UPDATE batches SET ended_as = ? WHERE batch = ? AND ended_as IS NULL RETURNING scope"
_ENDINGS = (
    "SELECT b.batch, b.ended_as FROM json_each(?) AS k JOIN batches AS b ON b.batch = k.value "
    "WHERE b.ended_as IS NOT NULL"
)
_ELSEWHERE = (
    "SELECT b.batch, b.endpoint, b.filed_at, count(*) FROM json_each(?) AS k JOIN claims AS c ON c.key = k.value "
    "JOIN batches AS b ON b.batch = c.owner WHERE b.endpoint <> ? AND b.ended_as IS NULL GROUP BY b.batch LIMIT 1"
)


class BatchElsewhere(Exception):
    """Requests are on their way in a batch that another endpoint works on; only there can it be collected."""


class Asked(NamedTuple):
    """A request of a batch; `attempt` counts the batches that it has been sent in, this one included."""

    request: Request
    attempt: int


@dataclass(frozen=True)
class Row:
    """An open batch. Without `remote`, somebody is `sending` it, or it was cut short on the way."""

    batch: str
    endpoint: str
    scope: str
    model: str
    price: Price
    requests: int
    filed_at: str
    creating_at: float | None
    remote: str | None
    sending: bool


def holder_of(batch: str, lease_s: float = 0.0) -> Holder:
    """A batch as the holder of its claims: on no host, so that no death of a process ends them."""
    return Holder(batch, host="", pid=0, lease_s=lease_s)


@dataclass(frozen=True)
class Draft:
    """A batch that is to be filed. `lease_s` is how long its claims stand if nobody collects it."""

    batch: str
    endpoint: str
    model: str
    price: Price
    lease_s: float


def file_batch(
    con: sqlite3.Connection,
    store: ExchangeStore,
    draft: Draft,
    wishes: Sequence[tuple[Wish, int]],
    budget: Budget,
    open_at_most: int,
) -> list[Claim] | None:
    """Claim requests (each with the number of its attempt) for a batch, and file it with those that are granted.

    None where `open_at_most` batches of the endpoint are open. Raises BatchElsewhere, and then claims nothing.
    """
    if len(con.execute(f"{_OPEN} AND endpoint = ?", (draft.endpoint,)).fetchall()) >= open_at_most:
        return None
    claims = store.claimed(con, [wish for wish, _ in wishes], budget, holder_of(draft.batch, draft.lease_s))
    busy = [wish[0].key for (wish, _), claim in zip(wishes, claims, strict=True) if claim.status == "busy"]
    if busy and (elsewhere := con.execute(_ELSEWHERE, (json.dumps(busy), draft.endpoint)).fetchone()):
        batch, endpoint, filed_at, count = elsewhere
        raise BatchElsewhere(
            f"{count:,} of these requests are in a batch that was filed for {endpoint} at {filed_at} and is not "
            "collected yet. Run with that base_url to collect it; or, if it is lost, give it up (it then counts as "
            f"spent): python -m inference.batch {store.path} --give-up {batch}"
        )
    granted = [
        _line(draft.batch, request, attempt)
        for ((request, _), attempt), claim in zip(wishes, claims, strict=True)
        if claim.status == "granted"
    ]
    if granted:
        who = (draft.batch, draft.endpoint, budget.scope, draft.model, draft.price.model_dump_json())
        me = (store.me.owner, store.me.host, store.me.pid, time.time() + LEASE_S)
        insert(con, _BATCH, [(*who, len(granted), now(), *me)])
        insert(con, _LINE, granted)
    return claims


def begin_creating(con: sqlite3.Connection, batch: str, files: Collection[str] = ()) -> bool:
    """Note that the provider is about to be told; False where somebody has ended the batch meanwhile.

    `files` are to be deleted at the provider once the batch has ended.
    """
    insert(con, _FILE, [(file, batch) for file in files])
    sql = "UPDATE batches SET creating_at = ? WHERE batch = ? AND ended_as IS NULL"
    return con.execute(sql, (time.time(), batch)).rowcount == 1


def created(con: sqlite3.Connection, batch: str, remote: str) -> None:
    """Note under which id the provider knows a batch."""
    con.execute("UPDATE batches SET remote = ? WHERE batch = ?", (remote, batch))


def let_go(con: sqlite3.Connection, batch: str) -> None:
    """Leave a batch, of which the provider may know, to whoever looks next."""
    con.execute("UPDATE batches SET sender_until = 0 WHERE batch = ?", (batch,))


def open_rows(con: sqlite3.Connection, store: ExchangeStore, endpoint: str | None = None) -> list[Row]:
    """The open batches, oldest first; those of one endpoint, or of all."""
    rows = con.execute(f"{_OPEN} AND endpoint = coalesce(?, endpoint) ORDER BY filed_at", (endpoint,)).fetchall()
    return [
        Row(
            batch,
            address,
            scope,
            model,
            Price.model_validate_json(price),
            requests,
            filed_at,
            creating_at,
            remote,
            remote is None and store.alive(*sender),
        )
        for batch, address, scope, model, price, requests, filed_at, creating_at, remote, *sender in rows
    ]


def asked_in(con: sqlite3.Connection, batch: str) -> list[Asked]:
    """The requests of an open batch."""
    return [
        Asked(Request(name, tuple(json.loads(messages)), Sampling(**json.loads(sampling)), generation, repair_of), nth)
        for name, generation, repair_of, nth, messages, sampling in con.execute(_LINES, (batch,))
    ]


def end(
    con: sqlite3.Connection,
    batch: str,
    ended_as: str,
    bought: Sequence[Bought] = (),
    charged: Collection[str] = (),
    files: Collection[str] = (),
) -> None:
    """End a batch: keep what it brought, count the worst case of the `charged` keys as spent, release the others.

    `files` are to be deleted at the provider from now on. Does nothing where somebody else has ended the batch.
    """
    row = con.execute(_END, (ended_as, batch)).fetchone()
    if row is None:
        return
    if bought:
        kept(con, bought, row[0], holder_of(batch))
    released(con, list(charged), True, holder_of(batch))
    released(con, _keys(con, batch), False, holder_of(batch))
    con.execute("DELETE FROM batch_lines WHERE batch = ?", (batch,))
    insert(con, _FILE, [(file, batch) for file in files])


def files_left(con: sqlite3.Connection, endpoint: str) -> list[str]:
    """Files at an endpoint that nobody needs any more, since their batches have ended."""
    return [file for (file,) in con.execute(_LEFT, (endpoint,))]


def file_gone(con: sqlite3.Connection, file: str) -> None:
    """Note that a file is no more."""
    con.execute("DELETE FROM batch_files WHERE file = ?", (file,))


def endings(con: sqlite3.Connection, batches: Collection[str]) -> dict[str, str]:
    """How those of some batches ended that are no longer open."""
    return dict(con.execute(_ENDINGS, (json.dumps(list(batches)),)).fetchall())


def give_up(con: sqlite3.Connection, batch: str) -> None:
    """End a batch that will never be collected: its requests can be bought again, its worst case counts as spent."""
    end(con, batch, "given up", charged=_keys(con, batch))


def _line(batch: str, request: Request, attempt: int) -> tuple[Any, ...]:
    asked = (request.messages_json.decode(), request.sampling.json.decode())
    return (batch, request.key, request.id, request.generation, request.repair_of, attempt, *asked)


def _keys(con: sqlite3.Connection, batch: str) -> list[str]:
    return [key for (key,) in con.execute("SELECT key FROM batch_lines WHERE batch = ?", (batch,))]
