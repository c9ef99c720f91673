"""Runs of the batch engine, and what they leave in the store; the fixture `batches_for` stands in conftest.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from asking import Check
from salt_water import DEAR

from inference.batch.engine import BatchEngine
from inference.engine import Asks, ask_all
from inference.exchange import Exchange, Failure, Request
from inference.prices import Price
from inference.progress import Progress
from inference.standin.server import MODEL
from inference.store import ExchangeStore

BatchFor = Callable[..., BatchEngine]
# A dollar a token, half a dollar in a batch.
HALVED = DEAR.with_price(MODEL, Price(input=1e6, cached=1e6, output=1e6, batch=0.5, source="test"))


def ask(engine: Asks, requests: list[Request], check: Check) -> tuple[list[Exchange | Failure], Progress]:
    seen: list[Progress] = []
    outcomes = ask_all(engine, requests, check, on_progress=seen.append)
    return outcomes, seen[-1]


def rows_of(store: ExchangeStore, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(store.path) as con:
        return con.execute(sql).fetchall()


def kinds_of_spending(store: ExchangeStore) -> dict[str, int]:
    return dict(rows_of(store, "SELECT kind, count(*) FROM spend GROUP BY kind"))


def nothing_is_held(store: ExchangeStore) -> bool:
    claims, open_batches, lines = (
        rows_of(store, f"SELECT count(*) FROM {what}")[0][0]
        for what in ("claims", "batches WHERE ended_as IS NULL", "batch_lines")
    )
    return claims == open_batches == lines == store.reserved("all").tokens == 0
