"""A store that cannot be written: a lock that stays, a disk that is full; said as such, and nothing waits for ever."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import Future

import pytest
from asking import EngineFor, Make

from inference.budget import Budget
from inference.clerk import StoreUnusable
from inference.engine import ask_all
from inference.exchange import Exchange
from inference.standin.server import running_standin
from inference.store import ExchangeStore


def pragma(store: ExchangeStore, text: str) -> int:
    return int(store.clerk.submit(lambda con: con.execute(f"PRAGMA {text}").fetchone()[0], writes=False).result())


def test_jobs_that_wait_for_a_lock_that_stays_fail_together_and_not_one_after_the_other(store: ExchangeStore) -> None:
    pragma(store, "busy_timeout = 400")
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        jobs: list[Future[object]] = [
            store.clerk.submit(lambda con: con.execute("DELETE FROM asked_again"), writes=True) for _ in range(300)
        ]
        for job in jobs:
            with pytest.raises(StoreUnusable, match=r"locked.*no other program holds the file"):
                job.result()
        # At most the first alone, and then all that came meanwhile.
        assert time.monotonic() - started < 60
        other.execute("ROLLBACK")
    assert store.ask_again([]) == 0


def test_a_full_disk_stops_a_run_by_its_name_and_what_was_kept_is_not_bought_again(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(300)
    pragma(store, f"max_page_count = {pragma(store, 'page_count') + 60}")
    with running_standin() as server:
        with pytest.raises(StoreUnusable, match=r"full.*disk has room"):
            ask_all(engine_for(server, max_in_flight=4), requests)
        kept = store.clerk.submit(
            lambda con: con.execute("SELECT count(*) FROM exchanges").fetchone()[0], False
        ).result()
        assert 0 < kept < 300
        pragma(store, "max_page_count = 1000000")
        answered = server.counts["answered"]
        assert all(isinstance(one, Exchange) for one in ask_all(engine_for(server, budget=Budget()), requests))
        assert server.counts["answered"] - answered == 300 - kept
