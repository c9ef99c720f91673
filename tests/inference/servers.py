"""Endpoints that the stand-in does not play: any aiohttp application, over real HTTP on a thread of its own.

with serving(answering(handler)) as base_url: ...
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(handler: Handler) -> web.Application:
    """An application that knows chat completions alone."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    return app


@contextmanager
def serving(app: web.Application) -> Iterator[str]:
    """The base_url of an application while the context lasts; requests that are on their way then are let go."""
    ready: list[str] = []
    started, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ready.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
            started.set()
            await over.wait()
        finally:
            await runner.cleanup()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
