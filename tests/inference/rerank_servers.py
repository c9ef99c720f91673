"""A rerank server over real HTTP with the cheap reranker behind it, on a thread of the test's own.

with serving_reranker(most_requests=4) as server: requests to server.url; server.tasks() counts what runs in its loop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.server.app import RerankServer, ServerSettings
from inference.server.running import run_server

CHEAP = Path(__file__).with_name("cheap_reranker.py")
DOCUMENTS = [
    "rivers run to the sea",
    "salt makes the sea salty",
    "bridges",
    "the sea is salt because rivers carry salt",
]


@dataclass
class Served:
    """A running server."""

    url: str
    app: RerankServer
    loop: asyncio.AbstractEventLoop
    trouble: list[BaseException] = field(default_factory=list)

    def ask(self, path: str = "/v1/rerank", key: str | None = None, **body: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, body and headers of a POST of `body`."""
        return self.send(json.dumps({"query": "salt sea", "documents": DOCUMENTS} | body).encode(), path, key)

    def send(self, content: bytes, path: str = "/v1/rerank", key: str | None = None, **headers: str) -> Any:
        """The same, of these bytes."""
        headers = {"Content-Type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return self._open(urllib.request.Request(self.url + path, content, headers))

    def get(self, path: str, key: str | None = None) -> tuple[int, Any, Any]:
        """Status, body and headers of a GET."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        return self._open(urllib.request.Request(self.url + path, headers=headers))

    def figure(self, name: str, **labels: str) -> float:
        """A figure of /metrics, 0 where it is not there."""
        text = self.get("/metrics")[1]
        shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
        wanted = f"rankmill_rerank_{name}{{{shown}}} " if shown else f"rankmill_rerank_{name} "
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted)), 0.0)

    def tasks(self) -> int:
        """Tasks in the server's loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(5)

    def _open(self, request: urllib.request.Request) -> tuple[int, Any, Any]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content, status, headers = answer.read(), answer.status, answer.headers
        except urllib.error.HTTPError as error:
            content, status, headers = error.read(), error.code, error.headers
        if headers.get_content_type() == "application/json":
            return status, json.loads(content), headers
        return status, content.decode(), headers


@contextmanager
def serving_reranker(*options: str, wait: bool = True, **settings: Any) -> Iterator[Served]:
    """A server while the context lasts; with `wait`, its reranker is ready."""
    found: list[Served] = []
    started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    trouble: list[BaseException] = []

    def on_address(url: str, app: RerankServer) -> None:
        found.append(Served(url, app, loop, trouble))
        started.set()

    def run() -> None:
        chosen = ServerSettings(**{"names": ("toy", "reasonrank/rl"), "drain_s": 5.0, **settings})
        command = [sys.executable, str(CHEAP), *options]
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run_server(chosen, command, "127.0.0.1", 0, stop, on_address))
        except Exception as error:  # noqa: BLE001  shown to the test
            trouble.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    if not found:
        raise trouble[0]
    try:
        if wait:
            until(lambda: found[0].app.ranker.ready)
        yield found[0]
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(15)
        assert not thread.is_alive()


def until(holds: Any, seconds: float = 10.0) -> None:
    """Wait until `holds()`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)
