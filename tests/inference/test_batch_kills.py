"""Batch mode and processes: killed anywhere on the way, or two at once, and nothing is paid twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate import Gate, gate_before

from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

COUNT = 12
ASKER = """
import sys
from inference.batch.engine import BatchEngine
from inference.batch.settings import BatchSettings
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import ask_all
from inference.exchange import Exchange, Request, Sampling
from inference.prices import Price, Prices
from inference.store import ExchangeStore

url, path, count, settle_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
sampling = Sampling("stand-in-teacher", 0.0, 1.0, 400)
requests = [Request(str(i), ({"role": "user", "content": f"question {i}"},), sampling) for i in range(count)]
prices = Prices.load().with_price(sampling.model, Price(input=1e6, cached=1e6, output=1e6, batch=0.5, source="test"))
settings = BatchSettings(max_requests=4, open_batches=3, poll_s=0.05, settle_s=settle_s)
seen = []
with ExchangeStore(path) as store:
    engine = BatchEngine(Endpoint(base_url=url, api_key="none"), store, Budget(), prices, settings)
    outcomes = ask_all(engine, requests, on_progress=seen.append)
print(sum(isinstance(one, Exchange) for one in outcomes), seen[-1].stored, seen[-1].calls)
"""


def asker(gate: Gate, path: Path, count: int = COUNT, settle_s: float = 0.5) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", ASKER, gate.base_url, str(path), str(count), str(settle_s)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> tuple[int, ...]:
    """How many were answered, how many of them came out of the store, how many were sent."""
    return tuple(int(word) for word in process.communicate(timeout=40)[0].split())


def wait_until(happened: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def kill(process: subprocess.Popen[str], gate: Gate) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What it had on its way is gone with it.
    wait_until(lambda: gate.held == 0)


def rows_of(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as con:
        return con.execute(sql).fetchall()


def paid_once(path: Path, count: int = COUNT) -> bool:
    spent = rows_of(path, "SELECT kind, count(*), count(DISTINCT key) FROM spend GROUP BY kind")
    costs = [rows_of(path, f"SELECT sum(usd) FROM {table}") for table in ("exchanges", "spend", "totals")]
    open_batches = rows_of(path, "SELECT count(*) FROM batches WHERE ended_as IS NULL")
    left = [rows_of(path, f"SELECT count(*) FROM {table}") for table in ("batch_lines", "claims")]
    reserved = rows_of(path, "SELECT reserved_usd, reserved_tokens FROM totals")
    assert spent == [("answer", count, count)] and costs[0] == costs[1] == costs[2] != [(0.0,)]
    return reserved == [(0.0, 0)] and [open_batches, *left] == [[(0,)]] * 3


@pytest.mark.parametrize(
    ("place", "at", "created"),
    [
        ("POST /files", "hold", 0),
        ("POST /files", "hold answer", 0),
        ("POST /batches", "hold", 0),
        ("POST /batches", "hold answer", 3),
        ("GET /batches", "hold", 3),
        ("GET /files/content", "hold", 3),
        ("GET /files/content", "hold answer", 3),
    ],
)
def test_killed_anywhere_on_the_way_the_next_run_pays_for_nothing_twice(
    place: str, at: str, created: int, tmp_path: Path
) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[place] = at
        process = asker(gate, path)
        # Three batches of four requests, each of them stopped at this place or, once it is reached, held behind it.
        wait_until(lambda: gate.seen[place] >= (1 if place.startswith("GET") else 3))
        wait_until(lambda: gate.passed["POST /batches"] == created)
        kill(process, gate)
        gate.at.clear()
        assert told(asker(gate, path)) == (COUNT, 4 * created, COUNT - 4 * created)
        assert server.counts["answered"] == COUNT and gate.passed["POST /batches"] == 3
    assert paid_once(path)


def test_a_creation_that_arrives_only_after_the_kill_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["POST /batches"] = "late"
        process = asker(gate, path, 4)
        wait_until(lambda: gate.held == 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        second = asker(gate, path, 4, settle_s=60.0)
        wait_until(lambda: gate.passed["GET /batches"] >= 3)
        gate.at.clear()
        assert told(second) == (4, 4, 0)
        assert server.counts["answered"] == 4 and gate.passed["POST /batches"] == 1
    assert paid_once(path, 4)


def test_killed_while_a_batch_is_worked_on_the_next_run_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin(Faults(batch_delay_s=3.0)) as server, gate_before(server.base_url) as gate:
        process = asker(gate, path)
        wait_until(lambda: server.counts["answered"] >= 3)
        kill(process, gate)
        assert rows_of(path, "SELECT count(*) FROM exchanges") == [(0,)]
        assert told(asker(gate, path)) == (COUNT, COUNT, 0)
        assert server.counts["answered"] == COUNT and gate.seen["POST /batches"] == 3
    assert paid_once(path)


def test_killed_again_and_again_every_answer_is_bought_once(tmp_path: Path) -> None:
    path, count = tmp_path / "exchanges.sqlite", 60
    with running_standin(Faults(batch_delay_s=0.1, rate_500=0.2)) as server, gate_before(server.base_url) as gate:
        for answered in (4, 16, 28, 40):
            process = asker(gate, path, count)
            wait_until(lambda answered=answered: server.counts["answered"] >= answered)  # type: ignore[misc]
            kill(process, gate)
        assert told(asker(gate, path, count))[0] == count
        assert server.counts["answered"] == count
    assert paid_once(path, count)


def test_two_processes_that_ask_the_same_thing_at_once_buy_it_once_and_book_it_once(tmp_path: Path) -> None:
    path, count = tmp_path / "exchanges.sqlite", 40
    with running_standin(Faults(batch_delay_s=0.1, rate_500=0.2)) as server, gate_before(server.base_url) as gate:
        pair = [told(process) for process in [asker(gate, path, count) for _ in range(2)]]
        assert [answered for answered, _, _ in pair] == [count, count]
        assert server.counts["answered"] == count
        assert sum(sent for _, _, sent in pair) == count + server.counts["500"]
    assert paid_once(path, count)


def test_both_of_two_processes_may_hold_the_results_of_a_batch_and_one_books_them(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /files/content"] = "hold answer"
        first = asker(gate, path, 4)
        wait_until(lambda: gate.passed["GET /files/content"] == 1)
        second = asker(gate, path, 4)
        wait_until(lambda: gate.passed["GET /files/content"] == 2)
        gate.at.clear()
        assert sorted([told(first), told(second)]) == [(4, 0, 4), (4, 4, 0)]
        assert server.counts["answered"] == 4
    assert paid_once(path, 4)


def test_a_batch_of_a_killed_run_is_collected_though_nobody_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /files/content"] = "hold"
        process = asker(gate, path)
        wait_until(lambda: gate.passed["POST /batches"] == 3 and server.counts["answered"] == COUNT)
        kill(process, gate)
        gate.at.clear()
        assert told(asker(gate, path, 0)) == (0, 0, 0)
    assert paid_once(path)


def test_the_claims_of_a_killed_sender_are_no_dead_process_of_the_live_engine(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin(Faults(batch_delay_s=60.0)) as server, gate_before(server.base_url) as gate:
        process = asker(gate, path)
        wait_until(lambda: gate.seen["GET /batches"] == 3)
        kill(process, gate)
    with ExchangeStore(path) as store:
        keys = rows_of(path, "SELECT key, usd FROM claims")
        assert len(keys) == COUNT and store.reserved("all").usd == sum(usd for _, usd in keys) > 0
