"""The stand-in teacher: a loopback server that speaks the OpenAI protocol and answers from lexical evidence.

    python -m inference.standin --port 8077          # prints its address, runs until interrupted

    with running_standin() as server:                # in this process, on a free port, on a thread of its own
        ... server.base_url ...

It takes the teacher's place where no endpoint can be reached, so that every other part runs as it would with one. It
is not a language model: its name stands in `model` and its version in `system_fingerprint` of every answer. Faults
are injected on request and decided by a hash of seed, prompt and attempt, so a run repeats and a retry can succeed.

Absent on purpose: streaming, tools, several choices, sampling (temperature and seed change nothing).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from aiohttp import web

from inference.exchange import canonical_json
from inference.standin_answers import VERSION, Said, answer

MODEL = "stand-in-teacher"
_TOKEN = re.compile(r"\w+|[^\w\s]")
GARBAGE = ("[1] > [1] > [99]", "The passages are all of interest.", "[2 > 1", "1, 2, 3", "[0]")


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as shares of all requests; they add up, in this order, and the rest is answered well."""

    latency_s: float = field(default=0.0, metadata={"help": "seconds before every answer"})
    rate_429: float = field(default=0.0, metadata={"help": "share answered 429"})
    retry_after_s: float | None = field(default=None, metadata={"help": "Retry-After of the 429s (none: no header)"})
    rate_500: float = field(default=0.0, metadata={"help": "share answered 500"})
    rate_reset: float = field(default=0.0, metadata={"help": "share whose connection is reset"})
    rate_cutoff: float = field(default=0.0, metadata={"help": "share cut off half-way, finish_reason length"})
    rate_garbage: float = field(default=0.0, metadata={"help": "share whose text is not in the form asked for"})
    seed: int = field(default=0, metadata={"help": "seed of the choice"})

    def pick(self, prompt: str, attempt: int) -> str:
        """The fault of a prompt's n-th request: "429", "500", "reset", "cutoff", "garbage" or "none"."""
        digest = hashlib.sha256(f"{self.seed}\n{attempt}\n{prompt}".encode("utf-8", "replace")).digest()
        mark = int.from_bytes(digest[:8]) / 2**64
        for name in ("429", "500", "reset", "cutoff", "garbage"):
            mark -= float(getattr(self, f"rate_{name}"))
            if mark < 0:
                return name
        return "none"


@dataclass
class Standin:
    """A running stand-in; `counts` says how many requests ended how ("answered" counts all that came with a text)."""

    faults: Faults = Faults()
    api_key: str | None = None
    base_url: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    _attempts: Counter[str] = field(default_factory=Counter)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/healthz", self._health)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": VERSION, "counts": dict(self.counts)})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "rankmill"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            self.counts["401"] += 1
            # Real endpoints quote the key that they refuse; whoever logs this must have scrubbed it.
            return _error(401, f"incorrect API key provided: {request.headers.get('Authorization', '')}")
        try:
            body = await request.json()
            messages, model = body["messages"], body["model"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            return _error(400, f"not a chat completion request: {error!r}")
        if model != MODEL:
            return _error(404, f"the model {model!r} does not exist here; this server has {MODEL!r}")
        fault = self._fault_of(messages)
        if self.faults.latency_s:
            await asyncio.sleep(self.faults.latency_s)
        if fault == "429":
            self.counts["429"] += 1
            after = self.faults.retry_after_s
            return _error(429, "rate limit reached", {} if after is None else {"Retry-After": f"{after:g}"})
        if fault == "500":
            self.counts["500"] += 1
            return _error(500, "the server had an error")
        if fault == "reset" and request.transport is not None:
            self.counts["reset"] += 1
            request.transport.abort()
            return web.Response()
        self.counts["answered"] += 1
        if fault != "none":
            self.counts[fault] += 1
        return web.json_response(_completion(messages, answer(messages), fault, body.get("max_tokens")))

    def _fault_of(self, messages: list[dict[str, str]]) -> str:
        if self.faults == Faults(latency_s=self.faults.latency_s):
            return "none"
        prompt = hashlib.sha256(canonical_json(messages).encode("utf-8", "replace")).hexdigest()
        self._attempts[prompt] += 1
        return self.faults.pick(prompt, self._attempts[prompt])


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
    parser = argparse.ArgumentParser(prog="python -m inference.standin", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="port on loopback (0: any free one)")
    for option in fields(Faults):
        kind = int if option.name == "seed" else float
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


def _completion(messages: list[dict[str, str]], said: Said, fault: str, max_tokens: int | None) -> dict[str, Any]:
    reasoning, content, finish = said.reasoning, said.content, "stop"
    if fault == "garbage":
        content = GARBAGE[len(content) % len(GARBAGE)]
    if fault == "cutoff":
        content, finish = content[: len(content) // 2], "length"
    spent = _tokens(reasoning)
    if max_tokens is not None and spent + _tokens(content) > max_tokens:
        finish = "length"
        reasoning = _first_tokens(reasoning, max_tokens)
        content = _first_tokens(content, max(0, max_tokens - spent))
    prompt, completed = sum(_tokens(m.get("content") or "") for m in messages), _tokens(reasoning) + _tokens(content)
    identity = hashlib.sha256(canonical_json(messages).encode("utf-8", "replace")).hexdigest()[:24]
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "system_fingerprint": VERSION,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content, "reasoning_content": reasoning},
            }
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed},
    }


def _tokens(text: str) -> int:
    return len(_TOKEN.findall(text))


def _first_tokens(text: str, count: int) -> str:
    matches = list(_TOKEN.finditer(text))
    return text if len(matches) <= count else text[: matches[count].start()]


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "error"}}, status=status, headers=headers)


if __name__ == "__main__":
    main()
