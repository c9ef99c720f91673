"""The exchange store: every answer ever paid for, who is asking right now, and what was spent.

A SQLite file in WAL mode, safe for several processes. `exchanges` holds one row per answer under the request's key;
`claims` holds one row per request in flight, which is at once the promise that nobody else buys it and the budget's
reservation; `spend` and `totals` hold what was paid. A claim and its budget check, and an answer and its payment, are
each one transaction, so two processes that ask the same thing buy it once and together stay inside one budget. The
claim of a process that died is taken over (at once on the same host, else when its lease runs out) and counted as
spent at its worst case, since the endpoint may have charged for it. Claims that a batch holds outlive the process that
sent it; `batches` and `batch_lines` say what is on its way in them (`batch.rows`).

Failures are never stored. An answer that was bought but is of no use can be asked again (`ask_again`): the request
then carries the next generation number, and the old answer stays.

Methods here wait for the disk; coroutines use a `teller`. Reading many answers with their questions, and rebuilding a
store from them, is `archive`. Absent on purpose: deletion, and anything that reads an answer's text.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson

from inference.budget import Budget
from inference.clerk import Clerk
from inference.exchange import Exchange, Request
from inference.pace import ASSUMED_TOKENS_PER_S
from inference.prices import NOTHING, Cost

SCHEMA = Path(__file__).with_name("schema.sql")
# From schema 1 on, one statement a step.
UPGRADES = ("ALTER TABLE exchanges ADD COLUMN logprobs TEXT",)
LEASE_S = 60.0
# from_store says where an answer came from this time; it is no property of the answer.
COLUMNS = tuple(f.name for f in fields(Exchange) if f.name != "from_store")
SELECTED = ", ".join(f"e.{name}" for name in COLUMNS)
_KEEP = ("exchanges", (*COLUMNS, "messages", "sampling"))
GET = f"SELECT {SELECTED} FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value"
# Numbers that JSON would round, written so that they are read as what they were.
_EXACT = {"usd": "json(quote(e.usd))", "latency_s": "json(quote(e.latency_s))"}
_NAMED = ", ".join(f"'{name}', {_EXACT.get(name, f'e.{name}')}" for name in COLUMNS)
# One row of two texts, which SQLite makes beside the interpreter: for each row of a result its lock is waited for.
_STORED = (
    "SELECT (SELECT json_group_array(json_array(a.key, a.generation)) "
    "FROM json_each(?1) AS k JOIN asked_again AS a ON a.key = k.value), "
    f"(SELECT json_group_array(json_object({_NAMED}, 'from_store', json('true'))) "
    "FROM json_each(?1) AS k JOIN exchanges AS e ON e.key = k.value)"
)
_ASK_AGAIN = (
    "INSERT INTO asked_again (key, generation) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET generation = excluded.generation"
)
# An answer that came in a batch has no latency of its own and says nothing about how long a live one takes.
_USUAL = (
    "SELECT count(*), avg(completion_tokens), coalesce(avg(nullif(latency_s, 0.0)), avg(completion_tokens) / ?2), "
    "sum(prompt_tokens) * 1.0 / sum(length(CAST(messages AS BLOB))) "
    "FROM (SELECT completion_tokens, latency_s, prompt_tokens, messages FROM exchanges WHERE model = ?1 "
    "ORDER BY rowid DESC LIMIT 1000)"
)
_RIVALS = (
    "SELECT c.key, c.host, c.pid, c.expires_at, b.batch, b.endpoint, b.filed_at "
    "FROM json_each(?) AS k JOIN claims AS c ON c.key = k.value LEFT JOIN batches AS b ON b.batch = c.owner"
)
# The store's own claims and those of its runs, whose owners are its own with a dot and a number ("/" follows ".").
_OWNED = "SELECT key, owner FROM claims WHERE owner >= ?1 AND owner < ?1 || '/'"
_RENEW = "UPDATE claims SET expires_at = ?2 WHERE owner >= ?1 AND owner < ?1 || '/'"
# 0 marks a batch that its sender has let go of.
_RENEW_SENDING = "UPDATE batches SET sender_until = ? WHERE sender = ? AND remote IS NULL AND sender_until > 0"
_CLAIM = ("claims", ("key", "owner", "host", "pid", "expires_at", "scope", "usd", "tokens"))
# In one look whether any of some keys is answered, or claimed, and the sums of a scope.
_LOOK = (
    "SELECT EXISTS (SELECT 1 FROM json_each(?1) AS k JOIN exchanges AS e ON e.key = k.value), "
    "EXISTS (SELECT 1 FROM json_each(?1) AS k JOIN claims AS c ON c.key = k.value), "
    "coalesce(usd, 0.0), coalesce(tokens, 0), coalesce(reserved_usd, 0.0), coalesce(reserved_tokens, 0) "
    "FROM (SELECT ?2 AS wanted) LEFT JOIN totals ON scope = wanted"
)
_SUMS = "SELECT usd, tokens, reserved_usd, reserved_tokens FROM totals WHERE scope = ?"
_RESERVE = (
    "INSERT INTO totals (scope, reserved_usd, reserved_tokens) VALUES (?,?,?) ON CONFLICT (scope) DO UPDATE SET "
    "reserved_usd = reserved_usd + excluded.reserved_usd, reserved_tokens = reserved_tokens + excluded.reserved_tokens"
)
# The claims on some keys (?1), of one owner (?2) or of any.
_ENDING = "FROM claims WHERE key IN (SELECT value FROM json_each(?1)) AND owner = coalesce(?2, owner)"
# ?3: whether they count as spent. With nothing left reserved the sum is nothing, and not what rounding has left of it.
_UNRESERVE = (
    "UPDATE totals SET usd = totals.usd + ?3 * c.usd, tokens = totals.tokens + ?3 * c.tokens, "
    "reserved_usd = iif(reserved_tokens = c.tokens, 0, reserved_usd - c.usd), "
    "reserved_tokens = reserved_tokens - c.tokens "
    f"FROM (SELECT scope, sum(usd) AS usd, sum(tokens) AS tokens {_ENDING} GROUP BY scope) AS c "
    "WHERE totals.scope = c.scope"
)
_PRESUME = (
    "INSERT INTO spend (at, scope, key, kind, usd, tokens) "
    f"SELECT ?3, scope, key, 'presumed', usd, tokens {_ENDING} ORDER BY rowid"
)
_DROP = f"DELETE {_ENDING}"
_SPEND = ("spend", ("at", "scope", "key", "kind", "usd", "tokens"))
ADD_TOTAL = (
    "INSERT INTO totals (scope, usd, tokens) VALUES (?,?,?) "
    "ON CONFLICT (scope) DO UPDATE SET usd = usd + excluded.usd, tokens = tokens + excluded.tokens"
)
_VALUES = attrgetter(*COLUMNS)
Found = tuple[Request, Exchange | None]
Texts = tuple[str, str]
Wish = tuple[Request, Cost]
Bought = tuple[Request, Exchange]


@dataclass(frozen=True)
class Holder:
    """Who claims: a process of a host, alive as long as it runs and renews; or a batch, of no host, for its lease."""

    owner: str
    host: str
    pid: int
    lease_s: float = LEASE_S


@dataclass(frozen=True)
class InBatch:
    """The open batch that holds a claim; only a run in batch mode at its endpoint brings the answer."""

    batch: str
    endpoint: str
    filed_at: str


@dataclass(frozen=True)
class Claim:
    """What became of the wish to buy one answer.

    "granted": ask now, then `put` or `release`. "stored": here it is. "busy": somebody else is asking; look again
    (`held_by`: in a batch). "full": it does not fit the budget beside `spent` and `reserved`; with nothing reserved
    that is final.
    """

    status: Literal["granted", "stored", "busy", "full"]
    exchange: Exchange | None = None
    spent: Cost = NOTHING
    reserved: Cost = NOTHING
    held_by: InBatch | None = None


@dataclass(frozen=True)
class Usual:
    """Means over the newest stored answers of a model: how many there were, their completion tokens and seconds.

    `tokens_per_byte` is of their prompts.
    """

    answers: int
    completion_tokens: float
    seconds: float
    tokens_per_byte: float


class ExchangeStore:
    """Opens or creates the store at `path`; use as a context manager. Raises clerk.StoreUnusable."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.me = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid())
        self._runs = itertools.count(1)
        self._under_way = {self.me.owner}
        self.clerk = Clerk(self.path, SCHEMA.read_text(encoding="utf-8"), UPGRADES, self.renew, LEASE_S / 4)

    def __enter__(self) -> ExchangeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def holder(self) -> Holder:
        """A holder of its own for one run, lest runs that share this store take each other's claims for their own."""
        holder = replace(self.me, owner=f"{self.me.owner}.{next(self._runs)}")
        self._under_way.add(holder.owner)
        return holder

    def over(self, holder: Holder) -> None:
        """The run of a holder is over: whatever claim it has left is nobody's from now on (`clear_up`)."""
        self._under_way.discard(holder.owner)

    def close(self) -> None:
        """Give up what is still claimed (counted as spent: it may have been charged) and close the file."""
        if not self.clerk.closed:
            self._under_way.clear()
            self.clerk.submit(self.clear_up, writes=True)
        self.clerk.close()

    def look_up(self, requests: Sequence[Request]) -> list[Found]:
        """Each request, in the generation that is asked now, with its stored answer under the request's own id."""
        texts = self._texts(requests)
        if (asked := asked_now(requests, texts)) is not requests:
            texts = self._texts(asked)
        return found(asked, texts)

    def _texts(self, requests: Sequence[Request]) -> Texts:
        keys = keys_of(requests)
        return self.clerk.submit(lambda con: stored_texts(con, keys), writes=False).result()

    def claim(self, wishes: Sequence[Wish], budget: Budget, holder: Holder | None = None) -> list[Claim]:
        """Ask for leave to buy: one transaction that looks for answers, for rivals and for room in the budget."""
        return self.clerk.submit(lambda con: self.claimed(con, wishes, budget, holder or self.me), writes=True).result()

    def put(self, bought: Sequence[Bought], scope: str, holder: Holder | None = None) -> list[Exchange]:
        """Keep answers and book their cost; gives the answers that now stand in the store."""
        return self.clerk.submit(lambda con: kept(con, bought, scope, holder or self.me), writes=True).result()

    def release(self, keys: Iterable[str], presumed: bool, holder: Holder | None = None) -> None:
        """Give up claims; `presumed`: the endpoint may have charged for them, so the worst case counts as spent."""
        wanted = list(keys)
        self.clerk.submit(lambda con: released(con, wanted, presumed, holder or self.me), writes=True).result()

    def ask_again(self, requests: Iterable[Request]) -> int:
        """Ask these requests in their next generation from now on; gives how many. Their old answers stay."""
        rows = [(replace(request, generation=0).key, request.generation + 1) for request in requests]
        self.clerk.submit(lambda con: con.executemany(_ASK_AGAIN, rows), writes=True).result()
        return len(rows)

    def times_asked_again(self) -> int:
        """A number that grows with every `ask_again`: whoever keeps results of this store compares it."""
        sql = "SELECT coalesce(sum(generation), 0) FROM asked_again"
        return int(self.clerk.submit(lambda con: con.execute(sql).fetchone()[0], writes=False).result())

    def usual(self, model: str) -> Usual | None:
        """How answers of a model have been so far; None where none is stored."""
        bound = (model, float(ASSUMED_TOKENS_PER_S))
        row = self.clerk.submit(lambda con: con.execute(_USUAL, bound).fetchone(), writes=False).result()
        return Usual(*row) if row[0] else None

    def spent(self, scope: str) -> Cost:
        """What was spent under a budget's scope, charges that are only presumed included."""
        return self.clerk.submit(lambda con: _sums(con, scope)[0], writes=False).result()

    def spent_before(self, scope: str, moment: datetime.datetime) -> Cost:
        """What was spent under a scope before a moment (with its time zone): the same whenever it is asked."""
        at = moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
        sums = "SELECT coalesce(sum(usd), 0.0), coalesce(sum(tokens), 0) FROM spend WHERE scope = ? AND at < ?"
        return Cost(*self.clerk.submit(lambda con: con.execute(sums, (scope, at)).fetchone(), writes=False).result())

    def presumed(self, scope: str) -> tuple[int, Cost]:
        """Requests that were in flight when their process ended, and what they may have cost; part of `spent`."""
        sums = "SELECT count(*), coalesce(sum(usd), 0.0), coalesce(sum(tokens), 0) FROM spend"
        sql = f"{sums} WHERE kind = 'presumed' AND scope = ?"
        count, *cost = self.clerk.submit(lambda con: con.execute(sql, (scope,)).fetchone(), writes=False).result()
        return int(count), Cost(*cost)

    def reserved(self, scope: str) -> Cost:
        """What is reserved for requests in flight, in every process."""
        return self.clerk.submit(lambda con: _sums(con, scope)[1], writes=False).result()

    def claimed(self, con: sqlite3.Connection, wishes: Sequence[Wish], budget: Budget, holder: Holder) -> list[Claim]:
        """The work of `claim`."""
        keys = json.dumps([request.key for request, _ in wishes])
        answered, claimed, *sums = con.execute(_LOOK, (keys, budget.scope)).fetchone()
        spent, reserved = Cost(*sums[:2]), Cost(*sums[2:])
        stored = {row[1]: row for row in con.execute(GET, (keys,))} if answered else {}
        busy: dict[str, InBatch | None] = {}
        if claimed:
            busy = self._rivals(con, keys)
            spent, reserved = _sums(con, budget.scope)
        reaped = False
        claims, rows, mine = [], [], NOTHING
        until = time.time() + holder.lease_s
        for request, worst in wishes:
            if request.key in stored:
                claims.append(Claim("stored", Exchange(*(*stored[request.key], True)), spent, reserved))
                continue
            if request.key in busy:
                claims.append(Claim("busy", None, spent, reserved, busy[request.key]))
                continue
            fits = budget.admits(worst, spent, reserved)
            if not fits and not reaped:
                self._reap(con, budget.scope)
                spent, reserved = _sums(con, budget.scope)
                reserved += mine
                reaped, fits = True, budget.admits(worst, spent, reserved)
            if not fits:
                claims.append(Claim("full", None, spent, reserved))
                continue
            busy[request.key] = None
            mine += worst
            reserved += worst
            rows.append((request.key, holder.owner, holder.host, holder.pid, until, budget.scope, *worst))
            claims.append(Claim("granted", None, spent, reserved))
        if rows:
            insert(con, _CLAIM, rows)
            con.execute(_RESERVE, (budget.scope, *mine))
        return claims

    def _rivals(self, con: sqlite3.Connection, keys: str) -> dict[str, InBatch | None]:
        """Who else is asking some keys, with the batch where it is one; the claims of the dead are ended."""
        rows = con.execute(_RIVALS, (keys,)).fetchall()
        alive = {row[0]: None if row[4] is None else InBatch(*row[4:]) for row in rows if self.alive(*row[1:4])}
        _end(con, [row[0] for row in rows if row[0] not in alive], presumed=True)
        return alive

    def _reap(self, con: sqlite3.Connection, scope: str) -> None:
        """Turn the reservations of dead processes in a scope into presumed spending."""
        sql = "SELECT key, host, pid, expires_at FROM claims WHERE scope = ?"
        _end(con, [key for key, *lease in con.execute(sql, (scope,)).fetchall() if not self.alive(*lease)], True)

    def alive(self, host: str, pid: int, expires_at: float) -> bool:
        """Whether whoever holds a lease still does: it is not over, and a process of this host is running."""
        if expires_at < time.time():
            return False
        if host != self.me.host:
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def clear_up(self, con: sqlite3.Connection) -> None:
        """Give up the claims of runs that are over, which could not be released, say, while the disk was full."""
        left = con.execute(_OWNED, (self.me.owner,)).fetchall()
        _end(con, [key for key, owner in left if owner not in self._under_way], presumed=True)

    def renew(self, con: sqlite3.Connection) -> None:
        """The clerk's beat: whoever still runs keeps its claims, and the batches that it is sending."""
        self.clear_up(con)
        until = time.time() + LEASE_S
        con.execute(_RENEW, (self.me.owner, until))
        con.execute(_RENEW_SENDING, (until, self.me.owner))


