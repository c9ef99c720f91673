"""Batch mode, the way back: what a batch brings is kept, handed out, mended, and never bought a second time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from asking import Check, EngineFor, Make
from batch_runs import HALVED, BatchFor, ask, kinds_of_spending, nothing_is_held
from gate import gate_before

from inference.archive import records
from inference.batch.engine import BatchEngine
from inference.engine import ask_all
from inference.exchange import Exchange, Failure, Request
from inference.standin.answers import VERSION
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore


def test_a_batch_brings_the_answers_of_the_live_engine_at_half_the_price(
    engine_for: EngineFor,
    batches_for: BatchFor,
    some_requests: Make,
    full_list: Check,
    store: ExchangeStore,
    tmp_path: Path,
) -> None:
    with running_standin() as server, ExchangeStore(tmp_path / "live.sqlite") as other:
        live = ask_all(engine_for(server, prices=HALVED, opened=other), some_requests(12), full_list)
        outcomes, progress = ask(batches_for(server, max_requests=5), some_requests(12), full_list)
        assert server.counts["answered"] == 24
    for one, its_like in zip(outcomes, live, strict=True):
        assert isinstance(one, Exchange) and isinstance(its_like, Exchange)
        assert one.usd == its_like.usd / 2 > 0
        same = {"usd": 0.0, "latency_s": 0.0, "created_at": ""}
        assert replace(one, **same) == replace(its_like, **same)
    assert isinstance(outcomes[0], Exchange) and outcomes[0].fingerprint == VERSION and not outcomes[0].from_store
    assert progress.calls == progress.good == 12 and progress.stored == 0
    assert progress.usd == store.spent("all").usd == other_half(live)
    assert nothing_is_held(store) and kinds_of_spending(store) == {"answer": 12}


def other_half(live: list[Exchange | Failure]) -> float:
    return sum(one.usd for one in live if isinstance(one, Exchange)) / 2


def test_a_second_run_buys_nothing_and_does_not_even_need_the_endpoint(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin() as server:
        first, _ = ask(batches_for(server), some_requests(9), full_list)
        gone = server.base_url
    again, progress = ask(batches_for(gone), some_requests(9), full_list)
    assert again == [replace(one, from_store=True) for one in first if isinstance(one, Exchange)]
    assert (progress.calls, progress.stored, progress.usd) == (0, 9, 0.0)


def test_the_live_engine_finds_what_a_batch_has_bought_and_a_batch_what_the_live_engine_has(
    engine_for: EngineFor, batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    requests = some_requests(12)
    with running_standin() as server:
        ask(batches_for(server), requests[:4], full_list)
        assert ask(engine_for(server), requests[:8], full_list)[1].stored == 4
        assert ask(batches_for(server), requests, full_list)[1].stored == 8
        assert server.counts["answered"] == 12


def test_an_answer_of_a_batch_is_kept_with_its_question_and_the_number_of_batches_it_took(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin(Faults(rate_500=0.5)) as server:
        outcomes, progress = ask(batches_for(server), some_requests(12), full_list)
    for request, outcome in zip(some_requests(12), outcomes, strict=True):
        record = next(records(store, [request.key]))
        assert isinstance(outcome, Exchange) and record.exchange == replace(outcome, from_store=True)
        assert record.messages == request.messages and record.sampling["max_tokens"] == 400
    attempts = [one.attempts for one in outcomes if isinstance(one, Exchange)]
    assert min(attempts) == 1 and sum(attempts) == progress.calls == 12 + progress.troubles["500"] > 12


def test_a_malformed_answer_is_mended_in_a_later_batch(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(40)
    with running_standin(Faults(rate_garbage=0.4)) as server:
        outcomes, progress = ask(batches_for(server), requests, full_list)
        assert server.counts["answered"] == progress.calls == 40 + progress.repaired + sum(progress.faulty.values())
    mended = [one for one in outcomes if isinstance(one, Exchange) and one.repaired]
    assert mended and all(one.repair_of in {r.key for r in requests} for one in mended)
    assert progress.repaired == len(mended) and progress.good == 40 - sum(progress.faulty.values())
    stored = {record.exchange.key: record for record in records(store, (r.key for r in requests))}
    assert len(stored) == progress.calls
    turn, first = stored[mended[0].key], stored[mended[0].repair_of or ""]
    assert [message["role"] for message in turn.messages] == ["user", "assistant", "user"]
    assert first.exchange.fault == "the list does not name every passage once" and turn.exchange.fault is None
    assert turn.exchange.request_id == first.exchange.request_id == mended[0].request_id


def test_an_answer_that_stays_malformed_comes_out_with_its_fault_and_is_not_bought_again(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as server:
        outcomes, progress = ask(batches_for(server), some_requests(6), full_list)
        again, second = ask(batches_for(server), some_requests(6), full_list)
        assert server.counts["answered"] == 12
    assert all(isinstance(one, Exchange) and one.fault and one.repair_of and one.content for one in outcomes)
    assert progress.faulty == {"malformed": 6} and second.calls == 0
    assert again == [replace(one, from_store=True) for one in outcomes if isinstance(one, Exchange)]


def test_a_repair_turn_that_no_batch_answers_is_a_failure_of_the_request(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    requests = some_requests(30)
    with running_standin(Faults(rate_garbage=0.5, rate_500=0.5)) as server:
        outcomes, _ = ask(batches_for(server, rounds=0), requests, full_list)
    turns = [one for one in outcomes if isinstance(one, Failure) and one.detail.startswith("in the repair turn")]
    assert turns and {one.key for one in turns} < {request.key for request in requests}
    assert "in the repair turn after 'the list does not name every passage once': HTTP 500" in turns[0].detail


def test_a_changed_parser_reads_the_answers_of_a_batch_again_for_nothing(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as server:
        ask(batches_for(server), some_requests(5), full_list)
        paid = server.counts["answered"]
        outcomes, _ = ask(batches_for(server), some_requests(5), lambda _request, _content: None)
        assert server.counts["answered"] == paid
    assert all(isinstance(one, Exchange) and one.fault is None and one.repair_of is None for one in outcomes)
    assert [r.exchange.fault for r in records(store, (r.key for r in some_requests(5)))].count(None) == 5


def test_one_question_under_two_ids_is_bought_once(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    one = some_requests(1)[0]
    with running_standin(Faults(rate_garbage=1.0)) as server:
        outcomes, progress = ask(batches_for(server), [replace(one, id=str(i)) for i in range(20)], full_list)
        assert server.counts["answered"] == progress.calls == 2
    assert sorted(o.request_id for o in outcomes) == sorted(str(i) for i in range(20))
    assert all(isinstance(o, Exchange) and o.repair_of == one.key for o in outcomes) and progress.stored == 19


def test_half_an_emoji_in_one_answer_spoils_no_other(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /files/content"] = lambda said: said.replace(b'"[2]', b'"\\ud83d [2]', 1)
        outcomes, _ = ask(batches_for(gate.base_url), some_requests(3), lambda _request, _content: None)
        assert server.counts["answered"] == 3
    contents = [one.content for one in outcomes if isinstance(one, Exchange)]
    assert len(contents) == 3 and sum(content.startswith("\ufffd [2]") for content in contents) == 1
    assert kinds_of_spending(store) == {"answer": 3}


def test_leaving_early_leaves_the_open_batches_to_the_next_run(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    async def run(engine: BatchEngine) -> set[asyncio.Task[object]]:
        async with aclosing(engine.ask(some_requests(20), full_list)) as outcomes:
            await anext(outcomes)
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    with running_standin(Faults(batch_delay_s=0.1)) as server:
        assert asyncio.run(run(batches_for(server, max_requests=5, open_batches=2))) == set()
        outcomes, progress = ask(batches_for(server, max_requests=5), some_requests(20), full_list)
        assert server.counts["answered"] == len(outcomes) == 20
    assert progress.stored >= 5 and progress.calls == 20 - progress.stored
    assert kinds_of_spending(store) == {"answer": 20} and nothing_is_held(store)


def test_an_error_in_the_check_surfaces_and_the_answers_are_kept(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    def broken(request: Request, content: str) -> str | None:
        raise ZeroDivisionError("parser bug")

    requests = some_requests(8)
    with running_standin() as server:
        with pytest.raises(ZeroDivisionError, match="parser bug"):
            ask_all(batches_for(server), requests, broken)
        assert len(list(records(store, (r.key for r in requests)))) == server.counts["answered"] == 8
    assert nothing_is_held(store)


def test_an_error_in_the_input_surfaces_after_what_was_answered(batches_for: BatchFor, some_requests: Make) -> None:
    answered: list[str] = []

    async def stream() -> AsyncIterator[Request]:
        for request in some_requests(4):
            yield request
        while len(answered) < 4:
            await asyncio.sleep(0.01)
        raise LookupError("the source broke off")

    async def run(engine: BatchEngine) -> None:
        async for outcome in engine.ask(stream()):
            answered.append(outcome.request_id)

    with running_standin() as server, pytest.raises(LookupError, match="broke off"):
        asyncio.run(run(batches_for(server)))
    assert sorted(answered) == ["r0", "r1", "r2", "r3"]
