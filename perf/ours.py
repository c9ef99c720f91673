"""The contestant `ours`: inference.engine.Engine as a campaign runs it.

A real store on disk, a budget in USD with a price, every answer parsed and judged by the check that the ranking
assets use. Run by `engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp  # noqa: F401 - the engine imports it at its first request, when the clock runs
from contest import MAX_TOKENS, Task, compete
from prompts import PASSAGES

from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.exchange import Exchange, Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Price, Prices
from inference.running import run
from inference.store import ExchangeStore
from ranking.parsing import describe_list_fault

PRICE = Price(input=0.28, cached=0.028, output=0.42, source="a benchmark's")


def check(_request: Request, content: str) -> str | None:
    """The fault of an answer that is not a ranking of the passages."""
    return describe_list_fault(content, PASSAGES)


def prepare(task: Task) -> Callable[[], list[str]]:
    """An engine with an empty store; nothing is sent yet."""
    sampling = Sampling(task.model, temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS)
    store = ExchangeStore(task.folder / "exchanges.sqlite")
    engine = Engine(
        Endpoint(base_url=task.base_url, api_key="none"),
        store,
        Budget(usd=10_000.0, scope="perf"),
        Prices.load().with_price(task.model, PRICE),
        PaceSettings(max_in_flight=task.in_flight, start_in_flight=task.in_flight),
    )

    async def ask() -> list[str]:
        requests = (
            Request(f"r{i}", ({"role": "user", "content": prompt},), sampling) for i, prompt in enumerate(task.prompts)
        )
        outcomes = engine.ask(requests, check, total=len(task.prompts))
        return [o.content async for o in outcomes if isinstance(o, Exchange) and o.fault is None]

    def ask_and_close() -> list[str]:
        with store:
            return run(ask())

    return ask_and_close


if __name__ == "__main__":
    compete(prepare)
