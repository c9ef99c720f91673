"""The stand-in teacher's `/v1/batches`, as OpenAI's Batch API behaves.

A batch goes validating -> in_progress -> finalizing -> completed over `batch_delay_s`; an input file with a wrong
line ends it as failed, a cancellation as cancelled, and with `batch_expire_share` it ends as expired, with that share
of its lines not run. Every line is answered by the code that answers live requests, with their faults: an answer with
an error status goes to the error file, as does a line whose connection would have broken (`request_timeout`) or that
was not run (`batch_expired`, `batch_cancelled`). A 200 without a chat completion in it goes to the output file, where
a client has to notice. Lines come in another order than they were sent in; a file without lines is not made.

Absent on purpose: endpoints other than chat completions, latency per line, batches that outlive the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from inference.standin.batch_input import Line, error, read_lines
from inference.standin.faults import ON_THE_WIRE, OTHER_SHAPES, Faults, Reply, error_response
from inference.standin.files import Files, Route, page

ENDPOINT, WINDOW, WINDOW_S = "/v1/chat/completions", "24h", 86_400
ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
# Shares of the delay: validating before, finalizing after; between them the lines are run.
VALIDATING, FINALIZING = 0.1, 0.1
_STAMPS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_NOT_RUN = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "The batch was cancelled before this request executed.",
}


@dataclass
class Batch:
    """One batch as it stands now; the time of every status it has had is in `reached`."""

    input_file_id: str
    metadata: Mapping[str, str] | None
    created_at: int
    expires_at: int
    id: str = field(default_factory=lambda: f"batch_{secrets.token_hex(12)}")
    status: str = "validating"
    reached: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def become(self, status: str) -> None:
        """Go on to a status, now."""
        self.status = status
        self.reached[status] = int(time.time())

    def shown(self) -> dict[str, Any]:
        """The batch object of the API."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{f"{stamp}_at": self.reached.get(stamp) for stamp in _STAMPS},
            "request_counts": {name: self.counts[name] for name in ("total", "completed", "failed")},
            "metadata": self.metadata,
        }


