"""A run that is stopped, by an error, by whoever reads it or by a signal, ends, and keeps what was on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from salt_water import DEAR
from servers import answering, serving

from inference.endpoint import KeyRefused
from inference.engine import Engine, ask_all
from inference.exchange import Request
from inference.standin.server import running_standin

Make = Callable[..., list[Request]]
EngineFor = Callable[..., Engine]
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

    async def stream() -> AsyncIterator[Request]:
        for request in requests:
            yield request

    async def read_slowly(engine: Engine) -> None:
        async for _ in engine.ask(stream()):
            await asyncio.sleep(0.05)

    with running_standin() as server:
        ask_all(engine_for(server), requests[::2])
    with serving(answering(refuses_after_three)) as base_url, pytest.raises(KeyRefused):
        asyncio.run(asyncio.wait_for(read_slowly(engine_for(base_url, prices=DEAR, max_in_flight=4)), 20))