def now() -> str:
    """The time in UTC, as it stands on every row."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def keys_of(requests: Sequence[Request]) -> str:
    """The keys of some requests, as `stored_texts` takes them."""
    return json.dumps([request.key for request in requests])


def stored_texts(con: sqlite3.Connection, keys: str) -> Texts:
    """Which of some keys are to be asked again, and which have answers, as two JSON texts."""
    again, rows = con.execute(_STORED, (keys,)).fetchone()
    return again, rows


def asked_now(requests: Sequence[Request], texts: Texts) -> Sequence[Request]:
    """Some requests in the generation that is asked now; `requests` itself where each is already."""
    again = dict(orjson.loads(texts[0]))
    return [r.in_generation(again.get(r.key, r.generation)) for r in requests] if again else requests


def found(requests: Sequence[Request], texts: Texts) -> list[Found]:
    """Each request with its stored answer under the request's own id."""
    rows = {row["key"]: row for row in orjson.loads(texts[1])}
    return [(r, Exchange.of(row, r.id) if (row := rows.get(r.key)) else None) for r in requests]


def kept(con: sqlite3.Connection, bought: Sequence[Bought], scope: str, holder: Holder) -> list[Exchange]:
    """The work of `put`."""
    stand = [exchange for _, exchange in bought]
    texts = [
        (request.messages_json.decode("utf-8", "replace"), request.sampling.json.decode()) for request, _ in bought
    ]
    if keep(con, stand, texts, scope) < len(bought):
        # Another process bought some after our lease ran out: both are paid, the first one stands.
        keys = json.dumps([request.key for request, _ in bought])
        first = {row[1]: Exchange(*row) for row in con.execute(GET, (keys,))}
        stand = [e if first[e.key] == e else replace(first[e.key], from_store=True) for e in stand]
    released(con, [request.key for request, _ in bought], False, holder)
    return stand


