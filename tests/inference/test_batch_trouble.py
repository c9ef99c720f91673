"""Batch mode when something goes wrong: lines, batches and endpoints that fail, expire, refuse or are lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from asking import Check, Make
from batch_runs import BatchFor, ask, kinds_of_spending, nothing_is_held, rows_of
from gate import gate_before

from inference.batch.__main__ import main as batch_main
from inference.batch.api import BatchRefused
from inference.batch.engine import BatchEngine
from inference.batch.rows import BatchElsewhere
from inference.breaker import BreakerSettings, EndpointDown, MostlyErrors
from inference.endpoint import EndpointRefused, RequestRefused
from inference.engine import ask_all
from inference.exchange import Exchange, Failure
from inference.standin.faults import Faults
from inference.standin.server import MODEL, running_standin
from inference.store import ExchangeStore


def test_lines_that_meet_a_fault_are_sent_again_and_cost_nothing(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    faults = Faults(rate_429=0.15, rate_500=0.15, rate_reset=0.1, rate_slow=0.1)
    with running_standin(faults) as server:
        outcomes, progress = ask(batches_for(server, max_requests=8), some_requests(30), full_list)
        assert server.counts["answered"] == 30
        broken = server.counts["reset"] + server.counts["slow"]
        assert progress.troubles == {
            "429": server.counts["429"],
            "500": server.counts["500"],
            "request timeout": broken,
        }
        assert min(progress.troubles.values()) > 0
    assert all(isinstance(one, Exchange) and one.fault is None for one in outcomes)
    assert kinds_of_spending(store) == {"answer": 30} and nothing_is_held(store)


def test_a_request_that_no_batch_answers_is_a_failure_and_can_be_asked_again(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin(Faults(rate_500=1.0)) as server:
        outcomes, progress = ask(batches_for(server, rounds=2), some_requests(3), full_list)
        assert server.counts["500"] == 3 * 3 == progress.calls
    assert [(one.kind, one.key) for one in outcomes if isinstance(one, Failure)] == [
        ("500", request.key) for request in some_requests(3)
    ]
    assert "the server had an error (batches: 3)" in outcomes[0].detail and progress.failed == {"500": 3}
    assert store.spent("all").tokens == 0 and nothing_is_held(store)
    with running_standin() as server:
        assert all(isinstance(one, Exchange) for one in ask(batches_for(server), some_requests(3), full_list)[0])


def test_what_an_expired_batch_has_left_undone_is_sent_again(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin(Faults(batch_expire_share=0.4)) as server:
        outcomes, progress = ask(batches_for(server), some_requests(10), full_list)
        assert server.counts["answered"] == 10
    assert all(isinstance(one, Exchange) for one in outcomes) and progress.troubles["batch expired"] >= 4
    assert {row[0] for row in rows_of(store, "SELECT ended_as FROM batches")} == {"expired", "completed"}
    assert kinds_of_spending(store) == {"answer": 10} and nothing_is_held(store)


def test_a_request_whose_batches_all_expire_fails_with_that(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin(Faults(batch_expire_share=1.0)) as server:
        outcomes, progress = ask(batches_for(server, rounds=1), some_requests(2), full_list)
        assert server.counts["answered"] == 0
    assert [one.kind for one in outcomes if isinstance(one, Failure)] == ["batch expired"] * 2
    assert progress.calls == 4 and store.spent("all").tokens == 0


def test_a_batch_that_is_refused_as_a_whole_stops_the_run_with_what_the_provider_says(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = [replace(r, sampling=replace(r.sampling, model="gpt-4o")) for r in some_requests(7)]
    with running_standin() as server:
        with pytest.raises(BatchRefused) as caught:
            ask(batches_for(server), requests, full_list)
        assert not server.counts
    said = str(caught.value)
    assert "refused a batch of 7 requests to gpt-4o (the first is r0): line 1: model_not_found: The provided" in said
    assert "and 2 more" in said and "Nothing of it was charged" in said and "Check the model name" in said
    assert store.spent("all").tokens == 0 and nothing_is_held(store)


def test_an_endpoint_without_a_batch_api_is_named(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with (
        running_standin() as server,
        pytest.raises(RequestRefused, match=r"not found.*have a Batch API\? Check base_url"),
    ):
        ask_all(batches_for(f"{server.base_url}/v2"), some_requests(2))
    assert store.spent("all").tokens == 0 and nothing_is_held(store)


@pytest.mark.parametrize("place", ["GET /batches", "POST /files", "GET /files/content"])
@pytest.mark.parametrize("at", [503, 429, "cut"])
def test_a_fault_on_the_way_is_waited_out(
    place: str, at: str | int, batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    async def run(engine: BatchEngine, gate: Any) -> int:
        async def open_again() -> None:
            while gate.seen[place] < 2:
                await asyncio.sleep(0.01)
            gate.at.clear()

        opener = asyncio.create_task(open_again())
        count = len([one async for one in engine.ask(some_requests(3)) if isinstance(one, Exchange)])
        await opener
        return count

    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[place] = at
        assert asyncio.run(run(batches_for(gate.base_url), gate)) == 3
        assert server.counts["answered"] == 3 == kinds_of_spending(store)["answer"]


def test_an_endpoint_that_stays_out_of_reach_ends_the_run_and_the_next_one_collects_what_it_had(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /batches"] = 503
        with pytest.raises(EndpointDown, match=r"out of reach for 1 s.*HTTP 503.*next run collects them.*is up"):
            ask_all(batches_for(gate.base_url, unreachable_s=1.0), some_requests(4))
        gate.at.clear()
        outcomes = ask_all(batches_for(gate.base_url), some_requests(4))
        assert server.counts["answered"] == 4 and gate.seen["POST /batches"] == 1
    assert all(isinstance(one, Exchange) and one.from_store for one in outcomes)
    assert kinds_of_spending(store) == {"answer": 4} and nothing_is_held(store)


@pytest.mark.parametrize("at", ["cut answer", "cut", 500])
def test_a_creation_whose_answer_is_lost_is_looked_up_and_never_made_twice(
    at: str | int, batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    async def run(engine: BatchEngine, gate: Any) -> list[Any]:
        async def open_again() -> None:
            while not gate.seen["POST /batches"]:
                await asyncio.sleep(0.001)
            gate.at.clear()

        opener = asyncio.create_task(open_again())
        outcomes = [one async for one in engine.ask(some_requests(5))]
        await opener
        return outcomes

    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["POST /batches"] = at
        outcomes = asyncio.run(run(batches_for(gate.base_url), gate))
        assert server.counts["answered"] == 5 and gate.passed["POST /batches"] == 1
        assert gate.seen["POST /batches"] == (1 if at == "cut answer" else 2)
    assert all(isinstance(one, Exchange) and not one.from_store for one in outcomes)
    assert kinds_of_spending(store) == {"answer": 5} and nothing_is_held(store)


def test_an_answer_to_a_creation_that_names_no_batch_is_a_lost_one(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["POST /batches"] = lambda _said: b'{"choices": []}'
        outcomes = ask_all(batches_for(gate.base_url), some_requests(3))
        assert len(outcomes) == 3 == server.counts["answered"] and gate.seen["POST /batches"] == 1
    assert nothing_is_held(store)


def test_answers_that_are_mostly_unusable_stop_the_run(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as server:
        breaker = BreakerSettings(window=10, share=0.8)
        engine = batches_for(server, breaker=breaker, max_requests=10, open_batches=1)
        with pytest.raises(MostlyErrors, match="10 of the last 10 answers"):
            ask_all(engine, some_requests(100), full_list)
        assert server.counts["answered"] <= 20


def test_requests_in_a_batch_at_another_address_are_named_and_can_be_given_up(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore, capsys: Any
) -> None:
    async def leave(engine: BatchEngine, gate: Any) -> None:
        async with aclosing(engine.ask(some_requests(3))) as outcomes:
            asking = asyncio.ensure_future(anext(outcomes))
            while not rows_of(store, "SELECT 1 FROM batches WHERE remote IS NOT NULL"):
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with running_standin(Faults(batch_delay_s=60.0)) as first, gate_before(first.base_url) as gate:
        asyncio.run(leave(batches_for(gate.base_url), gate))
        there = gate.base_url
    worst = store.reserved("all")
    with running_standin() as server:
        with pytest.raises(BatchElsewhere) as caught:
            ask_all(batches_for(server), some_requests(5))
        command = str(caught.value).split("python -m inference.batch ")[1].split()
        assert f"3 of these requests are in a batch that was filed for {there} at 20" in str(caught.value)
        batch_main(command[:1])
        assert f"3 x {MODEL}  {there}  batch_" in capsys.readouterr().out
        batch_main(command)
        assert store.spent("all") == worst and nothing_is_held(store)
        with pytest.raises(SystemExit):
            batch_main(command)
        assert "no open batch" in capsys.readouterr().err
        assert len(ask_all(batches_for(server), some_requests(5))) == 5 == server.counts["answered"]
    assert kinds_of_spending(store) == {"answer": 5, "presumed": 3}


def test_a_batch_that_the_provider_has_lost_is_named_with_the_way_out(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /batches"] = 404
        with pytest.raises(EndpointRefused, match=r"not found.*give it up.*python -m inference.batch \S+ --give-up"):
            ask_all(batches_for(gate.base_url), some_requests(2))
    assert store.reserved("all").tokens > 0 and len(rows_of(store, "SELECT 1 FROM batches WHERE ended_as IS NULL")) == 1
