"""The server from its start to its end.

    await run_server(settings, command, "127.0.0.1", 8080, stop, on_address=print)

Listens at once and answers 503 until the model is loaded. When `stop` is set it takes no new connections, gives running
requests their time, then ends the model's process. Absent on purpose: TLS and rate limits by caller; a proxy in front
does both.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Sequence

from aiohttp import web

from inference.server.app import RerankServer, ServerSettings
from inference.server.ranker import RankerProcess

KEEPALIVE_S = 30.0


class CannotListen(OSError):
    """Host and port cannot be listened on."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def run_server(
    settings: ServerSettings,
    command: Sequence[str],
    host: str,
    port: int,
    stop: asyncio.Event,
    on_address: Callable[[str, RerankServer], None],
) -> None:
    """Serve until `stop`. Raises CannotListen, and RankerUnusable when the model cannot be kept running."""
    if not is_loopback(host) and settings.api_key is None:
        raise CannotListen(f"{host} can be reached from other machines, and there is no key. Set RANKMILL_API_KEY.")
    ranker = RankerProcess(command)
    server = RerankServer(settings, ranker)
    runner = web.AppRunner(
        server.app(),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=settings.drain_s,
    )
    await runner.setup()
    keeping: asyncio.Task[None] | None = None
    stopping = asyncio.create_task(stop.wait())
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=512).start()
        except OSError as error:
            raise CannotListen(f"{host}:{port} cannot be listened on: {error}. Choose another --port.") from None
        keeping = asyncio.create_task(ranker.run())
        shown = f"[{host}]" if ":" in host else host
        on_address(f"http://{shown}:{runner.addresses[0][1]}", server)
        await asyncio.wait({stopping, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()  # it ends by itself only when the model cannot be kept running
    finally:
        stopping.cancel()
        await runner.cleanup()
        await ranker.close()
        if keeping is not None:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
