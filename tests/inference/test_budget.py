"""The budget: never passed, with many in flight and several stores; the estimate; prices."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import EngineFor, Make
from hypothesis import given
from hypothesis import strategies as st
from salt_water import DEAR
from servers import answering, serving

from inference.archive import records
from inference.budget import Budget, BudgetExceeded
from inference.engine import Engine, ask_all
from inference.estimate import estimate
from inference.exchange import Exchange, Failure, Request, Sampling, repair_request
from inference.pace import PaceSettings
from inference.prices import NOTHING, Cost, Prices, UnknownPrice
from inference.standin.completions import completion
from inference.standin.faults import Draw, Faults
from inference.standin.server import MODEL, Standin, running_standin
from inference.store import ExchangeStore
from inference.teller import Teller


async def take(engine: Engine, requests: list[Request]) -> tuple[list[Exchange | Failure], BudgetExceeded | None]:
    got: list[Exchange | Failure] = []
    try:
        async with aclosing(engine.ask(requests)) as outcomes:
            async for outcome in outcomes:
                got.append(outcome)
    except BudgetExceeded as error:
        return got, error
    return got, None


def test_a_budget_in_usd_is_never_passed_with_many_in_flight_and_everything_bought_is_handed_out(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(200, max_tokens=120)
    budget = Budget(usd=9000.0, what="teacher_rankings")
    with running_standin(Faults(latency_s=0.02, rate_500=0.1)) as server:
        engine = engine_for(server, budget=budget, prices=DEAR, start_in_flight=64)
        got, error = asyncio.run(take(engine, requests))
        assert len(got) == server.counts["answered"]
    spent = store.spent("all").usd
    assert spent == sum(o.usd for o in got if isinstance(o, Exchange))
    # An answer costs about 160 and reserves about 600: reservations alone must not stop the run.
    assert 9000 - 700 < spent <= 9000
    assert str(error) == (
        f"stopped at ${spent:,.2f} of $9,000.00 after {len(got)} of 200 requests; all answers are kept. "
        "Raise budget_usd and materialize teacher_rankings again."
    )
    assert len(list(records(store, (r.key for r in requests)))) == len(got)


def test_raising_the_budget_buys_only_what_is_missing(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(30, max_tokens=120)
    with running_standin() as server:
        with pytest.raises(BudgetExceeded):
            ask_all(engine_for(server, budget=Budget(usd=2000.0), prices=DEAR), requests)
        with pytest.raises(BudgetExceeded):
            ask_all(engine_for(server, budget=Budget(usd=2000.0), prices=DEAR), requests)
        ask_all(engine_for(server, budget=Budget(usd=1e6), prices=DEAR), requests)
        assert server.counts["answered"] == 30
    assert store.spent("another scope").usd == 0


def test_a_budget_in_tokens_is_never_passed(engine_for: EngineFor, some_requests: Make, store: ExchangeStore) -> None:
    with running_standin(Faults(latency_s=0.01)) as server:
        engine = engine_for(server, budget=Budget(tokens=3000), start_in_flight=64)
        with pytest.raises(BudgetExceeded, match=r"stopped at [\d,]+ of 3,000 tokens after .* Raise budget_tokens"):
            ask_all(engine, some_requests(100, max_tokens=120))
    assert 2000 < store.spent("all").tokens <= 3000


def test_two_stores_on_one_file_share_a_budget(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore, tmp_path: Path
) -> None:
    requests = some_requests(120, max_tokens=120)

    async def both(one: Engine, other: Engine) -> None:
        await asyncio.gather(take(one, requests[:60]), take(other, requests[60:]))

    with (
        running_standin(Faults(latency_s=0.02)) as server,
        ExchangeStore(tmp_path / "exchanges.sqlite") as second,
    ):
        settings = {"budget": Budget(usd=6000.0), "prices": DEAR, "start_in_flight": 64}
        asyncio.run(both(engine_for(server, **settings), engine_for(server, opened=second, **settings)))
    assert 6000 - 700 < store.spent("all").usd <= 6000


IN_FLIGHT = 256
SPENDER = """
import json, sys
from salt_water import DEAR, ranking_prompt
from inference.budget import Budget, BudgetExceeded
from inference.breaker import BreakerSettings
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.running import run
from inference.exchange import Request, Sampling
from inference.pace import PaceSettings
from inference.store import ExchangeStore

