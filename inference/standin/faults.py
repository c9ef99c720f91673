"""What the stand-in teacher does wrong, how long it takes, and what a spoilt answer looks like on the wire.

`Faults` holds a share for every kind of fault; `draw` decides by a hash of seed, prompt and attempt, so a run repeats
and a retry can succeed. The same hash gives the latency and, where a kind has several forms, the form. Faults of the
text (cut off, empty, refused, garbage, interrupted) are made in `completions`; here are those of the transport.

Absent on purpose: faults of anything but chat completions (files, batches and the list of models always answer).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import Any

from aiohttp import web

KINDS = (
    "429", "429_bare", "500", "reset", "half_body", "slow", "wrong_json", "cutoff", "empty", "refusal", "garbage",
    "interrupted",
)  # fmt: skip
# These come as a chat completion all the same, and so are charged for.
ANSWERED = frozenset({"none", "cutoff", "empty", "refusal", "garbage"})
# These concern the connection or the bytes, and a client sees them only over HTTP.
ON_THE_WIRE = frozenset({"reset", "half_body", "slow", "wrong_json"})
OTHER_SHAPES: tuple[dict[str, Any], ...] = (
    {"choices": []},
    {"error": {"message": "upstream provider error", "type": "server_error", "param": None, "code": 502}},
)
ERROR_PAGE = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>"


@dataclass(frozen=True)
class Draw:
    """What befalls one request: its kind of fault, which form of it, and the seconds before the answer."""

    kind: str = "none"
    variant: int = 0
    latency_s: float = 0.0


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as shares of all requests; they add up, in this order, and the rest is answered well."""

    latency_s: float = field(default=0.0, metadata={"help": "seconds before an answer (the median)"})
    latency_sigma: float = field(default=0.0, metadata={"help": "log-normal sigma of the latency (0: constant)"})
    rate_429: float = field(default=0.0, metadata={"help": "share answered 429"})
    retry_after_s: float | None = field(default=None, metadata={"help": "Retry-After of the 429s (none: no header)"})
    rate_429_bare: float = field(default=0.0, metadata={"help": "share answered 429 without Retry-After in any case"})
    rate_500: float = field(default=0.0, metadata={"help": "share answered 500"})
    rate_reset: float = field(default=0.0, metadata={"help": "share whose connection is reset"})
    rate_half_body: float = field(default=0.0, metadata={"help": "share that announces a body and sends half of it"})
    rate_slow: float = field(default=0.0, metadata={"help": "share that drips a byte at a time and never ends"})
    drip_s: float = field(default=1.0, metadata={"help": "seconds between two bytes of a dripping answer"})
    rate_wrong_json: float = field(default=0.0, metadata={"help": "share answered 200 with no chat completion in it"})
    rate_cutoff: float = field(default=0.0, metadata={"help": "share cut off half-way, finish_reason length"})
    rate_empty: float = field(default=0.0, metadata={"help": "share with no content, finish_reason stop"})
    rate_refusal: float = field(default=0.0, metadata={"help": "share that refuses, in one of three ways"})
    rate_garbage: float = field(default=0.0, metadata={"help": "share whose text is not in the form asked for"})
    rate_interrupted: float = field(
        default=0.0, metadata={"help": "share that the server gives up half-way and says so"}
    )
    batch_delay_s: float = field(default=0.0, metadata={"help": "seconds a batch takes from creation to its end"})
    batch_expire_share: float = field(default=0.0, metadata={"help": "share of a batch's lines undone as it expires"})
    seed: int = field(default=0, metadata={"help": "seed of the choice"})
    context_tokens: int = field(default=0, metadata={"help": "most tokens of prompt and answer together (0: no limit)"})
    quota: int = field(default=-1, metadata={"help": "answers until the account has no quota left (-1: never)"})

    @cached_property
    def drawn(self) -> bool:
        """Whether anything depends on the request; where nothing does, no hash need be made."""
        return self.latency_sigma > 0 or any(share > 0 for _, share in self._shares)

    @cached_property
    def _shares(self) -> tuple[tuple[str, float], ...]:
        return tuple((kind, float(getattr(self, f"rate_{kind}"))) for kind in KINDS)

    def pick(self, prompt: str, attempt: int) -> str:
        """The fault of a prompt's n-th request: one of KINDS, or "none"."""
        return self.draw(prompt, attempt).kind

    def draw(self, prompt: str, attempt: int) -> Draw:
        """What befalls a prompt's n-th request."""
        digest = hashlib.sha256(f"{self.seed}\n{attempt}\n{prompt}".encode("utf-8", "replace")).digest()
        return Draw(self._kind(digest[:8]), int.from_bytes(digest[8:16]), self._latency_s(digest[16:24]))

    def _kind(self, digest: bytes) -> str:
        mark = int.from_bytes(digest) / 2**64
        for kind, share in self._shares:
            mark -= share
            if mark < 0:
                return kind
        return "none"

    def _latency_s(self, digest: bytes) -> float:
        if self.latency_sigma <= 0:
            return self.latency_s
        # 52 bits and a half lie strictly between 0 and 1, where the quantile is finite.
        quantile = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52
        return self.latency_s * math.exp(self.latency_sigma * NormalDist().inv_cdf(quantile))


@dataclass(frozen=True)
class Reply:
    """What is sent for one chat completion request; under a fault of the wire `body` is what would have been sent."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    draw: Draw = Draw()


def refusal_of(draw: Draw, faults: Faults) -> Reply | None:
    """The answer with an error status that was drawn, or None."""
    if draw.kind in ("429", "429_bare"):
        after = faults.retry_after_s if draw.kind == "429" else None
        headers = {} if after is None else {"Retry-After": f"{after:g}"}
        return Reply(429, error_body("rate limit reached", "rate_limit_exceeded"), headers, draw)
    if draw.kind == "500":
        return Reply(500, error_body("the server had an error"), {}, draw)
    return None


def error_body(message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error as OpenAI words it."""
    return {"error": {"message": message, "type": "error", "param": param, "code": code}}


def error_response(status: int, message: str, code: str | None = None, param: str | None = None) -> web.Response:
    """An error as OpenAI words it."""
    return web.json_response(error_body(message, code, param), status=status)


async def spoilt(request: web.Request, reply: Reply, drip_s: float, stopping: asyncio.Event) -> web.StreamResponse:
    """Answer with a fault of the wire; a dripping answer ends as `stopping` is set or as the client leaves."""
    if reply.draw.kind == "half_body":
        return await _half(request, json.dumps(reply.body).encode())
    if reply.draw.kind == "slow":
        return await _drip(request, drip_s, stopping)
    if reply.draw.kind == "wrong_json":
        return _wrong(reply.draw.variant, json.dumps(reply.body))
    if request.transport is not None and (connection := request.transport.get_extra_info("socket")) is not None:
        # Without lingering the kernel sends a reset; a mere close would look like a polite end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _abort(request)
    return web.Response()


async def _half(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _drip(request: web.Request, drip_s: float, stopping: asyncio.Event) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with suppress(ConnectionError):
        while not stopping.is_set():
            # White space may open a JSON text, so the client cannot know that nothing will follow.
            await response.write(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), drip_s)
    _abort(request)
    return response


def _wrong(variant: int, completion: str) -> web.Response:
    forms = (completion[: len(completion) // 2], ERROR_PAGE, *(json.dumps(shape) for shape in OTHER_SHAPES))
    text = forms[variant % len(forms)]
    return web.Response(text=text, content_type="text/html" if text == ERROR_PAGE else "application/json")


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
