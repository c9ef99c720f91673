"""A signal whose handler raises ends a run wherever it comes, and nothing is left waiting."""

import asyncio
import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from inference.running import run


class Interrupted(BaseException):
    """What Dagster raises where a run is cancelled is no Exception, either."""


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def sent(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = signal.signal(request.param, interrupt)
    yield request.param
    assert signal.getsignal(request.param) is interrupt  # put back after the run
    signal.signal(request.param, before)


def test_an_interrupt_within_a_callback_ends_the_run(sent: signal.Signals) -> None:
    cleared = []

    async def waits_for_what_a_callback_brings() -> None:
        brought: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def bring() -> None:
            os.kill(os.getpid(), sent)
            brought.set_result(None)

        asyncio.get_running_loop().call_soon(bring)
        try:
            await brought
            await asyncio.sleep(60)
        finally:
            cleared.append(True)

    with pytest.raises(Interrupted):
        run(waits_for_what_a_callback_brings())
    assert cleared == [True]


def test_an_interrupt_that_comes_at_the_very_end_is_not_lost(sent: signal.Signals) -> None:
    async def ends_at_once() -> None:
        os.kill(os.getpid(), sent)

    with pytest.raises(Interrupted):
        run(ends_at_once())


def test_a_second_interrupt_is_not_held_back_by_clearing_up(sent: signal.Signals) -> None:
    async def clears_up_for_long() -> None:
        os.kill(os.getpid(), sent)
        try:
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), sent)
            await asyncio.sleep(60)

    with pytest.raises(Interrupted):
        run(clears_up_for_long())


def test_a_handler_that_raises_nothing_lets_the_run_go_on() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))

    async def goes_on() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        return "done"

    try:
        assert run(goes_on()) == "done" and heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
