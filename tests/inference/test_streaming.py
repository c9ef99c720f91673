"""A stream of requests is never held: memory stays the same however many there are; nobody waits for the slowest."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import EngineFor, Make
from servers import serving

from inference.engine import Engine
from inference.exchange import Exchange, Request, Sampling
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore, keep, now

FEW, MANY, MISSING = 2_000, 200_000, 500
# Far below what 200,000 requests or answers take: not 90 bytes are left for each.
BOUND_MB = 16
SAMPLING = Sampling("stand-in-teacher", 0.0, 1.0, 400)
GOING = """
import json, re, sys
from pathlib import Path
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.running import run
from inference.exchange import Exchange
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.store import ExchangeStore
from test_streaming import numbered

url, path, count, holding = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
held = []


def requests():
    for number in range(count):
        request = numbered(number)
        if holding == "requests":
            held.append(request)
        yield request


async def go(engine):
    stored = bought = 0
    async for outcome in engine.ask(requests(), total=count):
        assert isinstance(outcome, Exchange), outcome
        stored += outcome.from_store
        bought += not outcome.from_store
        if holding == "outcomes":
            held.append(outcome)
    return stored, bought


with ExchangeStore(path) as store:
    engine = Engine(Endpoint(base_url=url, api_key="none"), store, Budget(), Prices.load(), PaceSettings())
    stored, bought = run(go(engine))
# And not ru_maxrss, which a process inherits from the one that started it.
peak_kb = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"stored": stored, "bought": bought, "peak_mb": peak_kb / 1024}))
"""


def numbered(number: int) -> Request:
    prompt = f"Question {number}: which of these passages would help most, and what would an answer to it rest on?"
    return Request(f"r{number}", ({"role": "user", "content": prompt},), SAMPLING)


def missing(number: int) -> bool:
    """Whether an answer is not stored: all through the stream, so that the reader passes the workers by."""
    return number % (MANY // MISSING) == 7


def answer_to(request: Request) -> Exchange:
    model, content = SAMPLING.model, "[2] > [1] > [4] > [3]"
    return Exchange(request.id, request.key, model, model, content, "", "stop", 50, 9, 0, 0.0, 0.1, 1, now())


def going(server: Standin, path: Path, count: int, holding: str = "nothing") -> dict[str, Any]:
    command = [sys.executable, "-c", GOING, server.base_url, str(path), str(count), holding]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True, timeout=240)
    measured: dict[str, Any] = json.loads(told.stdout)
    return measured


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an answer to all but the missing ones, filled in one transaction."""
    path, sampling = tmp_path_factory.mktemp("filled") / "exchanges.sqlite", SAMPLING.json.decode()

    def fill(con: sqlite3.Connection) -> int:
        kept, wanted = 0, (numbered(number) for number in range(MANY) if not missing(number))
        while chunk := list(islice(wanted, 5000)):
            texts = [(request.messages_json.decode(), sampling) for request in chunk]
            kept += keep(con, [answer_to(request) for request in chunk], texts, "all")
        return kept

    with ExchangeStore(path) as store:
        assert store.clerk.submit(fill, writes=True).result() == MANY - MISSING
    return path


def test_memory_does_not_grow_with_the_number_of_requests(filled: Path) -> None:
    with running_standin() as server:
        few = going(server, filled, FEW)
        many = going(server, filled, MANY)
        assert server.counts["answered"] == MISSING
    assert (few["stored"], few["bought"]) == (FEW - 5, 5)
    assert (many["stored"], many["bought"]) == (MANY - MISSING + 5, MISSING - 5)
    assert many["peak_mb"] - few["peak_mb"] < BOUND_MB


@pytest.mark.parametrize(("holding", "count"), [("requests", MANY // 10), ("outcomes", MANY // 2)])
def test_memory_would_grow_beyond_the_bound_if_they_were_held(holding: str, count: int, filled: Path) -> None:
    with running_standin() as server:
        few = going(server, filled, FEW, holding)
        held = going(server, filled, count, holding)
    assert held["peak_mb"] - few["peak_mb"] > 1.5 * BOUND_MB


@pytest.mark.parametrize("slow", [["r0"], ["r150"], [f"r{i}" for i in range(3, 10)]], ids=["first", "later", "seven"])
def test_requests_that_take_for_ever_do_not_hold_up_the_others(
    slow: list[str], engine_for: EngineFor, some_requests: Make
) -> None:
    requests = some_requests(200)
    slow_prompts = {request.messages[0]["content"] for request in requests if request.id in slow}
    others_are_out = threading.Event()

    @web.middleware
    async def hold(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        if (await request.json())["messages"][0]["content"] in slow_prompts:
            await asyncio.to_thread(others_are_out.wait, 20)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def take(engine: Engine) -> list[str]:
        out: list[str] = []
        async for outcome in engine.ask(requests):
            assert isinstance(outcome, Exchange)
            out.append(outcome.request_id)
            if len(out) == len(requests) - len(slow):
                # Nothing but this lets the slow ones go: had anybody waited for them, nobody would come out.
                others_are_out.set()
        return out

    app = Standin().app()
    app.middlewares.append(hold)
    with serving(app) as base_url:
        out = asyncio.run(take(engine_for(base_url, max_in_flight=8, start_in_flight=8, timeout_s=60.0)))
    assert sorted(out) == sorted(request.id for request in requests)
    assert sorted(out[-len(slow) :]) == sorted(slow)
