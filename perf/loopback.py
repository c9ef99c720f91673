"""An OpenAI-compatible server that costs next to nothing, so that a benchmark measures the client.

    python perf/loopback.py [--port 0] [--latency-ms 50]

Its first line on stdout is its address up to and including /v1. Every chat completion is answered, `--latency-ms`
after its last byte came in, with the same bytes: a ranking of 20 passages, about 200 words of reasoning, usage. Of a
request only the frame of HTTP/1.1 is read (keep-alive, Content-Length and chunked bodies, requests sent one behind
the other); a body is skipped unread, whoever sends it. GET /v1/models lists the model. GET /count tells how many
completions were answered, the seconds from the first request to the last answer, and the most in flight at once: what
a client need not be believed. POST /count tells it too, and begins anew.

Absent on purpose: a look at what is asked, streaming, errors, limits and keys. For a teacher that answers what it is
asked, and that fails, there is `inference.standin.server`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from contest import run

MODEL = "loopback"
PASSAGES = 20
RANKING = " > ".join(f"[{1 + (7 * place + 2) % PASSAGES}]" for place in range(PASSAGES))
REASONING = " ".join(
    f"Passage [{place}] names the thing that is asked about, yet it gives no cause, so it helps less than a passage "
    "with one would."
    for place in range(1, 10)
)
BACKLOG = 4096


@dataclass
class Count:
    """What the server has seen."""

    served: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    first_in: float = 0.0
    last_out: float = 0.0

    def come_in(self) -> None:
        if not self.first_in:
            self.first_in = time.monotonic()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def go_out(self) -> None:
        self.in_flight -= 1
        self.served += 1
        self.last_out = time.monotonic()

    def begin_anew(self) -> None:
        self.served = self.most_in_flight = 0
        self.first_in = self.last_out = 0.0

    def seen(self) -> dict[str, float]:
        """What GET /count answers."""
        seconds = self.last_out - self.first_in if self.served else 0.0
        return {"served": self.served, "seconds": seconds, "most_in_flight": self.most_in_flight}


class Connection(asyncio.Protocol):
    """One connection of a client, which may carry any number of requests."""

    def __init__(self, count: Count, latency_s: float) -> None:
        self._count = count
        self._latency_s = latency_s
        self._received = bytearray()
        self._wanted = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: answer every request that is complete by now."""
        self._received += data
        # A body that is known to be longer than what is here is not searched again.
        while len(self._received) > self._wanted and (length := self._length()):
            target = bytes(self._received[: self._received.find(b" HTTP/")])
            del self._received[:length]
            self._wanted = 0
            self._answer(target)

    def _length(self) -> int:
        """The bytes of the first request received; 0 while it is incomplete."""
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return 0
        head = bytes(self._received[:head_end]).lower()
        body = head_end + 4
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            body += int(head[at + 17 :].split(b"\r\n", 1)[0])
        elif b"\r\ntransfer-encoding: chunked" in head:
            return self._chunked_end(body)
        self._wanted = body - 1
        return body if len(self._received) >= body else 0

    def _chunked_end(self, at: int) -> int:
        """Where the chunked body that begins at `at` ends; 0 while it is incomplete. Trailers are not understood."""
        while (line_end := self._received.find(b"\r\n", at)) >= 0:
            size = int(self._received[at:line_end].split(b";", 1)[0], 16)
            at = line_end + 2 + size + 2
            if size == 0:
                break
        else:
            return 0
        return at if len(self._received) >= at else 0

    def _answer(self, target: bytes) -> None:
        if target.startswith(b"POST ") and target.endswith(b"/chat/completions"):
            self._count.come_in()
            if self._latency_s > 0:
                self._loop.call_later(self._latency_s, self._complete)
            else:
                self._complete()
        elif target in (b"GET /count", b"POST /count"):
            self._write(http(self._count.seen()))
            if target.startswith(b"POST "):
                self._count.begin_anew()
        elif target == b"GET /v1/models":
            self._write(http({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "perf"}]}))
        else:
            self._write(http({"error": {"message": "there is nothing here"}}, "404 Not Found"))

    def _complete(self) -> None:
        self._count.go_out()
        self._write(COMPLETION)

    def _write(self, response: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


def http(content: Any, status: str = "200 OK") -> bytes:
    """An HTTP response with a JSON body."""
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


COMPLETION = http(
    {
        "id": "chatcmpl-loopback",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": RANKING, "reasoning_content": REASONING},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1500, "completion_tokens": 350, "total_tokens": 1850},
    }
)


@contextmanager
def loopback(latency_ms: float) -> Iterator[str]:
    """A fresh server in a process of its own for the length of a `with` block; gives its address."""
    command = [sys.executable, str(Path(__file__).resolve()), "--latency-ms", str(latency_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


async def serve(port: int, latency_ms: float) -> None:
    """Serve until cancelled."""
    count = Count()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(count, latency_ms / 1000), "127.0.0.1", port, backlog=BACKLOG)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A cheap OpenAI-compatible server for benchmarks.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--latency-ms", type=float, default=50.0, help="from the end of a request to its answer")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        run(serve(given.port, given.latency_ms))