def keep(con: sqlite3.Connection, exchanges: Sequence[Exchange], texts: Sequence[tuple[str, str]], scope: str) -> int:
    """Insert answers with the JSON of their messages and sampling, and book what they cost; gives how many are new."""
    rows = [(*_VALUES(exchange), *text) for exchange, text in zip(exchanges, texts, strict=True)]
    new = insert(con, _KEEP, rows)
    costs = [Cost(e.usd, e.prompt_tokens + e.completion_tokens) for e in exchanges]
    insert(con, _SPEND, [(e.created_at, scope, e.key, "answer", *c) for e, c in zip(exchanges, costs, strict=True)])
    con.execute(ADD_TOTAL, (scope, sum(c.usd for c in costs), sum(c.tokens for c in costs)))
    return new


def released(con: sqlite3.Connection, keys: Sequence[str], presumed: bool, holder: Holder) -> None:
    """The work of `release`."""
    _end(con, keys, presumed, holder.owner)


def mark(con: sqlite3.Connection, key: str, fault: str | None) -> None:
    """Record the fault that the caller's check found in a stored answer (None: none any more)."""
    con.execute("UPDATE exchanges SET fault = ? WHERE key = ?", (fault, key))


def insert(con: sqlite3.Connection, table: tuple[str, tuple[str, ...]], rows: Sequence[Sequence[Any]]) -> int:
    """Insert rows, skipping keys that are there, by one statement a few dozen rows; gives how many are new.

    A statement a row would hand the interpreter's lock to and fro for each, and wait for the event loop every time.
    """
    new = 0
    for start in range(0, len(rows), 64):
        some = rows[start : start + 64]
        new += con.execute(_insert(*table, len(some)), [value for row in some for value in row]).rowcount
    return new


@lru_cache(maxsize=256)
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    marks = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([marks] * rows)} ON CONFLICT DO NOTHING"


def _end(con: sqlite3.Connection, keys: Sequence[str], presumed: bool, owner: str | None = None) -> None:
    """End the claims on some keys; `presumed`: they may have been charged, so their worst case counts as spent."""
    if not keys:
        return
    ending = (json.dumps(keys), owner)
    con.execute(_UNRESERVE, (*ending, presumed))
    if presumed:
        con.execute(_PRESUME, (*ending, now()))
    con.execute(_DROP, ending)


def _sums(con: sqlite3.Connection, scope: str) -> tuple[Cost, Cost]:
    row = con.execute(_SUMS, (scope,)).fetchone()
    return (Cost(*row[:2]), Cost(*row[2:])) if row else (NOTHING, NOTHING)
