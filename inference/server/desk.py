"""How much may wait: a bound on requests, on their bytes, and on the time that they will wait.

    with desk.admitted(size) as place:          # raises Busy
        place.documents = len(documents)        # raises Busy where they would wait too long
        ...

A place is taken before a body is read, so that what cannot be served costs no memory. How long a request will wait is
what is ahead of it over the documents a second that were answered of late; before the first answer nobody knows.
Absent on purpose: priorities, and a queue as such: what was admitted goes to the model at once, which batches it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FORGETTING_S = 30.0  # how long an answered document counts for the pace
LONGEST_ADVICE_S = 60


class Busy(Exception):
    """No place is left; the message says which bound was met, `retry_after_s` when to come again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Place:
    """One admitted request."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._documents = 0

    @property
    def documents(self) -> int:
        """Documents that are being ordered for this request."""
        return self._documents

    @documents.setter
    def documents(self, count: int) -> None:
        self._desk.refuse_if_slow()
        self._desk.documents += count
        self._documents = count


class Desk:
    """What is admitted now, and how fast it goes."""

    def __init__(
        self, requests: int, size: int, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """At most `requests` of together `size` bytes; none that would have to wait longer than `patience_s`."""
        self.most_requests = requests
        self.most_size = size
        self.patience_s = patience_s
        self.requests = 0
        self.size = 0
        self.documents = 0
        self._clock = clock
        self._answered = 0.0
        self._busy_s = 0.0
        self._since = clock()

    @contextmanager
    def admitted(self, size: int) -> Iterator[Place]:
        """A place for a request of `size` bytes while the context lasts. Raises Busy."""
        if self.requests >= self.most_requests:
            raise Busy(f"{self.requests} requests are waiting, which is the limit", self.advice_s)
        if self.requests and self.size + size > self.most_size:
            raise Busy(f"the requests that are waiting hold {self.size:,} bytes", self.advice_s)
        self._tick()
        place = Place(self)
        self.requests += 1
        self.size += size
        try:
            yield place
        finally:
            self._tick()
            self.requests -= 1
            self.size -= size
            self.documents -= place.documents

    def answered(self, documents: int) -> None:
        """So many documents were ordered just now."""
        self._tick()
        self._answered += documents

    @property
    def wait_s(self) -> float:
        """Seconds until what is admitted now will be answered; 0 where nothing was answered yet."""
        self._tick()
        return self.documents * self._busy_s / self._answered if self._answered >= 1 else 0.0

    @property
    def advice_s(self) -> int:
        """Seconds after which half of what waits is done: when to come again."""
        return min(LONGEST_ADVICE_S, max(1, math.ceil(self.wait_s / 2)))

    def refuse_if_slow(self) -> None:
        """Raise Busy where one more list would wait longer than anyone would."""
        if (wait := self.wait_s) > self.patience_s:
            raise Busy(f"{self.documents:,} documents are waiting, about {wait:.0f} s of work", self.advice_s)

    def _tick(self) -> None:
        """Time in which something was being ordered counts for the pace, and fades; idle time does not."""
        now = self._clock()
        passed, self._since = now - self._since, now
        if self.documents and passed > 0:
            kept = math.exp(-passed / FORGETTING_S)
            self._busy_s = self._busy_s * kept + passed
            self._answered *= kept
