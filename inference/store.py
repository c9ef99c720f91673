"""The exchange store: every answer ever paid for, who is asking right now, and what was spent.

A SQLite file in WAL mode, safe for several processes. `exchanges` holds one row per answer under the request's key;
`claims` holds one row per request in flight, which is at once the promise that nobody else buys it and the budget's
reservation; `spend` and `totals` hold what was paid. A claim and its budget check, and an answer and its payment, are
each one transaction, so two processes that ask the same thing buy it once and together stay inside one budget. The
claim of a process that died is taken over (at once on the same host, else when its lease runs out) and counted as
spent at its worst case, since the endpoint may have charged for it.

Failures are never stored. Absent on purpose: deletion, and anything that reads an answer's text.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from inference.budget import Budget
from inference.clerk import Clerk
from inference.exchange import Exchange, Message, Request, canonical_json
from inference.prices import NOTHING, Cost

SCHEMA = Path(__file__).with_name("schema.sql")
VERSION = 1
LEASE_S = 60.0
# from_store says where an answer came from this time; it is no property of the answer.
COLUMNS = tuple(f.name for f in fields(Exchange) if f.name != "from_store")
_KEY = COLUMNS.index("key")
_SELECTED = ", ".join(f"e.{name}" for name in COLUMNS)
_GET = f"SELECT {_SELECTED} FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value"
_RECORDS = (
    f"SELECT {_SELECTED}, e.messages, e.sampling FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value "
    f"UNION ALL SELECT {_SELECTED}, e.messages, e.sampling FROM json_each(?) AS k JOIN exchanges AS e "
    "ON e.repair_of = k.value"
)
_OWNED = "SELECT key, scope, usd, tokens FROM claims WHERE owner = ?"
_PUT = (
    f"INSERT INTO exchanges ({', '.join(COLUMNS)}, messages, sampling) "
    f"VALUES ({', '.join(f':{name}' for name in COLUMNS)}, :messages, :sampling) ON CONFLICT (key) DO NOTHING"
)


@dataclass(frozen=True)
class Record:
    """A stored answer with the question that it answers, as the lake keeps it."""

    exchange: Exchange
    messages: tuple[Message, ...]
    sampling: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """What became of the wish to buy one answer.

    "granted": ask now, then `put` or `release`. "stored": here it is. "busy": somebody else is asking; look again.
    "full": it does not fit the budget beside `spent` and `reserved`; with nothing reserved that is final.
    """

    status: Literal["granted", "stored", "busy", "full"]
    exchange: Exchange | None = None
    spent: Cost = NOTHING
    reserved: Cost = NOTHING


class ExchangeStore:
    """Opens or creates the store at `path`; use as a context manager. Raises clerk.StoreUnusable."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._owner = uuid.uuid4().hex
        self._host = socket.gethostname()
        self._pid = os.getpid()
        self._clerk = Clerk(self.path, SCHEMA.read_text(encoding="utf-8"), VERSION, self._renew, LEASE_S / 4)

    def __enter__(self) -> ExchangeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is still claimed (counted as spent: it may have been charged) and close the file."""
        if not self._clerk.closed:
            self._clerk.submit(lambda con: _presume(con, con.execute(_OWNED, (self._owner,)).fetchall()), writes=True)
        self._clerk.close()

    def claim(self, request: Request, worst: Cost, budget: Budget) -> Future[Claim]:
        """Ask for leave to buy: one transaction that looks for the answer, for rivals and for room in the budget."""

        holder = (self._owner, self._host, self._pid)

        def work(con: sqlite3.Connection) -> Claim:
            stored = _get(con, [request.key])
            if stored:
                return Claim("stored", stored[request.key])
            if not self._free(con, request.key):
                return Claim("busy")
            spent, reserved = _spent(con, budget.scope), _reserved(con, budget.scope)
            if not budget.admits(worst, spent, reserved):
                self._reap(con, budget.scope)
                spent, reserved = _spent(con, budget.scope), _reserved(con, budget.scope)
                if not budget.admits(worst, spent, reserved):
                    return Claim("full", None, spent, reserved)
            con.execute(
                "INSERT INTO claims (key, owner, host, pid, expires_at, scope, usd, tokens) VALUES (?,?,?,?,?,?,?,?)",
                (request.key, *holder, time.time() + LEASE_S, budget.scope, worst.usd, worst.tokens),
            )
            return Claim("granted", None, spent, reserved + worst)

        return self._clerk.submit(work, writes=True)

    def put(self, request: Request, exchange: Exchange, scope: str) -> Future[Exchange]:
        """Keep an answer and book its cost; resolves after the commit with the answer that now stands in the store."""
        row = {name: getattr(exchange, name) for name in COLUMNS}
        row["messages"] = json.dumps([dict(m) for m in request.messages], ensure_ascii=False)
        row["sampling"] = canonical_json(asdict(request.sampling))
        cost = Cost(exchange.usd, exchange.prompt_tokens + exchange.completion_tokens)

        def work(con: sqlite3.Connection) -> Exchange:
            new = con.execute(_PUT, row).rowcount == 1
            _book(con, scope, request.key, "answer", cost)
            con.execute("DELETE FROM claims WHERE owner = ? AND key = ?", (self._owner, request.key))
            # Another process may have bought it after our lease ran out: both are paid, the first one stands.
            return exchange if new else _get(con, [request.key])[request.key]

        return self._clerk.submit(work, writes=True)

    def release(self, key: str, presumed: bool) -> Future[None]:
        """Give up a claim; `presumed`: the endpoint may have charged for it, so its worst case counts as spent."""

        def work(con: sqlite3.Connection) -> None:
            if presumed:
                _presume(con, con.execute(f"{_OWNED} AND key = ?", (self._owner, key)).fetchall())
            else:
                con.execute("DELETE FROM claims WHERE owner = ? AND key = ?", (self._owner, key))

        return self._clerk.submit(work, writes=True)

    def mark(self, key: str, fault: str | None) -> Future[None]:
        """Record the fault that the caller's check found in a stored answer (None: none any more)."""

        def work(con: sqlite3.Connection) -> None:
            con.execute("UPDATE exchanges SET fault = ? WHERE key = ?", (fault, key))

        return self._clerk.submit(work, writes=True)

    def get_many(self, keys: Iterable[str]) -> dict[str, Exchange]:
        """The stored answers among `keys`, by key."""
        wanted = list(keys)
        return self._clerk.submit(lambda con: _get(con, wanted), writes=False).result()

    def has(self, keys: Iterable[str]) -> set[str]:
        """Which of `keys` are stored."""
        wanted = json.dumps(list(keys))
        sql = "SELECT e.key FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value"
        return self._clerk.submit(lambda con: {key for (key,) in con.execute(sql, (wanted,))}, writes=False).result()

    def records(self, keys: Iterable[str]) -> Iterator[Record]:
        """The answers to `keys` and the repair turns that followed them, each with its question."""
        source = iter(dict.fromkeys(keys))
        seen: set[str] = set()
        while chunk := list(islice(source, 200)):
            wanted = json.dumps(chunk)
            rows = self._clerk.submit(
                lambda con, wanted=wanted: con.execute(_RECORDS, (wanted, wanted)).fetchall(),  # type: ignore[misc]
                writes=False,
            ).result()
            for row in rows:
                # A key asked for may itself be the repair of another.
                if row[_KEY] in seen:
                    continue
                seen.add(row[_KEY])
                exchange = Exchange(**dict(zip(COLUMNS, row, strict=False)), from_store=True)
                yield Record(exchange, tuple(json.loads(row[-2])), json.loads(row[-1]))

    def spent(self, scope: str) -> Cost:
        """What was spent under a budget's scope, charges that are only presumed included."""
        return self._clerk.submit(lambda con: _spent(con, scope), writes=False).result()

    def reserved(self, scope: str) -> Cost:
        """What is reserved for requests in flight, in every process."""
        return self._clerk.submit(lambda con: _reserved(con, scope), writes=False).result()

    def _free(self, con: sqlite3.Connection, key: str) -> bool:
        """Whether nobody alive claims `key`; the claim of somebody dead is settled."""
        rival = con.execute("SELECT key, scope, usd, tokens, host, pid, expires_at FROM claims WHERE key = ?", (key,))
        row = rival.fetchone()
        if row is None:
            return True
        if self._alive(*row[4:]):
            return False
        _presume(con, [row[:4]])
        return True

    def _reap(self, con: sqlite3.Connection, scope: str) -> None:
        """Turn the reservations of dead processes in a scope into presumed spending."""
        sql = "SELECT key, scope, usd, tokens, host, pid, expires_at FROM claims WHERE scope = ?"
        _presume(con, [row[:4] for row in con.execute(sql, (scope,)).fetchall() if not self._alive(*row[4:])])

    def _alive(self, host: str, pid: int, expires_at: float) -> bool:
        if expires_at < time.time():
            return False
        if host != self._host:
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _renew(self, con: sqlite3.Connection) -> None:
        con.execute("UPDATE claims SET expires_at = ? WHERE owner = ?", (time.time() + LEASE_S, self._owner))


