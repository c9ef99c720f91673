"""Shared by the engine's tests: a store, engines over real HTTP, and requests that the stand-in understands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_runs import HALVED, BatchFor
from salt_water import ranking_prompt

from inference.batch.engine import BatchEngine
from inference.batch.settings import BatchSettings
from inference.breaker import BreakerSettings
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.exchange import Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.standin.server import Standin
from inference.store import ExchangeStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ExchangeStore]:
    with ExchangeStore(tmp_path / "exchanges.sqlite") as opened:
        yield opened


@pytest.fixture
def some_requests() -> Callable[..., list[Request]]:
    def make(count: int, max_tokens: int = 400) -> list[Request]:
        sampling = Sampling("stand-in-teacher", temperature=0.0, top_p=1.0, max_tokens=max_tokens)
        prompts = [ranking_prompt(f"Why does salt water dry out cell number {i}?") for i in range(count)]
        return [Request(f"r{i}", ({"role": "user", "content": p},), sampling) for i, p in enumerate(prompts)]

    return make


@pytest.fixture
def engine_for(store: ExchangeStore) -> Callable[..., Engine]:
    def make(
        server: Standin | str,
        *,
        budget: Budget | None = None,
        prices: Prices | None = None,
        key: str = "none",
        timeout_s: float = 20.0,
        opened: ExchangeStore | None = None,
        **pace: float,
    ) -> Engine:
        return Engine(
            Endpoint(base_url=server if isinstance(server, str) else server.base_url, api_key=key, timeout_s=timeout_s),
            opened or store,
            budget or Budget(),
            prices or Prices.load(),
            PaceSettings(**{"backoff_base_s": 0.01, "max_attempts": 12, **pace}),
        )

    return make


@pytest.fixture
def batches_for(store: ExchangeStore) -> BatchFor:
    def make(
        server: Standin | str,
        *,
        budget: Budget | None = None,
        prices: Prices = HALVED,
        key: str = "none",
        opened: ExchangeStore | None = None,
        breaker: BreakerSettings | None = None,
        **settings: Any,
    ) -> BatchEngine:
        return BatchEngine(
            Endpoint(base_url=server if isinstance(server, str) else server.base_url, api_key=key, timeout_s=20.0),
            opened or store,
            budget or Budget(),
            prices,
            BatchSettings(**{"poll_s": 0.03, "settle_s": 0.3, "rounds": 12, **settings}),
            breaker or BreakerSettings(share=1.0),
        )

    return make


@pytest.fixture
def full_list() -> Callable[[Request, str], str | None]:
    def check(request: Request, content: str) -> str | None:
        found = [int(n) for n in re.findall(r"\[(\d+)\]", content)]
        return None if sorted(found) == [1, 2, 3, 4] else "the list does not name every passage once"

    return check
