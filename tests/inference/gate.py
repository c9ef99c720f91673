"""A gate before a server: real HTTP between a client and the stand-in that a test can hold, cut or change.

Places are named like `POST /batches`, with ids left out (`GET /files/content`). What happens at a place:

    "hold"          the request waits here, until this is no longer so or its client is gone
    "hold answer"   it arrives, and its answer waits here in the same way
    "late"          the request waits here, and then goes on even if its client is gone
    "cut"           the connection is cut before the request arrives
    "cut answer"    the request arrives, and the connection is cut instead of the answer
    500             this status is answered, and the request does not arrive
    a function      of the bytes of the answer, which changes them
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from servers import serving

At = str | int | Callable[[bytes], bytes]


@dataclass
class Gate:
    """`seen` counts what came to every place, `passed` what went on to the server, `held` what waits here."""

    server: str
    at: dict[str, At] = field(default_factory=dict)
    base_url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    held: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        place = re.sub(r"/(file-|batch_)\w+", "", f"{request.method} {request.path.removeprefix('/v1')}")
        body = await request.read()
        self.seen[place] += 1
        at = self.at.get(place)
        if at in ("hold", "cut", "late") and await self.over(request, place, str(at)):
            return web.Response()
        if isinstance(at, int):
            return web.json_response({"error": {"message": "the gate says no"}}, status=at)
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        url = self.server.removesuffix("/v1") + request.path_qs
        async with (
            aiohttp.ClientSession() as client,
            client.request(request.method, url, data=body, headers=headers) as answer,
        ):
            said = await answer.read()
        self.passed[place] += 1
        if at in ("hold answer", "cut answer") and await self.over(request, place, str(at)):
            return web.Response()
        said = at(said) if callable(at) else said
        return web.Response(body=said, status=answer.status, content_type=answer.content_type)

    async def over(self, request: web.Request, place: str, how: str) -> bool:
        """Hold or cut; whether that was the end of this request."""
        self.held += 1
        waits = how.startswith(("hold", "late"))
        while waits and self.at.get(place) == how and (request.transport is not None or how == "late"):
            await asyncio.sleep(0.01)
        self.held -= 1
        if how == "late":
            return False
        if how.startswith("cut") and request.transport is not None:
            request.transport.abort()
        return request.transport is None or how.startswith("cut")


@contextmanager
def gate_before(server: str) -> Iterator[Gate]:
    """A gate before the server of this address, while the context lasts."""
    gate = Gate(server)
    app = web.Application(client_max_size=256 * 2**20)
    app.router.add_route("*", "/{path:.*}", gate.handle)
    with serving(app) as gate.base_url:
        yield gate
