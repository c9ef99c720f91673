"""Requests of a live run that an open batch holds: counted, and said once for each batch.

A batch promises an answer within a day, and only a run in batch mode fetches it; a live run that asks the same thing
waits for it, since buying it again would be paying twice. That must not look as if it hung.

Absent on purpose: collecting the batch (`batch`), and the claims of live runs, which end within one request's time.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

from inference.progress import Tally
from inference.store import InBatch

# What is over by then was no wait; and by then it is known how many wait.
TELL_AFTER_S = 1.0
_log = logging.getLogger(__name__)


@dataclass
class Held:
    """Keeps a tally up to date about the requests that wait for batches; one run, one event loop."""

    store: Path
    tally: Tally
    _waiting: dict[str, str] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def note(self, key: str, by: InBatch | None) -> None:
        """A request turned out to be held by a batch, or (None) no longer to be."""
        was = self._waiting.pop(key, None)
        if was is not None:
            self.tally.held[was] -= 1
        if by is None:
            return
        self._waiting[key] = _name(by)
        self.tally.held[_name(by)] += 1
        self.tally.waited_for_batches += was is None
        if by.batch not in self._told:
            self._told.add(by.batch)
            asyncio.get_running_loop().call_later(TELL_AFTER_S, self._tell, by)

    def _tell(self, by: InBatch) -> None:
        if count := self.tally.held[_name(by)]:
            _log.warning(
                "%d requests so far wait for %s at %s. A run in batch mode with that base_url collects it; or give it "
                "up: python -m inference.batch %s --give-up %s",
                count, _name(by), by.endpoint, self.store, by.batch,
            )  # fmt: skip


def _name(by: InBatch) -> str:
    return f"batch {by.batch[:8]}, open since {by.filed_at[:16]}Z"
