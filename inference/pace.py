"""How hard an endpoint is pushed: requests in flight, requests and tokens a minute, and Retry-After.

`enter` comes before every HTTP request and `leave` after it. The limit doubles per round trip until the endpoint
first pushes back, then grows by one per round trip; a push-back halves it, once for all requests that were sent under
the same limit, so that one bad moment does not cascade. A Retry-After holds every sender, since it speaks for the
endpoint and not for one request: nobody enters until it is over, and `enter` does not wait for that, so that its caller
can let go of what it holds.

Absent on purpose: sharing a rate among processes. Several processes on one key each need their part of it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque

from pydantic import BaseModel, ConfigDict, Field

ASSUMED_TOKENS_PER_S = 30  # what a teacher writes, as long as none has been seen


class PaceSettings(BaseModel):
    """How hard an endpoint may be pushed, and how long a request is tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_in_flight: int = Field(64, ge=1, description="Most requests in flight at once.")
    start_in_flight: int = Field(8, ge=1, description="Requests in flight at the start.")
    requests_per_minute: float | None = Field(None, gt=0, description="Most requests sent a minute; null: no limit.")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Most tokens a minute, prompt and completion together; null: no limit."
    )
    max_attempts: int = Field(6, ge=1, description="HTTP requests for one answer before it counts as a failure.")
    deadline_s: float | None = Field(
        None, gt=0, description="Longest time for one answer over all its attempts; null: no limit but max_attempts."
    )
    backoff_base_s: float = Field(0.5, ge=0, description="Mean wait after the first failed attempt; doubles each time.")
    backoff_cap_s: float = Field(30.0, ge=0, description="Longest wait that is not asked for by the endpoint.")


class Pace:
    """The limits on one model of one endpoint; one event loop."""

    def __init__(self, settings: PaceSettings) -> None:
        self.limit = float(min(settings.start_in_flight, settings.max_in_flight))
        self.settings = settings
        self.requests = Allowance(settings.requests_per_minute)
        self.tokens = Allowance(settings.tokens_per_minute)
        self._sent: dict[float, None] = {}
        self._climbing = True
        self._paused_until = 0.0
        self._last_cut = 0.0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """HTTP requests on their way."""
        return len(self._sent)

    @property
    def oldest_s(self) -> float:
        """Age in seconds of the oldest request on its way; 0 with none."""
        return time.monotonic() - next(iter(self._sent)) if self._sent else 0.0

    @property
    def paused_s(self) -> float:
        """Seconds for which a Retry-After still holds every sender."""
        return max(0.0, self._paused_until - time.monotonic())

    async def enter(self, tokens: int = 0, until: float = math.inf) -> float | None:
        """Wait for room for a request of about `tokens`; gives the time of entry, which `leave` must be told.

        None, and nothing has been entered, where there is no room before `until` (of time.monotonic) or `paused_s` is
        more than nothing.
        """
        while not self.paused_s:
            if self.in_flight >= int(self.limit):
                if not await self._wait_in_line(until):
                    return None
                continue
            wait = max(self.requests.wait_s(), self.tokens.wait_s())
            if wait <= 0:
                return self._entered(tokens)
            if (left := until - time.monotonic()) <= 0:
                self._wake()  # the room that it leaves is another's
                return None
            await asyncio.sleep(min(wait, left))
        return None

    def _entered(self, tokens: int) -> float:
        self.requests.take(1)
        self.tokens.take(tokens)
        entered = time.monotonic()
        while entered in self._sent:
            entered = math.nextafter(entered, math.inf)
        self._sent[entered] = None
        return entered

    def leave(self, entered: float) -> None:
        """The request that entered then is over."""
        del self._sent[entered]
        self._wake()

    async def _wait_in_line(self, until: float) -> bool:
        """Whether one's turn has come by then."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(None if until == math.inf else until - time.monotonic()):
                await turn
        except (asyncio.CancelledError, TimeoutError) as error:
            if turn in self._queue:
                self._queue.remove(turn)
            else:
                self._wake()
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

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
        self._wake()

    def slow_down(self, entered: float, retry_after_s: float | None) -> None:
        """The endpoint pushed back on a request that entered at `entered`: allow less, and wait if it says so."""
        self._climbing = False
        if entered >= self._last_cut:
            self.limit = max(1.0, self.limit / 2)
            self._last_cut = time.monotonic()
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, time.monotonic() + retry_after_s)
            while self._queue:
                if not (turn := self._queue.popleft()).done():
                    turn.set_result(None)


class Allowance:
    """So much a minute, in even portions: a bucket that holds two seconds' worth and may go into debt."""

    def __init__(self, per_minute: float | None) -> None:
        self.per_s = None if per_minute is None else per_minute / 60.0
        self._most = 0.0 if self.per_s is None else max(1.0, 2.0 * self.per_s)
        self._left = self._most
        self._seen = time.monotonic()

    def wait_s(self) -> float:
        """Seconds until something may be taken."""
        if self.per_s is None:
            return 0.0
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._seen) * self.per_s)
        self._seen = now
        return 0.0 if self._left > 0 else (1e-3 - self._left) / self.per_s

    def take(self, amount: float) -> None:
        """Take an amount, or give back a negative one, once it is known to be another than was thought."""
        if self.per_s is not None:
            self._left -= amount


def backoff_s(settings: PaceSettings, attempt: int, retry_after_s: float | None) -> float:
    """The wait after failed attempt number `attempt` (from 1): exponential, half of it jitter, Retry-After at least."""
    wait = min(settings.backoff_cap_s, settings.backoff_base_s * 2.0 ** (attempt - 1))
    return max(wait * random.uniform(0.5, 1.5), retry_after_s or 0.0)