def now() -> str:
    """The time in UTC, as it stands on every row."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _get(con: sqlite3.Connection, keys: list[str]) -> dict[str, Exchange]:
    found = {}
    for row in con.execute(_GET, (json.dumps(keys),)):
        exchange = Exchange(**dict(zip(COLUMNS, row, strict=True)), from_store=True)
        found[exchange.key] = exchange
    return found


def _spent(con: sqlite3.Connection, scope: str) -> Cost:
    row = con.execute("SELECT usd, tokens FROM totals WHERE scope = ?", (scope,)).fetchone()
    return Cost(*row) if row else NOTHING


def _reserved(con: sqlite3.Connection, scope: str) -> Cost:
    sql = "SELECT coalesce(sum(usd), 0.0), coalesce(sum(tokens), 0) FROM claims WHERE scope = ?"
    return Cost(*con.execute(sql, (scope,)).fetchone())


def _presume(con: sqlite3.Connection, claims: list[tuple[str, str, float, int]]) -> None:
    """End claims whose outcome is unknown: they may have been charged, so their worst case counts as spent."""
    for key, scope, usd, tokens in claims:
        _book(con, scope, key, "presumed", Cost(usd, tokens))
        con.execute("DELETE FROM claims WHERE key = ?", (key,))


def _book(con: sqlite3.Connection, scope: str, key: str, kind: str, cost: Cost) -> None:
    con.execute(
        "INSERT INTO spend (at, scope, key, kind, usd, tokens) VALUES (?,?,?,?,?,?)",
        (now(), scope, key, kind, cost.usd, cost.tokens),
    )
    con.execute(
        "INSERT INTO totals (scope, usd, tokens) VALUES (?,?,?) "
        "ON CONFLICT (scope) DO UPDATE SET usd = usd + excluded.usd, tokens = tokens + excluded.tokens",
        (scope, cost.usd, cost.tokens),
    )
