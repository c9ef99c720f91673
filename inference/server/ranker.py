"""A reranker in a process of its own, asked over its pipes.

    ranker = RankerProcess([sys.executable, "-m", "training.serving", job])
    running = asyncio.create_task(ranker.run())
    await ranker.until_ready()
    ranking = await ranker.rank("why is the sea salt", ["…", "…"])

Any program may be the other side: it reads a JSON object a line and writes one (`training.serving` has the form). It
is given no secret, and ends with its input. Giving up a `rank` (cancelling the task) gives up the list over there. A
process that dies fails what it was asked and is started again, unless it dies again and again without an answer.

Absent on purpose: a bound on what may wait here; whoever asks has one (`desk`, or a number in flight).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

log = logging.getLogger(__name__)
MOST_DEATHS = 3  # in a row, without an answer between them
_PAUSE_S = 0.5
_GRACE_S = 5.0
_LONGEST_LINE = 2**24
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS|_KEY_ID)$", re.IGNORECASE)


class NotReady(Exception):
    """The model is still being loaded."""


class RankerDied(Exception):
    """The model's process ended before it answered."""


class RankerUnusable(Exception):
    """The model's process cannot be kept running; its own output says why."""


class ListRefused(Exception):
    """The model cannot read this list; the message says why."""


@dataclass(frozen=True)
class Ranking:
    """The new order of a list (0-based, best first) and what it took; `malformed` counts unreadable answers by kind.

    `scores` go with the order, falling, from 0 to 1; None where the model gives none. `rounds` are calls that waited
    for one another, `seconds` what the model was kept busy.
    """

    order: tuple[int, ...]
    calls: int
    malformed: dict[str, int]
    input_tokens: int
    output_tokens: int
    scores: tuple[float, ...] | None = None
    rounds: int = 0
    seconds: float = 0.0


class RankerProcess:
    """A process that orders lists, and what it still owes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.starts = 0
        self.about: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._owed: dict[int, tuple[int, asyncio.Future[Ranking]]] = {}
        self._next = 0
        self._ready = asyncio.Event()
        self._deaths = 0
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether a list can be asked now."""
        return self._ready.is_set()

    async def until_ready(self) -> None:
        """Wait until the weights are loaded."""
        await self._ready.wait()

    async def rank(self, query: str, documents: Sequence[str]) -> Ranking:
        """The order of `documents`. Raises NotReady, RankerDied, ListRefused."""
        process = self._process
        if not self.ready or process is None or process.stdin is None:
            raise NotReady
        self._next += 1
        number = self._next
        future: asyncio.Future[Ranking] = asyncio.get_running_loop().create_future()
        self._owed[number] = (len(documents), future)
        # Written without waiting: the other side reads at once, and whoever asks bounds how much there can be.
        process.stdin.write(orjson.dumps({"id": number, "query": query, "documents": documents}) + b"\n")
        try:
            return await future
        except asyncio.CancelledError:
            if number in self._owed and process is self._process:
                process.stdin.write(orjson.dumps({"cancel": number}) + b"\n")
            raise
        finally:
            self._owed.pop(number, None)

    async def run(self) -> None:
        """Keep the process running until `close`. Raises RankerUnusable when it cannot be."""
        while not self._closing:
            self.starts += 1
            code = await self._live()
            if self._closing:
                return
            if not self.about:
                raise RankerUnusable(f"the model's process ended with {code} before it was ready; see its output above")
            self._deaths += 1
            if self._deaths > MOST_DEATHS:
                raise RankerUnusable(
                    f"the model's process died {self._deaths} times without an answer; it ended {code}"
                )
            log.error("the model's process ended with %s; it is started again", code)
            await asyncio.sleep(_PAUSE_S * 2**self._deaths)

    async def close(self) -> None:
        """End the process: by its input, and by force where that is not enough."""
        self._closing = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _GRACE_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _live(self) -> int:
        """One life of the process; its exit status."""
        environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is for the server, which lets running requests finish first
        )
        self._process = process
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._heard(line)
        except ValueError as error:
            log.error("the model's process said what nobody can read: %s", error)
            process.kill()
        finally:
            self._ready.clear()
            if process.returncode is None and self._process is process and not self._closing:
                process.kill()
            code = await process.wait()
            for _, future in self._owed.values():
                if not future.done():
                    future.set_exception(RankerDied(f"the model's process ended with {code}"))
        return code

    def _heard(self, line: bytes) -> None:
        message = orjson.loads(line)  # a ValueError where it is no JSON
        if not isinstance(message, dict):
            raise ValueError(f"{message!r} is no object")
        if "ready" in message:
            self.about = {"since": self.starts, **message["ready"]}
            self._ready.set()
            return
        count, future = self._owed.get(message.get("id", 0), (0, None))
        if future is None or future.done():  # given up meanwhile
            return
        self._deaths = 0
        if "refused" in message:
            future.set_exception(ListRefused(str(message["refused"])))
        else:
            future.set_result(_ranking(message, count))


def _ranking(message: dict[str, Any], count: int) -> Ranking:
    """What the process said of a list; an order that is none keeps the list's own, and is counted."""
    order, malformed = message.get("order"), Counter[str](message.get("malformed") or {})
    if (
        not isinstance(order, list)
        or any(type(place) is not int for place in order)
        or sorted(order) != [*range(count)]
    ):
        order, message = range(count), {**message, "scores": None}
        malformed["order"] += 1
    return Ranking(
        order=tuple(order),
        calls=int(message.get("calls", 0)),
        malformed=dict(malformed),
        input_tokens=int(message.get("input_tokens", 0)),
        output_tokens=int(message.get("output_tokens", 0)),
        scores=_scores(message.get("scores"), count),
        rounds=int(message.get("rounds", 0)),
        seconds=float(message.get("seconds", 0.0)),
    )


def _scores(said: object, count: int) -> tuple[float, ...] | None:
    """Scores of a list, where they are numbers from 0 to 1 that fall with its order; else none."""
    if not isinstance(said, list) or len(said) != count or any(type(score) not in (int, float) for score in said):
        return None
    falling = all(above >= below for above, below in pairwise([1.0, *said, 0.0]))
    return tuple(map(float, said)) if falling else None
