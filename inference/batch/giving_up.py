"""Giving a batch up: it is cancelled where it is, what it has answered by then is kept, and the rest is let go.

Where the provider cannot be asked, or does not end the batch in time, its worst case counts as spent, since it may go
on and be charged.

Absent on purpose: whose key it is (`__main__` reads it).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from inference.batch.api import ENDED, BatchApi, Remote
from inference.batch.collect import clear_away, collect
from inference.batch.rows import Row, give_up, open_rows
from inference.breaker import EndpointDown
from inference.endpoint import Endpoint, EndpointRefused
from inference.running import run
from inference.store import ExchangeStore

ENDS_WITHIN_S = 20.0
LOOK_EVERY_S = 0.5


def give_up_now(store: ExchangeStore, batch: str, address: str, key: str, within_s: float = ENDS_WITHIN_S) -> str:
    """End an open batch of the store; gives what became of it. `address` and `key` are those of one endpoint."""
    rows = store.clerk.submit(lambda con: open_rows(con, store), writes=False).result()
    row = next(row for row in rows if row.batch == batch)
    if row.remote is None and row.creating_at is None:
        why = "its provider has never heard of it"
    elif address.rstrip("/") != row.endpoint:
        why = f"OPENAI_BASE_URL is not {row.endpoint}, so it was not cancelled there"
    else:
        endpoint = Endpoint(base_url=address, api_key=key, timeout_s=60.0)
        try:
            ended = run(_cancelled(store, row, endpoint, within_s))
        except (EndpointRefused, EndpointDown) as error:
            ended, why = None, f"it was not cancelled there: {error}"
        else:
            why = f"it had not ended there within {within_s:g} s of being cancelled"
        if ended is not None:
            return f"{batch}: {ended} at {row.endpoint}; what it brought is kept, the rest can be bought again"
    store.clerk.submit(partial(give_up, batch=batch), writes=True).result()
    known = f" Its id there is {row.remote}." if row.remote is not None else ""
    return f"{batch}: given up, and counted as spent in full; {why}.{known}"


async def _cancelled(store: ExchangeStore, row: Row, endpoint: Endpoint, within_s: float) -> str | None:
    """Cancel a batch and collect what it has brought; gives how it ended, or None if it did not in time."""
    give_up_at = time.monotonic() + within_s
    async with BatchApi(endpoint, within_s) as api:
        remote = await _found(api, row)
        if remote is not None and remote.status not in ENDED:
            await api.cancel(remote.id)
        while remote is not None:
            remote = await api.show(remote.id, "")
            if remote.status in ENDED:
                await collect(api, store, row, remote, "", delete=True)
                await clear_away(api, store, row.endpoint)
                return remote.status
            if time.monotonic() > give_up_at:
                return None
            await asyncio.sleep(LOOK_EVERY_S)
    return None


async def _found(api: BatchApi, row: Row) -> Remote | None:
    if row.remote is not None:
        return await api.show(row.remote, "")
    listed = await api.recent(row.creating_at or 0.0)
    return next((remote for remote in listed if remote.tag == row.batch), None)
