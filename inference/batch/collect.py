"""What a batch that has ended brought: fetched, kept in one transaction, and then cleared away at the provider.

Absent on purpose: waiting for the end (`desk`), and what is in the files (`results`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from inference.batch.api import BatchApi, Remote
from inference.batch.results import missing, read_results
from inference.batch.rows import Row, asked_in, end, endings, file_gone, files_left
from inference.endpoint import EndpointRefused, Trouble
from inference.store import ExchangeStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How a batch of this run ended, and what befell the requests that it brought no answer to.

    `codes` and `said` are the provider's where it refused the batch as a whole.
    """

    ended_as: str
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    codes: frozenset[str] = frozenset()
    said: str = ""

    def trouble(self, key: str) -> Trouble:
        """Why a request has no answer; where another process has collected the batch, only that one knows exactly."""
        return self.troubles.get(key) or missing(self.ended_as)


async def collect(api: BatchApi, store: ExchangeStore, row: Row, remote: Remote, remedy: str, delete: bool) -> Ended:
    """Keep what a batch brought and end it; with `delete` its files are to be deleted from then on."""
    names = (remote.output_file_id, remote.error_file_id)
    try:
        files = [await api.content(name, remedy) for name in names]
    except EndpointRefused:
        # Another process may have collected it meanwhile, and cleared it away.
        ended = await store.clerk.perform(partial(endings, batches=[row.batch]), writes=False)
        if row.batch not in ended:
            raise
        return Ended(ended[row.batch])
    asked = await store.clerk.perform(partial(asked_in, batch=row.batch), writes=False)
    results = await asyncio.to_thread(read_results, asked, remote.status, files, row.model, row.price, api.endpoint)
    work = partial(
        end,
        batch=row.batch,
        ended_as=remote.status,
        bought=results.bought,
        charged=results.charged,
        files=[name for name in names if name is not None] if delete else [],
    )
    await store.clerk.perform(work, writes=True)
    return Ended(remote.status, results.troubles, remote.codes, remote.said)


@dataclass(frozen=True)
class Cleared:
    """Files of ended batches: how many are no more at the provider, and how many are still to be deleted there."""

    deleted: int
    left: int


async def clear_away(api: BatchApi, store: ExchangeStore, address: str) -> Cleared:
    """Delete the files of ended batches at an endpoint; what cannot be reached now is left to the next time."""
    files = await store.clerk.perform(partial(files_left, endpoint=address), writes=False)
    deleted = 0
    for number, file in enumerate(files):
        trouble = await api.delete(file)
        if trouble is not None and trouble.retry:
            return Cleared(deleted, len(files) - number)
        deleted += trouble is None
        if trouble is not None:
            said = f"{trouble.kind} ({trouble.detail})"
            _log.warning("file %s stays at %s, which refuses to delete it: %s", file, address, said)
        await store.clerk.perform(partial(file_gone, file=file), writes=True)
    return Cleared(deleted, 0)
