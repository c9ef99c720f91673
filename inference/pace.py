"""How many requests are in flight: additive increase, multiplicative decrease, and Retry-After.

`Pace.slot()` is entered for every HTTP request. The limit doubles per round trip until the endpoint first pushes
back, then grows by one per round trip; a push-back halves it, once for all requests that were sent under the same
limit. A Retry-After holds every sender, since it speaks for the endpoint and not for one request.

Absent on purpose: requests and tokens per minute, and a circuit breaker for endpoints that answer badly.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel, ConfigDict, Field


class PaceSettings(BaseModel):
    """How hard an endpoint may be pushed, and how long a request is tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_in_flight: int = Field(64, ge=1, description="most requests in flight at once")
    start_in_flight: int = Field(8, ge=1, description="requests in flight at the start")
    max_attempts: int = Field(6, ge=1, description="HTTP requests for one answer before it counts as a failure")
    backoff_base_s: float = Field(0.5, ge=0, description="mean wait after the first failed attempt; doubles each time")
    backoff_cap_s: float = Field(30.0, ge=0, description="longest wait that is not asked for by the endpoint")


class Pace:
    """The limit on requests in flight for one endpoint and model; one event loop."""

    def __init__(self, settings: PaceSettings) -> None:
        self.limit = float(min(settings.start_in_flight, settings.max_in_flight))
        self.in_flight = 0
        self.settings = settings
        self._climbing = True
        self._held_until = 0.0
        self._last_cut = 0.0
        self._queue: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for room; gives the time of entry, to be handed back to `slow_down`."""
        while True:
            hold = self._held_until - time.monotonic()
            if hold > 0:
                await asyncio.sleep(hold)
            elif self.in_flight < int(self.limit):
                break
            else:
                await self._wait_in_line()
        self.in_flight += 1
        try:
            yield time.monotonic()
        finally:
            self.in_flight -= 1
            self._wake()

    async def _wait_in_line(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._queue:
                self._queue.remove(turn)
            else:
                self._wake()
            raise

    def _wake(self) -> None:
        room = int(self.limit) - self.in_flight
        while room > 0 and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1

    def speed_up(self) -> None:
        """An answer came: allow more."""
        self.limit = min(self.settings.max_in_flight, self.limit + (1.0 if self._climbing else 1.0 / self.limit))

    def slow_down(self, entered: float, retry_after_s: float | None) -> None:
        """The endpoint pushed back on a request that entered at `entered`: allow less, and wait if it says so."""
        self._climbing = False
        if entered >= self._last_cut:
            self.limit = max(1.0, self.limit / 2)
            self._last_cut = time.monotonic()
        if retry_after_s is not None:
            self._held_until = max(self._held_until, time.monotonic() + retry_after_s)


def backoff_s(settings: PaceSettings, attempt: int, retry_after_s: float | None) -> float:
    """The wait after failed attempt number `attempt` (from 1): exponential, half of it jitter, Retry-After at least."""
    wait = min(settings.backoff_cap_s, settings.backoff_base_s * 2.0 ** (attempt - 1))
    return max(wait * random.uniform(0.5, 1.5), retry_after_s or 0.0)
