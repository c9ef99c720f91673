"""What tests of the engine do again and again: play an endpoint, ask it, read what was kept and what was spent.

with playing(Late(late=1.0)) as server:
    outcomes, progress = ask(engine_for(server), requests, check)
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from salt_water import DEAR
from servers import serving

from inference.archive import everything
from inference.engine import Engine
from inference.exchange import Exchange, Failure, Request
from inference.progress import Progress
from inference.standin.faults import Draw, Faults
from inference.standin.server import Standin
from inference.store import ExchangeStore

Make = Callable[..., list[Request]]
EngineFor = Callable[..., Engine]
Check = Callable[[Request, str], str | None]
Outcomes = list[Exchange | Failure]


@dataclass(frozen=True)
class Late(Faults):
    """A share of the requests is answered well, but long after anybody waits for it."""

    late: float = 0.0
    latency_sigma: float = 1e-9

    def draw(self, prompt: str, attempt: int) -> Draw:
        return Draw(latency_s=60.0 if super().draw(prompt, attempt).variant % 1000 < 1000 * self.late else 0.0)


@contextmanager
def playing(faults: Faults) -> Iterator[Standin]:
    """A stand-in that drops what it still has in hand at the end, and would have answered late."""
    server = Standin(faults)
    with serving(server.app()) as server.base_url:
        yield server


def ask(engine: Engine, requests: Sequence[Request], check: Check) -> tuple[Outcomes, Progress]:
    """Outcomes in the order of the requests, each of which must come out exactly once, and the last figures."""
    seen: list[Progress] = []

    async def collect() -> Outcomes:
        async with aclosing(engine.ask(requests, check, on_progress=seen.append)) as outcomes:
            return [outcome async for outcome in outcomes]

    outcomes = asyncio.run(collect())
    assert Counter(o.request_id for o in outcomes) == Counter(r.id for r in requests)
    by_id = {outcome.request_id: outcome for outcome in outcomes}
    return [by_id[request.id] for request in requests], seen[-1]


def good(outcomes: Outcomes) -> list[Exchange]:
    return [o for o in outcomes if isinstance(o, Exchange) and o.fault is None]


def kept(store: ExchangeStore) -> dict[str, Exchange]:
    return {record.exchange.key: record.exchange for record in everything(store)}


def spending(store: ExchangeStore, kind: str) -> Counter[tuple[str, int]]:
    """Keys and tokens of what was spent."""
    with sqlite3.connect(store.path) as con:
        return Counter(con.execute("SELECT key, tokens FROM spend WHERE kind = ?", (kind,)).fetchall())


def at_worst(requests: Sequence[Request], times: int) -> Counter[tuple[str, int]]:
    return Counter({(r.key, DEAR.worst_case(r).tokens): times for r in requests})
