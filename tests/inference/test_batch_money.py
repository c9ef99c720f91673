"""Batch mode and money: half the price, a budget that holds, and the worst case where nobody knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from asking import Check, EngineFor, Make
from batch_runs import HALVED, BatchFor, ask, kinds_of_spending, nothing_is_held, rows_of
from gate import gate_before
from salt_water import DEAR

from inference.batch.engine import BatchEngine
from inference.budget import Budget, BudgetExceeded
from inference.engine import ask_all
from inference.estimate import estimate
from inference.exchange import Exchange, Failure
from inference.pace import ASSUMED_TOKENS_PER_S, PaceSettings
from inference.prices import Price, Prices, UnknownPrice
from inference.standin.faults import Faults
from inference.standin.server import MODEL, running_standin
from inference.store import ExchangeStore


def test_an_answer_that_cannot_be_read_counts_at_its_worst_case_and_is_asked_again(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(10)
    with running_standin(Faults(rate_wrong_json=0.4)) as server:
        outcomes, progress = ask(batches_for(server), requests, full_list)
        wrong = server.counts["wrong_json"]
    assert all(isinstance(one, Exchange) and one.fault is None for one in outcomes)
    assert progress.troubles == {"unreadable": wrong} and kinds_of_spending(store) == {"answer": 10, "presumed": wrong}
    presumed = rows_of(store, "SELECT usd, key FROM spend WHERE kind = 'presumed'")
    worst = {request.key: HALVED.worst_case(request).usd / 2 for request in requests}
    assert wrong > 0 and all(usd == worst[key] for usd, key in presumed)


def test_a_line_that_a_completed_batch_does_not_mention_counts_at_its_worst_case(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    def torn(output: bytes) -> bytes:
        return output[: output.index(b"\n") + 20]

    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /files/content"] = torn
        outcomes = ask_all(batches_for(gate.base_url, rounds=0), some_requests(3))
    lost = [one for one in outcomes if isinstance(one, Failure)]
    assert [one.kind for one in lost] == ["not in the results"] * 2
    worst = sum(HALVED.worst_case(r).usd / 2 for r in some_requests(3) if r.key in {one.key for one in lost})
    assert rows_of(store, "SELECT sum(usd) FROM spend WHERE kind = 'presumed'") == [(worst,)]
    assert nothing_is_held(store)


def test_a_budget_is_never_passed_and_its_room_is_used_up(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = some_requests(100, max_tokens=120)
    budget = Budget(usd=4_000.0, what="teacher_rankings")
    highest = 0.0

    async def take(engine: BatchEngine) -> tuple[list[Exchange], BudgetExceeded | None]:
        nonlocal highest
        got: list[Exchange] = []
        try:
            async for outcome in engine.ask(requests):
                assert isinstance(outcome, Exchange)
                got.append(outcome)
                highest = max(highest, store.spent("all").usd + store.reserved("all").usd)
        except BudgetExceeded as error:
            return got, error
        return got, None

    with running_standin() as server:
        got, error = asyncio.run(take(batches_for(server, budget=budget, max_requests=10)))
        assert len(got) == server.counts["answered"]
        spent = store.spent("all").usd
        # An answer costs about 80 and reserves about 300: reservations alone must not stop the run.
        assert 4_000 - 350 < spent == sum(one.usd for one in got) <= highest <= 4_000
        assert str(error) == (
            f"stopped at ${spent:,.2f} of $4,000.00 after {len(got)} of 100 requests; all answers are kept. "
            "Raise budget_usd and materialize teacher_rankings again."
        )
        assert nothing_is_held(store)
        ask_all(batches_for(server, budget=Budget(usd=1e9)), requests)
        assert server.counts["answered"] == 100


def test_a_request_that_alone_passes_the_budget_is_not_sent(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        with pytest.raises(BudgetExceeded, match=r"stopped at \$0.00 of \$1.00 after 0 of 3 requests"):
            ask_all(batches_for(gate.base_url, budget=Budget(usd=1.0)), some_requests(3))
        assert not gate.seen and nothing_is_held(store)


def test_a_model_without_a_price_is_refused_before_anything_is_sent(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    requests = [replace(r, sampling=replace(r.sampling, model="my-model")) for r in some_requests(2)]
    with running_standin() as server, gate_before(server.base_url) as gate:
        with pytest.raises(UnknownPrice, match="'my-model' has no price"):
            ask_all(batches_for(gate.base_url), requests)
        assert not gate.seen and nothing_is_held(store)


def test_an_answer_of_a_batch_says_nothing_about_how_long_a_live_one_takes(
    engine_for: EngineFor, batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(20)
    with running_standin(Faults(latency_s=0.2)) as server:
        ask(batches_for(server), requests[:10], full_list)
        usual = store.usual(MODEL)
        assert usual is not None and usual.seconds == usual.completion_tokens / ASSUMED_TOKENS_PER_S > 1.0
        ask(engine_for(server), requests[10:12], full_list)
    usual = store.usual(MODEL)
    assert usual is not None and usual.answers == 12 and 0.2 <= usual.seconds < 1.0


def test_the_estimate_of_a_batch_is_its_share_of_the_price(some_requests: Make, store: ExchangeStore) -> None:
    live = estimate(some_requests(5), HALVED, store, PaceSettings())
    batch = estimate(some_requests(5), HALVED, store, PaceSettings(), share=HALVED.of(MODEL).batch)
    assert batch.usd_at_most == live.usd_at_most / 2 > 0 and batch.usd == live.usd / 2


def test_a_hit_of_the_cache_is_counted_in_full_in_a_batch(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    def half_cached(output: bytes) -> bytes:
        return output.replace(b'"usage": {', b'"usage": {"prompt_tokens_details": {"cached_tokens": 40}, ')

    prices = DEAR.with_price(MODEL, Price(input=1e6, cached=0.0, output=1e6, batch=0.5, source="test"))
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /files/content"] = half_cached
        outcome = ask_all(batches_for(gate.base_url, prices=prices), some_requests(1))[0]
    assert isinstance(outcome, Exchange) and outcome.cached_tokens == 40
    assert outcome.usd == (outcome.prompt_tokens + outcome.completion_tokens) / 2


def test_the_table_halves_the_price_of_batches_where_the_provider_does() -> None:
    shares = {model: price.batch for model, price in Prices.load().models.items()}
    assert {shares[model] for model in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini")} == {0.5}
    assert {shares[model] for model in ("deepseek-reasoner", "deepseek-chat", MODEL)} == {1.0}