url, path, who, usd, tokens, in_flight = sys.argv[1:]
sampling = Sampling("stand-in-teacher", 0.0, 1.0, 120)


def requests():
    for i in range(1000):
        prompt = ranking_prompt(f"What does process {who if i % 10 else 'all'} want with number {i}?")
        yield Request(f"{who}-{i}", ({"role": "user", "content": prompt},), sampling)


async def spend(store):
    endpoint = Endpoint(base_url=url, api_key="none", timeout_s=1.5)
    pace = PaceSettings(max_in_flight=int(in_flight), start_in_flight=int(in_flight), backoff_base_s=0.01)
    budget = Budget(usd=json.loads(usd), tokens=json.loads(tokens))
    async for _ in Engine(endpoint, store, budget, DEAR, pace, BreakerSettings(share=1.0)).ask(requests()):
        pass


with ExchangeStore(path) as store:
    try:
        run(spend(store))
    except BudgetExceeded as error:
        print("BudgetExceeded:", error)
"""


@dataclass
class Till:
    """What a server charges: every answer that it has written, whether or not it has reached anybody."""

    tokens: int = 0

    @web.middleware
    async def charge(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        in_full = completion(await request.json(), Draw())["usage"]["total_tokens"]
        answer: web.StreamResponse = await handler(request)
        if answer.status == 200:
            try:
                self.tokens += json.loads(answer.text or "")["usage"]["total_tokens"]  # type: ignore[attr-defined]
            except (AttributeError, ValueError, LookupError):
                self.tokens += in_full
        return answer


@pytest.mark.parametrize(
    "budget",
    [Budget(usd=60_000.0), Budget(tokens=60_000), Budget(usd=1e9, tokens=50_000)],
    ids=["in USD", "in tokens", "in both, tokens run out first"],
)
def test_three_processes_with_hundreds_in_flight_stay_inside_one_budget_though_answers_are_lost(
    budget: Budget, tmp_path: Path, store: ExchangeStore
) -> None:
    cap = budget.tokens or int(budget.usd or 0)
    faults = Faults(
        latency_s=0.05,
        latency_sigma=0.5,
        rate_500=0.03,
        rate_reset=0.03,
        rate_half_body=0.03,
        rate_slow=0.03,
        rate_wrong_json=0.03,
    )
    till = Till()
    app = Standin(faults).app()
    app.middlewares.append(till.charge)
    with serving(app) as base_url:
        command = [sys.executable, "-c", SPENDER, base_url, str(store.path)]
        more = [json.dumps(budget.usd), json.dumps(budget.tokens), str(IN_FLIGHT)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        spenders = [
            subprocess.Popen([*command, who, *more], stdout=subprocess.PIPE, text=True, env=environment)
            for who in "abc"
        ]
        most_reserved = 0
        while any(spender.poll() is None for spender in spenders):
            # A dollar a token: both limits are the same number.
            spent, reserved = store.spent("all"), store.reserved("all")
            assert spent.tokens <= cap and spent.usd <= cap and till.tokens <= cap
            most_reserved = max(most_reserved, reserved.tokens)
            time.sleep(0.02)
        told = [spender.communicate()[0] for spender in spenders]
    assert all(re.match(r"BudgetExceeded: stopped at .* of .* Raise budget_(usd|tokens)", line) for line in told)
    with sqlite3.connect(store.path) as con:
        kinds = dict(con.execute("SELECT kind, sum(tokens) FROM spend GROUP BY kind").fetchall())
        assert con.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    spent = store.spent("all")
    assert kinds["answer"] + kinds["presumed"] == spent.tokens == spent.usd and kinds["presumed"] > 0
    assert kinds["answer"] < till.tokens <= spent.tokens, "what was lost on its way was charged, and counted"
    # They stop where no further request fits, and not before.
    assert cap - 700 < spent.tokens <= cap and most_reserved > cap / 3
    assert store.reserved("all") == NOTHING


def test_a_wish_that_is_given_up_before_it_is_granted_reserves_nothing(
    some_requests: Make, store: ExchangeStore
) -> None:
    async def wish_and_leave() -> None:
        teller = Teller(store, Budget())
        for request in some_requests(20):
            teller.claim(request, Cost(1.0, 10)).cancel()
            teller.release(request.key, presumed=False)
            await asyncio.sleep(0)
        await teller.settle()

    asyncio.run(wish_and_leave())
    assert store.reserved("all") == NOTHING == store.spent("all")


def test_a_request_that_alone_passes_the_budget_is_not_sent(engine_for: EngineFor, some_requests: Make) -> None:
    with running_standin() as server:
        with pytest.raises(BudgetExceeded, match=r"stopped at \$0.00 of \$1.00 after 0 of 3 requests"):
            ask_all(engine_for(server, budget=Budget(usd=1.0), prices=DEAR), some_requests(3))
        assert not server.counts


costs = st.builds(Cost, usd=st.floats(0, 1e6), tokens=st.integers(0, 10**9))


@given(costs, costs, costs, st.none() | st.floats(0, 1e6), st.none() | st.integers(0, 10**9))
def test_what_a_budget_admits_stays_within_it(
    worst: Cost, spent: Cost, reserved: Cost, usd: float | None, tokens: int | None
) -> None:
    total = spent + reserved + worst
    within = (usd is None or total.usd <= usd) and (tokens is None or total.tokens <= tokens)
    assert Budget(usd=usd, tokens=tokens).admits(worst, spent, reserved) == within


def test_an_estimate_counts_what_is_missing_and_its_worst_price(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(10)
    with running_standin() as server:
        ask_all(engine_for(server), requests[:4])
    found = estimate([*[None] * 4, *requests[4:], requests[9]], DEAR, store, PaceSettings())
    assert (found.requests, found.stored, found.calls, found.seen) == (11, 5, 6, 4)
    first = sum(DEAR.worst_case(r).tokens for r in requests[4:])
    assert found.usd_at_most == pytest.approx(found.tokens_at_most) and found.tokens_at_most > 2 * first


@pytest.mark.parametrize(
    "text", ["plain English words about salt water", "соль вода", "塩水の細胞", "🧂🌊", "\x00\x01"]
)
def test_no_campaign_costs_more_than_its_estimate_says_at_most_repair_turns_included(
    store: ExchangeStore, engine_for: EngineFor, text: str
) -> None:
    requests = [
        Request(f"r{n}", ({"role": "user", "content": f"{text} {n}"},), Sampling(MODEL, 0.6, 0.95, 64))
        for n in range(8)
    ]
    foreseen = estimate(requests, DEAR, store, PaceSettings())

    async def dense(asked: web.Request) -> web.Response:
        """A tokenizer that knows no words, so that every byte is a token, and an answer of all its tokens."""
        body = await asked.json()
        prompt, limit = sum(len(message["content"].encode()) for message in body["messages"]), body["max_tokens"]
        said = {"index": 0, "message": {"role": "assistant", "content": "x" * limit}, "finish_reason": "stop"}
        usage = {"prompt_tokens": prompt, "completion_tokens": limit, "total_tokens": prompt + limit}
        return web.json_response(
            {"id": "1", "object": "chat.completion", "model": "m", "choices": [said], "usage": usage}
        )

    with serving(answering(dense)) as base_url:
        ask_all(engine_for(base_url, prices=DEAR), requests, lambda request, content: "it is not a ranking")
    spent = store.spent("all")
    assert foreseen.usd_at_most / 10 < spent.usd <= foreseen.usd_at_most and spent.tokens <= foreseen.tokens_at_most
    # What is due after that is nothing; of a repair turn alone, that turn and no other.
    turn = repair_request(requests[0], "a", "b")
    assert estimate([turn], DEAR, store, PaceSettings()).tokens_at_most == DEAR.worst_case(turn).tokens


def test_prompts_are_expected_to_be_as_dense_as_those_of_the_answers_that_are_stored(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(12)
    blind = estimate(requests[6:], DEAR, store, PaceSettings()).prompt_tokens
    with running_standin() as server:
        bought = [one for one in ask_all(engine_for(server), requests[:6]) if isinstance(one, Exchange)]
    bytes_asked = sum(len(request.messages_json) for request in requests[:6])
    rate = sum(one.prompt_tokens for one in bought) / bytes_asked
    expected = rate * sum(len(request.messages_json) for request in requests[6:])
    found = estimate(requests[6:], DEAR, store, PaceSettings())
    assert found.prompt_tokens == pytest.approx(expected, abs=1) and found.prompt_tokens != blind


@pytest.mark.parametrize(
    ("limits", "hours"),
    [
        ({}, 6 * 400 / 30 / 2 / 3600),
        ({"requests_per_minute": 0.1}, 6 / 0.1 / 60),
        ({"requests_per_minute": 600.0}, 6 * 400 / 30 / 2 / 3600),
        ({"tokens_per_minute": 10.0}, None),
    ],
)
def test_the_hours_of_an_estimate_go_by_the_slowest_limit(
    some_requests: Make, store: ExchangeStore, limits: dict[str, float], hours: float | None
) -> None:
    found = estimate(some_requests(6), DEAR, store, PaceSettings(max_in_flight=2, **limits))
    of_tokens = (found.prompt_tokens + found.completion_tokens) / 10 / 60
    assert found.hours == pytest.approx(of_tokens if hours is None else hours, rel=1e-3)


def test_a_batch_takes_its_provider_s_window(some_requests: Make, store: ExchangeStore) -> None:
    found = estimate(some_requests(6), DEAR, store, PaceSettings(), window_h=24.0)
    assert found.hours == 24 and "within 24 h, the provider's window" in found.line
    assert estimate([None] * 6, DEAR, store, PaceSettings(), window_h=24.0).hours == 0
    assert "within 48 h" in (found + found).line


def test_a_model_without_a_price_is_refused_before_anything_is_sent(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = [replace(r, sampling=replace(r.sampling, model="my-model")) for r in some_requests(2)]
    with running_standin() as server:
        with pytest.raises(UnknownPrice, match=r"'my-model' has no price.*known: deepseek-chat"):
            ask_all(engine_for(server), requests)
        assert not server.counts
    with pytest.raises(UnknownPrice):
        estimate(requests, Prices.load(), store, PaceSettings())


def test_a_price_distinguishes_cache_hits_from_misses() -> None:
    assert Prices.load().usd("deepseek-reasoner", 1_000_000, 400_000, 500_000) == pytest.approx(
        0.6 * 0.28 + 0.4 * 0.028 + 0.5 * 0.42
    )


@given(st.text())
def test_the_reserved_prompt_is_no_shorter_than_the_bytes_that_are_sent(text: str) -> None:
    from inference.exchange import Sampling

    request = Request("x", ({"role": "user", "content": text},), Sampling("stand-in-teacher", 0, 1, 7))
    assert DEAR.worst_case(request).tokens > len(text.encode()) + 7


def test_a_broken_price_table_is_named(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("dated: 2025-01-01\nmodels:\n  m: {input: -1, cached: 0, output: 0, source: x}\n")
    with pytest.raises(ValueError, match=r"price table .*prices.yaml cannot be read"):
        Prices.load(table)


def test_a_price_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"price table .*mine.yaml cannot be read"):
        Prices.load(tmp_path / "mine.yaml")
