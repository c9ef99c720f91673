"""The stand-in teacher: a loopback server that speaks the OpenAI protocol and answers from lexical evidence.

    python -m inference.standin.server --port 8077          # prints its address, runs until interrupted

    with running_standin() as server:                # in this process, on a free port, on a thread of its own
        ... server.base_url ...

It takes the teacher's place where no endpoint can be reached, so that every other part runs as it would with one. It
is not a language model: its name stands in `model` and its version in `system_fingerprint` of every answer. It speaks
chat completions, with log-probabilities, and batches with their files; faults are injected on request (`Faults`).

Absent on purpose: streaming, tools, several choices, sampling (temperature and seed change nothing).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from aiohttp import web

from inference.standin.answers import VERSION
from inference.standin.batches import Batches
from inference.standin.completions import completion, prompt_key, tokens_wanted, what_is_wrong
from inference.standin.faults import (
    ANSWERED,
    ON_THE_WIRE,
    Draw,
    Faults,
    Reply,
    error_body,
    error_response,
    refusal_of,
    spoilt,
)
from inference.standin.files import Files

MODEL = "stand-in-teacher"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Standin:
    """A running stand-in; `counts` says how many requests, live or in a batch, ended how.

    Every kind of fault has a count; "answered" counts all that came as a chat completion, faulty text or not.
    """

    faults: Faults = field(default_factory=Faults)
    api_key: str | None = None
    base_url: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    _attempts: Counter[str] = field(default_factory=Counter)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=256 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/healthz", self._health)
        files = Files()
        batches = Batches(files, self._answer_line, MODEL, self.faults)
        for method, path, handler in [*files.routes(), *batches.routes()]:
            app.router.add_route(method, path, self._guarded(handler))

        async def stop(_app: web.Application) -> None:
            self._stopping.set()
            await batches.stop()

        app.on_shutdown.append(stop)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": VERSION, "counts": dict(self.counts)})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "rankmill"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refused(request)) is not None:
            return refused
        try:
            body = await request.json()
        except ValueError as error:
            return error_response(400, f"not a chat completion request: {error!r}")
        if (mistaken := self._mistaken(body)) is not None:
            return web.json_response(mistaken.body, status=mistaken.status)
        draw = self._draw(body["messages"])
        if draw.latency_s:
            await asyncio.sleep(draw.latency_s)
        reply = self._reply(body, draw)
        if draw.kind in ON_THE_WIRE:
            return await spoilt(request, reply, self.faults.drip_s, self._stopping)
        return web.json_response(reply.body, status=reply.status, headers=reply.headers)

    def _answer_line(self, body: dict[str, Any]) -> Reply:
        """The answer to one line of a batch: the live one, without its latency."""
        return self._mistaken(body) or self._reply(body, self._draw(body["messages"]))

    def _draw(self, messages: list[dict[str, str]]) -> Draw:
        if not self.faults.drawn:
            return Draw(latency_s=self.faults.latency_s)
        prompt = prompt_key(messages)
        self._attempts[prompt] += 1
        return self.faults.draw(prompt, self._attempts[prompt])

    def _reply(self, body: dict[str, Any], draw: Draw) -> Reply:
        if draw.kind in ANSWERED:
            self.counts["answered"] += 1
        if draw.kind != "none":
            self.counts[draw.kind] += 1
        return refusal_of(draw, self.faults) or Reply(200, completion(body, draw), {}, draw)

    def _mistaken(self, body: Any) -> Reply | None:
        """The refusal of a request that nobody can answer here, or that is not paid for, whatever the other faults."""
        if (wrong := what_is_wrong(body)) is not None:
            return Reply(400, error_body(f"not a chat completion request: {wrong}"))
        if body["model"] != MODEL:
            message = f"the model {body['model']!r} does not exist here; this server has {MODEL!r}"
            return Reply(404, error_body(message, "model_not_found", "model"))
        if self.faults.context_tokens and (wanted := tokens_wanted(body)) > self.faults.context_tokens:
            message = (
                f"This model's maximum context length is {self.faults.context_tokens} tokens; you asked for {wanted}."
            )
            return Reply(400, error_body(message, "context_length_exceeded", "messages"))
        if 0 <= self.faults.quota <= self.counts["answered"]:
            message = "You exceeded your current quota, please check your plan and billing details."
            return Reply(429, error_body(message, "insufficient_quota"))
        return None

    def _refused(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        self.counts["401"] += 1
        # Real endpoints quote the key that they refuse; whoever logs this must have scrubbed it.
        shown = request.headers.get("Authorization", "")
        return error_response(401, f"incorrect API key provided: {shown}", "invalid_api_key")

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            refused = self._refused(request)
            return await handler(request) if refused is None else refused

        return guarded


@contextmanager
def running_standin(faults: Faults | None = None, api_key: str | None = None, port: int = 0) -> Iterator[Standin]:
    """A stand-in on loopback while the context lasts, on a thread of this process, so it cannot outlive it."""
    standin = Standin(faults or Faults(), api_key)
    started = threading.Event()
    trouble: list[BaseException] = []
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(standin.app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            standin.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            started.set()
            await over.wait()
        finally:
            await runner.cleanup()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except OSError as error:
            trouble.append(error)
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run, name="stand-in-teacher", daemon=True)
    thread.start()
    started.wait()
    if trouble:
        raise RuntimeError(f"The stand-in teacher cannot listen on 127.0.0.1:{port}: {trouble[0]}.") from trouble[0]
    try:
        yield standin
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def main(arguments: list[str] | None = None) -> None:
    """Run the stand-in until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.standin.server", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--port", type=int, default=0, help="port on loopback (0: any free one)")
    for option in fields(Faults):
        kind = int if option.name in ("seed", "context_tokens", "quota") else float
        name = f"--{option.name.replace('_', '-')}"
        parser.add_argument(name, type=kind, default=option.default, help=option.metadata["help"])
    chosen = vars(parser.parse_args(arguments))
    with running_standin(port=chosen.pop("port"), faults=Faults(**chosen)) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
