"""How many requests are in flight."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.pace import Pace, PaceSettings, backoff_s


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
            at = await pace.enter()
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


def test_a_retry_after_holds_everybody() -> None:
    async def run() -> float:
        pace = Pace(PaceSettings())
        pace.slow_down(time.monotonic(), 0.15)
        started = time.monotonic()
        await pace.enter()
        return time.monotonic() - started

    assert asyncio.run(run()) >= 0.15


@pytest.mark.parametrize("attempt", [1, 2, 3, 10])
def test_the_wait_doubles_up_to_its_cap_and_is_never_shorter_than_asked(attempt: int) -> None:
    pace = PaceSettings(backoff_base_s=1.0, backoff_cap_s=8.0)
    middle = min(8.0, 2.0 ** (attempt - 1))
    assert all(0.5 * middle <= backoff_s(pace, attempt, None) <= 1.5 * middle for _ in range(50))
    assert backoff_s(pace, attempt, 99.0) == 99.0
