"""A run that is stopped, by an error, by whoever reads it or by a signal, ends, and keeps what was on its way."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from types import FrameType

import pytest
from aiohttp import web
from asking import EngineFor, Make
from salt_water import DEAR
from servers import answering, serving

from inference import stream
from inference.endpoint import KeyRefused
from inference.engine import Engine, ask_all
from inference.exchange import Request
from inference.prices import NOTHING
from inference.progress import Progress
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore

IN_FLIGHT = 8
FINE = {"choices": [{"finish_reason": "stop", "message": {"content": "[2] > [1]"}}]}


def test_an_error_ends_a_run_though_the_reader_has_stored_answers_to_hand_out(
    engine_for: EngineFor, some_requests: Make
) -> None:
    requests = some_requests(60)
    answered = 0

    async def refuses_after_three(request: web.Request) -> web.Response:
        nonlocal answered
        await request.read()
        answered += 1
        return web.json_response(FINE) if answered <= 3 else web.Response(status=401)

    async def one_by_one() -> AsyncIterator[Request]:
        for request in requests:
            yield request

    async def read_slowly(engine: Engine) -> None:
        async for _ in engine.ask(one_by_one()):
            await asyncio.sleep(0.05)

    with running_standin() as server:
        ask_all(engine_for(server), requests[::2])
    with serving(answering(refuses_after_three)) as base_url, pytest.raises(KeyRefused):
        asyncio.run(asyncio.wait_for(read_slowly(engine_for(base_url, prices=DEAR, max_in_flight=4)), 20))


class Cancelled(BaseException):
    """What Dagster raises where a run is cancelled is no Exception, either."""


def cancelled(_number: int, _frame: FrameType | None) -> None:
    raise Cancelled


@pytest.fixture(params=[signal.default_int_handler, cancelled], ids=["Ctrl-C", "a cancelled run"])
def raised(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    before = signal.signal(signal.SIGINT, request.param)
    yield KeyboardInterrupt if request.param is signal.default_int_handler else Cancelled
    signal.signal(signal.SIGINT, before)


def spending(store: ExchangeStore) -> dict[str, int]:
    """Entries of what was spent, by kind."""
    with sqlite3.connect(store.path) as con:
        return dict(con.execute("SELECT kind, count(*) FROM spend GROUP BY kind").fetchall())


def interrupted(engine: Engine, requests: list[Request], times: int, within_s: float) -> None:
    """Ask, and interrupt so many times once all that may be in flight is; then it must end in that time."""
    sent: list[float] = []

    def interrupt(progress: Progress) -> None:
        if len(sent) < times and (sent or progress.in_flight == IN_FLIGHT):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    try:
        ask_all(engine, requests, on_progress=interrupt, every_s=0.05)
    finally:
        assert len(sent) == times and time.monotonic() - sent[-1] < within_s


def in_flight(engine_for: EngineFor, server: Standin | str) -> Engine:
    return engine_for(server, prices=DEAR, start_in_flight=IN_FLIGHT, max_in_flight=IN_FLIGHT)


def left_after(engine: Engine, requests: list[Request], until: Callable[[Progress], bool]) -> float:
    """Take one outcome at most, wait until the run stands so, and leave it; gives the seconds that this takes."""

    async def leave() -> float:
        async with engine.open() as session, aclosing(session.ask(requests)) as outcomes:
            first = asyncio.ensure_future(anext(outcomes))
            while not until(session.purchase.progress()):
                await asyncio.sleep(0.01)
            left = time.monotonic()
            first.cancel()
            await asyncio.wait([first])
        return time.monotonic() - left

    return asyncio.run(leave())


def test_one_interrupt_takes_in_what_is_on_its_way_and_asks_nothing_more(
    raised: type[BaseException], engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(latency_s=1.0)) as server:
        with pytest.raises(raised):
            interrupted(in_flight(engine_for, server), some_requests(100), times=1, within_s=stream.TAKE_IN_S)
        assert server.counts["answered"] == IN_FLIGHT
    assert spending(store) == {"answer": IN_FLIGHT} and store.reserved("all") == NOTHING


def test_a_second_interrupt_ends_a_run_at_once_and_what_was_on_its_way_counts_as_charged(
    raised: type[BaseException], engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with serving(Standin(Faults(latency_s=60.0)).app()) as base_url, pytest.raises(raised):
        interrupted(in_flight(engine_for, base_url), some_requests(100), times=2, within_s=stream.TAKE_IN_S / 2)
    assert spending(store) == {"presumed": IN_FLIGHT} and store.reserved("all") == NOTHING


def test_what_takes_too_long_is_not_waited_for(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TAKE_IN_S", 0.5)
    with serving(Standin(Faults(latency_s=60.0)).app()) as base_url:
        engine = in_flight(engine_for, base_url)
        assert 0.4 < left_after(engine, some_requests(100), lambda run: run.in_flight == IN_FLIGHT) < 5
    assert spending(store) == {"presumed": IN_FLIGHT}


def test_what_fails_on_its_way_is_not_waited_for_to_be_asked_again(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(latency_s=0.5, rate_500=1.0)) as server:
        engine = engine_for(server, start_in_flight=IN_FLIGHT, max_in_flight=IN_FLIGHT, backoff_base_s=30.0)
        took = left_after(engine, some_requests(100), lambda run: run.in_flight == IN_FLIGHT)
        assert took < stream.TAKE_IN_S / 2 and server.counts == {"500": IN_FLIGHT}
    assert spending(store) == {} and store.reserved("all") == NOTHING


def test_who_leaves_finished_outcomes_behind_waits_for_nobody(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    # More are finished and on their way than anybody can lay down while nobody takes them.
    with running_standin(Faults(latency_s=0.1)) as server:
        took = left_after(in_flight(engine_for, server), some_requests(100), lambda run: run.answers > 2 * IN_FLIGHT)
        assert took < stream.TAKE_IN_S / 2
        assert spending(store) == {"answer": server.counts["answered"]}