@dataclass
class Batches:
    """The batches of one server; `answer` answers the body of a line."""

    files: Files
    answer: Callable[[dict[str, Any]], Reply]
    model: str
    faults: Faults
    _kept: dict[str, Batch] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _submitted: Counter[bytes] = field(default_factory=Counter)

    def routes(self) -> list[Route]:
        """Method, path and handler of all that is spoken here."""
        return [
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/{id}", self._show),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ]

    async def stop(self) -> None:
        """Leave all batches where they stand."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = await request.json()
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return error_response(400, "We could not parse the JSON body of your request.")
        for name in ("input_file_id", "endpoint", "completion_window"):
            if name not in asked:
                return error_response(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
        for name, allowed in (("endpoint", ENDPOINT), ("completion_window", WINDOW)):
            if asked[name] != allowed:
                message = f"Invalid value: {asked[name]!r}. Supported values are: '{allowed}' ({name})."
                return error_response(400, message, "invalid_value", name)
        metadata = asked.get("metadata")
        if metadata is not None and not (
            isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        ):
            message = "Invalid type for 'metadata': expected strings under strings."
            return error_response(400, message, "invalid_type", "metadata")
        now = int(time.time())
        window_s = math.ceil(self.faults.batch_delay_s) if self.faults.batch_expire_share > 0 else WINDOW_S
        batch = Batch(str(asked["input_file_id"]), metadata, now, now + window_s)
        self._kept[batch.id] = batch
        task = asyncio.create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(batch.shown())

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return page(request, [batch.shown() for batch in self._kept.values()], 20)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        batch = self._kept.get(request.match_info["id"])
        return _no_batch(request) if batch is None else web.json_response(batch.shown())

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self._kept.get(request.match_info["id"])
        if batch is None:
            return _no_batch(request)
        if batch.status in ENDED - {"cancelled"}:
            return error_response(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if not batch.cancelled.is_set():
            batch.cancelled.set()
            batch.become("cancelling")
        return web.json_response(batch.shown())

    async def _run(self, batch: Batch) -> None:
        delay_s = self.faults.batch_delay_s
        await _pause(batch, VALIDATING * delay_s)
        file = self.files.get(batch.input_file_id)
        lines: list[Line] = []
        if file is None:
            message = f"Cannot find file {batch.input_file_id}, or you do not have access to it."
            batch.errors = [error("invalid_request", message, "file_id")]
        else:
            lines, batch.errors = read_lines(file.data, ENDPOINT, self.model)
        if batch.errors:
            batch.become("failed")
            return
        batch.counts["total"] = len(lines)
        if not batch.cancelled.is_set():
            batch.become("in_progress")
        undone = self._undone(lines)
        output, errors = await self._work(batch, [line for line in lines if line.custom_id not in undone])
        if not batch.cancelled.is_set():
            batch.become("finalizing")
        # A batch is cancelling for a while, too, until what is under way has ended.
        await asyncio.sleep(FINALIZING * delay_s)
        ending = "cancelled" if batch.cancelled.is_set() else "expired" if undone else "completed"
        answered = {line["custom_id"] for line in [*output, *errors]}
        left = [line for line in lines if line.custom_id not in answered]
        code = "batch_cancelled" if batch.cancelled.is_set() else "batch_expired"
        errors += [_output_line(batch, line, None, {"code": code, "message": _NOT_RUN[code]}) for line in left]
        batch.counts["failed"] += len(left)
        batch.output_file_id = self._written(batch, "output", output)
        batch.error_file_id = self._written(batch, "error", errors)
        batch.become(ending)

    async def _work(self, batch: Batch, lines: Sequence[Line]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Answer the lines, evenly over the time there is, until the batch is cancelled."""
        output: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        span_s, started = (1 - VALIDATING - FINALIZING) * self.faults.batch_delay_s, time.monotonic()
        for place, line in enumerate(lines, 1):
            await _pause(batch, started + span_s * place / len(lines) - time.monotonic())
            if batch.cancelled.is_set():
                break
            done, shown = _answered(batch, line, self.answer(line.body))
            (output if done else errors).append(shown)
            batch.counts["completed" if done else "failed"] += 1
        return output, errors

    def _undone(self, lines: Sequence[Line]) -> Collection[str]:
        """The custom ids that are not run because the batch expires; another submission draws others."""
        share = self.faults.batch_expire_share
        if share <= 0:
            return ()
        content = _digest(*(line.custom_id for line in lines))
        self._submitted[content] += 1
        mark = f"{self.faults.seed} {self._submitted[content]} {content.hex()}"
        count, rest = divmod(min(1.0, share) * len(lines), 1)
        # The odd part of a line is drawn, so that a line that is sent again and again is run in the end.
        count += int.from_bytes(_digest(mark)[:8]) / 2**64 < rest
        ids = sorted((line.custom_id for line in lines), key=lambda custom_id: _digest(mark, custom_id))
        return set(ids[: int(count)])

    def _written(self, batch: Batch, name: str, lines: list[dict[str, Any]]) -> str | None:
        if not lines:
            return None
        shuffled = sorted(lines, key=lambda line: _digest(line["custom_id"]))
        data = "".join(f"{json.dumps(line)}\n" for line in shuffled).encode()
        return self.files.add(f"{batch.id}_{name}.jsonl", "batch_output", data).id


def _answered(batch: Batch, line: Line, reply: Reply) -> tuple[bool, dict[str, Any]]:
    """Whether the line counts as completed, and what stands in the file."""
    body = reply.body
    if reply.draw.kind == "wrong_json":
        body = OTHER_SHAPES[reply.draw.variant % len(OTHER_SHAPES)]
    elif reply.draw.kind in ON_THE_WIRE:
        trouble = {"code": "request_timeout", "message": "The underlying call to the model timed out."}
        return False, _output_line(batch, line, None, trouble)
    identity = f"req_{_digest(batch.id, line.custom_id).hex()[:32]}"
    response = {"status_code": reply.status, "request_id": identity, "body": body}
    return reply.status < 400, _output_line(batch, line, response, None)


def _output_line(
    batch: Batch, line: Line, response: dict[str, Any] | None, trouble: dict[str, str] | None
) -> dict[str, Any]:
    identity = f"batch_req_{_digest(batch.id, line.custom_id).hex()[:24]}"
    return {"id": identity, "custom_id": line.custom_id, "response": response, "error": trouble}


async def _pause(batch: Batch, seconds: float) -> None:
    """Sleep, but no longer than until the batch is cancelled; always let others run."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(batch.cancelled.wait(), seconds)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).digest()


def _no_batch(request: web.Request) -> web.Response:
    return error_response(404, f"No batch found with id '{request.match_info['id']}'.", None, "id")
