"""The store as rows: answers together with the questions that they answer, out of a store and into one.

    for record in records(store, keys): ...        # some, with the repair turns that followed them
    for record in everything(store): ...           # all that was ever paid for
    restore(store, records)                        # into a new store: nothing is bought again

The lake's `exchanges` are such rows, so a lost store is rebuilt from the lake. Absent on purpose: file formats.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from inference.exchange import Exchange, Message, Request, Sampling, canonical_json
from inference.store import COLUMNS, GET, SELECTED, ExchangeStore, keep

MANY = 500
_SOME = (
    f"SELECT {SELECTED}, e.messages, e.sampling FROM json_each(?) AS k JOIN exchanges AS e ON e.key = k.value "
    f"UNION ALL SELECT {SELECTED}, e.messages, e.sampling FROM json_each(?) AS k JOIN exchanges AS e "
    "ON e.repair_of = k.value"
)
_ALL = (
    f"SELECT {SELECTED}, e.messages, e.sampling, e.rowid FROM exchanges AS e WHERE e.rowid > ? ORDER BY e.rowid LIMIT ?"
)
_AGAIN = (
    "INSERT INTO asked_again (key, generation) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET generation = max(generation, excluded.generation)"
)


@dataclass(frozen=True)
class Record:
    """A stored answer with the question that it answers, as the lake keeps it."""

    exchange: Exchange
    messages: tuple[Message, ...]
    sampling: dict[str, Any]


def records(store: ExchangeStore, keys: Iterable[str]) -> Iterator[Record]:
    """The answers to `keys` and the repair turns that followed them."""
    source = iter(dict.fromkeys(keys))
    seen: set[str] = set()
    while chunk := list(islice(source, MANY)):
        wanted = json.dumps(chunk)

        def work(con: sqlite3.Connection, wanted: str = wanted) -> list[tuple[Any, ...]]:
            return con.execute(_SOME, (wanted, wanted)).fetchall()

        for row in store.clerk.submit(work, writes=False).result():
            record = _record(row)
            # A key asked for may itself be the repair of another.
            if record.exchange.key not in seen:
                seen.add(record.exchange.key)
                yield record


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


def _record(row: tuple[Any, ...]) -> Record:
    count = len(COLUMNS)
    exchange = Exchange(*(*row[:count], True))
    return Record(exchange, tuple(json.loads(row[count])), json.loads(row[count + 1]))


def _first_key(record: Record) -> str:
    """The key of the same question in its first generation."""
    return Request("", record.messages, Sampling(**record.sampling)).key
