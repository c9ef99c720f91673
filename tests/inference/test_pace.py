"""How many requests are in flight."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.pace import Allowance, Pace, PaceSettings, backoff_s


def test_the_limit_doubles_per_round_trip_until_the_first_push_back() -> None:
    pace = Pace(PaceSettings(start_in_flight=2, max_in_flight=64))
    for _ in range(2):
        pace.speed_up()
    assert pace.limit == 4
    pace.slow_down(time.monotonic(), None)
    for _ in range(2):
        pace.speed_up()
    assert 2.8 < pace.limit < 3.1


def test_one_push_back_on_many_requests_of_the_same_time_cuts_once() -> None:
    pace = Pace(PaceSettings(start_in_flight=32))
    entered = time.monotonic()
    for _ in range(20):
        pace.slow_down(entered, None)
    assert pace.limit == 16


@given(st.lists(st.booleans(), max_size=200))
def test_the_limit_stays_between_one_and_the_maximum(answers: list[bool]) -> None:
    pace = Pace(PaceSettings(start_in_flight=8, max_in_flight=16))
    for good in answers:
        if good:
            pace.speed_up()
        else:
            pace.slow_down(time.monotonic() + 1, None)
        assert 1 <= pace.limit <= 16


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_nobody_enters_beyond_the_limit_and_everybody_gets_in(seed: int) -> None:
    rng = random.Random(seed)

    async def run() -> int:
        pace = Pace(PaceSettings(start_in_flight=4, max_in_flight=8))
        entered = 0

        async def one() -> None:
            nonlocal entered
            while (at := await pace.enter()) is None:
                await asyncio.sleep(pace.paused_s)
            try:
                assert pace.in_flight <= 8
                entered += 1
                await asyncio.sleep(rng.random() * 0.002)
                if rng.random() < 0.3:
                    pace.slow_down(at, 0.001 if rng.random() < 0.1 else None)
                else:
                    pace.speed_up()
            finally:
                pace.leave(at)

        tasks = [asyncio.create_task(one()) for _ in range(60)]
        quitters = rng.sample(tasks, 10)
        await asyncio.sleep(0.001)
        for task in quitters:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert pace.in_flight == 0
        return entered

    assert asyncio.run(run()) >= 50


def test_a_retry_after_holds_everybody_and_whoever_asks_is_told_for_how_long() -> None:
    async def run() -> None:
        pace = Pace(PaceSettings())
        pace.slow_down(time.monotonic(), 0.15)
        assert await pace.enter() is None and 0 < pace.paused_s <= 0.15
        await asyncio.sleep(0.16)
        assert await pace.enter() is not None and pace.in_flight == 1

    asyncio.run(run())


def test_who_waits_in_line_leaves_it_when_the_time_is_up_and_takes_nobody_s_turn() -> None:
    async def run() -> None:
        pace = Pace(PaceSettings(start_in_flight=1))
        first = await pace.enter()
        assert first is not None
        patient = asyncio.create_task(pace.enter())
        assert await pace.enter(until=time.monotonic() + 0.05) is None
        assert pace.in_flight == 1 and not patient.done()
        pace.leave(first)
        assert await asyncio.wait_for(patient, 5) is not None

    asyncio.run(run())


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_who_has_used_up_the_allowance_of_a_minute_waits_for_the_next_portion(limit: str) -> None:
    async def run() -> None:
        pace = Pace(PaceSettings(**{limit: 6.0}))
        # A bucket of one, which may go into debt: two enter within moments, and the third has to wait ten seconds.
        assert await pace.enter(1) is not None and await pace.enter(1) is not None
        assert await pace.enter(1, until=time.monotonic() + 0.2) is None
        assert pace.in_flight == 2

    asyncio.run(run())


def test_an_allowance_is_given_out_in_even_portions_and_knows_debts() -> None:
    allowance = Allowance(60.0)
    assert allowance.wait_s() == 0.0
    allowance.take(62.0)  # it held two seconds' worth
    assert 55.0 < allowance.wait_s() <= 60.001
    allowance.take(-40.0)
    assert 15.0 < allowance.wait_s() <= 20.001
    allowance.take(-1000.0)
    assert allowance.wait_s() == 0.0
    allowance.take(12.0)  # what was given back beyond the two seconds' worth is gone
    assert 5.0 < allowance.wait_s() <= 10.001


def test_without_a_limit_nothing_is_counted() -> None:
    allowance = Allowance(None)
    allowance.take(1e9)
    assert allowance.wait_s() == 0.0


@pytest.mark.parametrize("attempt", [1, 2, 3, 10])
def test_the_wait_doubles_up_to_its_cap_and_is_never_shorter_than_asked(attempt: int) -> None:
    pace = PaceSettings(backoff_base_s=1.0, backoff_cap_s=8.0)
    middle = min(8.0, 2.0 ** (attempt - 1))
    assert all(0.5 * middle <= backoff_s(pace, attempt, None) <= 1.5 * middle for _ in range(50))
    assert backoff_s(pace, attempt, 99.0) == 99.0
