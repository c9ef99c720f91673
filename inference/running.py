"""An event loop that ends when a signal's handler raises, wherever the signal comes.

outcomes = run(collect())
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from inspect import isfunction
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on the fastest event loop that is installed; what a signal's handler raises ends it, wherever it is.

    A handler that raises (Dagster's does where a run is cancelled) may hit a callback of the loop, which logs the error
    and goes on, and whoever waits for what that callback was to bring would wait for ever. So the error is kept, `main`
    is cancelled, and the error is raised when that has ended. What `main` does to end well (the engine takes in what is
    on its way) is cancelled by a second error.
    """
    raised: list[BaseException] = []
    make_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):  # not made for every platform
        from uvloop import new_event_loop as make_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        try:
            result = runner.run(_until_raised(main, raised))
        except BaseException as error:
            if raised:
                raise raised[0] from error
            raise
    if raised:  # as `main` was at its end anyway
        raise raised[0]
    return result


async def _until_raised(main: Coroutine[Any, Any, T], raised: list[BaseException]) -> T:
    """`main`, cancelled by each error that a signal's handler raises; the first is kept, a further one is raised."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # asyncio itself sees to Python's own handler of Ctrl-C, as a method of the runner.
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in found.items() if isfunction(handler)}

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handlers[signal.Signals(number)](number, frame)
        except BaseException as error:
            # Again, too: what it does to end well may be waiting, and a task keeps to itself what is raised in it.
            loop.call_soon_threadsafe(task.cancel)
            if raised:
                raise
            raised.append(error)

    try:
        for number in handlers:
            signal.signal(number, handle)
        return await main
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
