"""What others are asking already: a run says that it waits, goes on with the rest, and takes nobody's claim."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from asking import EngineFor, Make
from batch_runs import BatchFor
from test_batch_clearing import leave_when

from inference.budget import Budget
from inference.engine import Engine, ask_all
from inference.exchange import Exchange, Failure, Request
from inference.prices import NOTHING, Prices
from inference.progress import Progress
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore


def left_open(server: Standin, batches_for: BatchFor, requests: list[Request]) -> None:
    """Leave a batch at the provider, as a run that was killed does."""
    asyncio.run(leave_when(batches_for(server), requests, lambda: server.counts["answered"] > 0))


async def until(engine: Engine, requests: list[Request], answered: int, linger_s: float) -> list[Progress]:
    """Ask until so many are answered and some time has passed, then leave."""
    seen: list[Progress] = []
    async with aclosing(engine.ask(requests, on_progress=seen.append, every_s=0.05)) as outcomes:
        for _ in range(answered):
            await anext(outcomes)
        asking = asyncio.ensure_future(anext(outcomes))
        await asyncio.wait([asking], timeout=linger_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    return seen


def test_requests_that_an_open_batch_holds_are_named_in_progress_log_and_figures_and_hold_nobody_up(
    engine_for: EngineFor,
    batches_for: BatchFor,
    some_requests: Make,
    store: ExchangeStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    requests = some_requests(60)
    with running_standin(Faults(batch_delay_s=60.0)) as server:
        left_open(server, batches_for, requests[:30])
        batch, filed_at = store.clerk.submit(
            lambda con: con.execute("SELECT batch, filed_at FROM batches").fetchone(), writes=False
        ).result()
        # Six workers: fewer than the batch holds, all of which come first.
        engine = engine_for(server, max_in_flight=4)
        seen = asyncio.run(until(engine, requests, answered=30, linger_s=1.5))
    name = f"batch {batch[:8]}, open since {filed_at[:16]}Z"
    waiting = [progress for progress in seen if progress.held == {name: 30}]
    assert waiting and f"30 wait for {name}" in waiting[-1].line and waiting[-1].good == 30
    assert waiting[-1].figures["waiting_for_batches"] == 30 == waiting[-1].figures["waited_for_batches"]
    said = [record.getMessage() for record in caplog.records if record.name == "inference.held"]
    assert len(said) == 1
    assert said[0].startswith(f"30 requests so far wait for {name} at {server.base_url}. A run in batch mode")
    assert said[0].endswith(f"python -m inference.batch {store.path} --give-up {batch}")


def test_a_live_run_ends_when_another_has_collected_the_batch_and_its_figures_say_that_it_waited(
    engine_for: EngineFor, batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(12)
    seen: list[Progress] = []

    async def both(server: Standin) -> list[Exchange | Failure]:
        asking = asyncio.ensure_future(live(server))
        await asyncio.sleep(0.2)
        async with batches_for(server).open():
            return await asking

    async def live(server: Standin) -> list[Exchange | Failure]:
        return [one async for one in engine_for(server).ask(requests, on_progress=seen.append)]

    with running_standin(Faults(batch_delay_s=1.0)) as server:
        left_open(server, batches_for, requests[:5])
        outcomes = asyncio.run(both(server))
        assert server.counts["answered"] == 12 == len(outcomes)
    assert seen[-1].figures["waited_for_batches"] == 5 and seen[-1].figures["waiting_for_batches"] == 0
    assert seen[-1].held == {} and sum(isinstance(one, Exchange) and one.from_store for one in outcomes) == 5


def test_a_stream_that_waits_for_an_answer_that_was_put_off_gets_it(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    first, second = some_requests(2)
    other = store.holder()
    store.claim([(first, Prices.load().worst_case(first))], Budget(), other)

    async def run(engine: Engine) -> list[str]:
        answered, names = asyncio.Event(), []

        async def stream() -> AsyncIterator[Request]:
            yield first
            await answered.wait()
            yield second

        async def let_go() -> None:
            await asyncio.sleep(0.4)
            await asyncio.to_thread(store.release, [first.key], False, other)

        letting = asyncio.create_task(let_go())
        async for outcome in engine.ask(stream()):
            names.append(outcome.request_id)
            answered.set()
        await letting
        return names

    with running_standin() as server:
        assert asyncio.run(asyncio.wait_for(run(engine_for(server)), 10)) == ["r0", "r1"]


def test_a_request_is_waited_for_no_longer_than_its_deadline(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    one = some_requests(1)[0]
    store.claim([(one, Prices.load().worst_case(one))], Budget(), store.holder())
    started = time.monotonic()
    with running_standin() as server:
        outcome = ask_all(engine_for(server, deadline_s=0.5), [one])[0]
        assert not server.counts
    assert isinstance(outcome, Failure) and (outcome.kind, time.monotonic() - started < 60) == ("too late", True)
    assert "deadline of 0.5 s" in outcome.detail


def test_waiting_takes_no_memory(engine_for: EngineFor, some_requests: Make, store: ExchangeStore) -> None:
    requests = some_requests(40)
    holder = store.holder()
    store.claim([(request, Prices.load().worst_case(request)) for request in requests], Budget(), holder)

    def events() -> int:
        return sum(isinstance(thing, asyncio.Event) for thing in gc.get_objects())

    async def run(engine: Engine) -> tuple[int, int]:
        asking = asyncio.ensure_future(until(engine, requests, answered=0, linger_s=2.5))
        await asyncio.sleep(0.7)
        early = events()
        await asyncio.sleep(1.5)
        late = events()
        await asking
        return early, late

    with running_standin() as server:
        early, late = asyncio.run(run(engine_for(server)))
    # Forty that wait look again four times a second: two hundred and more, if each look left something behind.
    assert late - early < 100


def test_two_runs_on_one_store_leave_each_other_s_claims_alone(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(1)

    async def run(server: Standin) -> None:
        asking = asyncio.ensure_future(anext(engine_for(server).ask(requests)))
        while not store.reserved("all").tokens:
            await asyncio.sleep(0.01)
        # A second run that wants the same thing, and is cancelled while it looks.
        for _ in range(5):
            rival = asyncio.ensure_future(anext(engine_for(server).ask(requests)))
            await asyncio.sleep(0.01)
            rival.cancel()
            await asyncio.gather(rival, return_exceptions=True)
            assert store.reserved("all").tokens > 0, "the claim of the first run is gone"
        assert isinstance(await asking, Exchange)

    with running_standin(Faults(latency_s=3.0)) as server:
        asyncio.run(run(server))
        assert server.counts["answered"] == 1
    assert store.reserved("all") == NOTHING


def test_runs_of_a_store_have_owners_of_their_own_which_it_renews_and_gives_up_as_it_closes(
    some_requests: Make, store: ExchangeStore
) -> None:
    requests, prices = some_requests(2), Prices.load()
    with ExchangeStore(store.path) as second:
        one, two = second.holder(), second.holder()
        assert len({second.me.owner, one.owner, two.owner}) == 3
        assert second.claim([(requests[0], prices.worst_case(requests[0]))], Budget(), one)[0].status == "granted"
        assert second.claim([(requests[0], prices.worst_case(requests[0]))], Budget(), two)[0].status == "busy"
        second.release([requests[0].key], False, two)
        assert second.claim([(requests[0], prices.worst_case(requests[0]))], Budget(), two)[0].status == "busy"

        def lease(renewed: bool) -> float:
            if renewed:
                second.clerk.submit(second.renew, writes=True).result()
            row = second.clerk.submit(lambda con: con.execute("SELECT expires_at FROM claims").fetchone(), writes=False)
            return float(row.result()[0])

        second.clerk.submit(lambda con: con.execute("UPDATE claims SET expires_at = 1"), writes=True).result()
        assert lease(renewed=False) == 1 and lease(renewed=True) > time.time()
    assert store.reserved("all") == NOTHING and store.spent("all").tokens > 0


def test_a_run_that_waits_can_be_left_at_any_moment(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(40)
    store.claim([(request, Prices.load().worst_case(request)) for request in requests], Budget(), store.holder())

    async def leave(engine: Engine, after_s: float) -> None:
        await asyncio.wait_for(until(engine, requests, answered=0, linger_s=after_s), 10)

    with running_standin() as server:
        for moment in range(12):
            # Whoever is cancelled wakes the next one that waits, which is about to be cancelled too.
            asyncio.run(leave(engine_for(server, max_in_flight=16), 0.3 + 0.02 * moment))
