"""The store as rows: answers together with the questions that they answer, out of a store and into one.

    for record in records(store, keys): ...        # some, with the repair turns that followed them
    for known in faults(store, keys): ...          # the same ones, without their texts
    for record in everything(store): ...           # all that was ever paid for
    for charge in charges(store, scope): ...       # what was spent and no answer shows
    restore(store, records, scope)                 # into a new store: nothing is bought again
    restore_charges(store, charges, scope)         # and what was spent is counted

The lake keeps such rows, so a lost store is rebuilt from the lake. Absent on purpose: file formats.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from inference.exchange import Exchange, Message, Request, Sampling, canonical_json
from inference.store import ADD_TOTAL, COLUMNS, GET, SELECTED, ExchangeStore, keep

MANY = 500
_SOME = (
    f"SELECT {SELECTED}, e.messages, e.sampling FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value "
    f"UNION ALL SELECT {SELECTED}, e.messages, e.sampling FROM json_each(?) AS k JOIN exchanges AS e "
    "ON e.repair_of = k.value"
)
_FAULTS = (
    "SELECT e.key, e.repair_of, e.fault FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value "
    "UNION ALL SELECT e.key, e.repair_of, e.fault FROM json_each(?) AS k JOIN exchanges AS e ON e.repair_of = k.value"
)
_ALL = (
    f"SELECT {SELECTED}, e.messages, e.sampling, e.rowid FROM exchanges AS e WHERE e.rowid > ? ORDER BY e.rowid LIMIT ?"
)
_AGAIN = (
    "INSERT INTO asked_again (key, generation) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET generation = max(generation, excluded.generation)"
)
_GENERATIONS = "SELECT a.key, a.generation FROM json_each(?) AS k JOIN asked_again AS a ON a.key = k.value"
# Every answer is booked at the moment that stands on it.
_CHARGES = (
    "SELECT s.at, s.key, s.kind, s.usd, s.tokens FROM spend AS s LEFT JOIN exchanges AS e "
    "ON s.kind = 'answer' AND e.key = s.key AND e.created_at = s.at WHERE s.scope = ? AND e.key IS NULL ORDER BY s.id"
)
_CHARGE = (
    "INSERT INTO spend (at, scope, key, kind, usd, tokens) SELECT ?1, ?6, ?2, ?3, ?4, ?5 WHERE NOT EXISTS "
    "(SELECT 1 FROM spend WHERE at = ?1 AND scope = ?6 AND key = ?2 AND kind = ?3)"
)


class Known(NamedTuple):
    """What tells a stored answer: its key, the one that it mends, and its fault."""

    key: str
    repair_of: str | None
    fault: str | None


class Charge(NamedTuple):
    """What was spent and no stored answer shows: presumably, or for an answer that had been bought already."""

    at: str
    key: str
    kind: str
    usd: float
    tokens: int


@dataclass(frozen=True)
class Record:
    """A stored answer with the question that it answers, as the lake keeps it."""

    exchange: Exchange
    messages: tuple[Message, ...]
    sampling: dict[str, Any]


def records(store: ExchangeStore, keys: Iterable[str]) -> Iterator[Record]:
    """The answers to `keys` and the repair turns that followed them."""
    seen: set[str] = set()
    for row in _found(store, _SOME, keys):
        record = _record(row)
        # A key asked for may itself be the repair of another.
        if record.exchange.key not in seen:
            seen.add(record.exchange.key)
            yield record


def faults(store: ExchangeStore, keys: Iterable[str]) -> Iterator[Known]:
    """What is known of the answers to `keys` and of the repair turns that followed them; one may come twice."""
    return (Known(*row) for row in _found(store, _FAULTS, keys))


def _found(store: ExchangeStore, sql: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of a statement that takes keys twice, for some hundred keys at a time."""
    source = iter(dict.fromkeys(keys))
    while chunk := list(islice(source, MANY)):
        wanted = json.dumps(chunk)

        def work(con: sqlite3.Connection, wanted: str = wanted) -> list[tuple[Any, ...]]:
            return con.execute(sql, (wanted, wanted)).fetchall()

        yield from store.clerk.submit(work, writes=False).result()


def everything(store: ExchangeStore) -> Iterator[Record]:
    """Every answer in the store, oldest first, a few hundred at a time."""
    last = 0
    while True:

        def work(con: sqlite3.Connection, last: int = last) -> list[tuple[Any, ...]]:
            return con.execute(_ALL, (last, MANY)).fetchall()

        rows = store.clerk.submit(work, writes=False).result()
        if not rows:
            return
        yield from map(_record, rows)
        last = rows[-1][-1]


def keys(store: ExchangeStore) -> set[str]:
    """The keys of all answers in the store."""
    sql = "SELECT key FROM exchanges"
    return {key for (key,) in store.clerk.submit(lambda con: con.execute(sql).fetchall(), writes=False).result()}


def generations(store: ExchangeStore, requests: Sequence[Request]) -> list[int]:
    """The generation in which each request is asked now, without its answer."""
    wanted = json.dumps([request.key for request in requests])

    def work(con: sqlite3.Connection) -> dict[str, int]:
        return dict(con.execute(_GENERATIONS, (wanted,)).fetchall())

    again = store.clerk.submit(work, writes=False).result()
    return [again.get(request.key, request.generation) for request in requests]


def charges(store: ExchangeStore, scope: str) -> list[Charge]:
    """What was spent under a scope beside the answers that are stored, oldest first."""
    rows = store.clerk.submit(lambda con: con.execute(_CHARGES, (scope,)).fetchall(), writes=False).result()
    return [Charge(*row) for row in rows]


def restore(store: ExchangeStore, restored: Iterable[Record], scope: str) -> int:
    """Put answers into a store and count what they cost as spent under `scope`; gives how many were new to it.

    A question that was asked again goes on in the newest generation that has an answer.
    """
    source = iter(restored)
    new = 0
    while chunk := list(islice(source, MANY)):

        def work(con: sqlite3.Connection, chunk: list[Record] = chunk) -> int:
            of_key = {record.exchange.key: record for record in reversed(chunk)}
            there = {row[1] for row in con.execute(GET, (json.dumps(list(of_key)),))}
            missing = [record for key, record in reversed(of_key.items()) if key not in there]
            texts = [
                (json.dumps(list(record.messages), ensure_ascii=False), canonical_json(record.sampling))
                for record in missing
            ]
            again = [record for record in missing if record.exchange.generation and record.exchange.repair_of is None]
            con.executemany(_AGAIN, [(_first_key(record), record.exchange.generation) for record in again])
            return keep(con, [record.exchange for record in missing], texts, scope)

        new += store.clerk.submit(work, writes=True).result()
    return new


def restore_charges(store: ExchangeStore, restored: Iterable[Charge], scope: str) -> None:
    """Count charges as spent under `scope`, each once, however often they are restored."""
    wanted = list(restored)

    def work(con: sqlite3.Connection) -> None:
        for charge in wanted:
            if con.execute(_CHARGE, (*charge, scope)).rowcount:
                con.execute(ADD_TOTAL, (scope, charge.usd, charge.tokens))

    store.clerk.submit(work, writes=True).result()


def _record(row: tuple[Any, ...]) -> Record:
    count = len(COLUMNS)
    exchange = Exchange(*(*row[:count], True))
    return Record(exchange, tuple(json.loads(row[count])), json.loads(row[count + 1]))


def _first_key(record: Record) -> str:
    """The key of the same question in its first generation."""
    return Request("", record.messages, Sampling(**record.sampling)).key
