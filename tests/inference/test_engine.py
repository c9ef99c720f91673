"""The engine against the stand-in over real HTTP: what is answered, retried, repaired, refused and kept."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from asking import Check, EngineFor, Make

from inference.archive import records
from inference.endpoint import EndpointRefused
from inference.engine import Engine, ask_all
from inference.exchange import Exchange, Failure, Request
from inference.progress import Progress
from inference.purchase import accept_all
from inference.standin.answers import VERSION
from inference.standin.faults import Faults
from inference.standin.server import MODEL, running_standin
from inference.store import ExchangeStore


def ask(engine: Engine, requests: list[Request], check: Check) -> tuple[list[Exchange | Failure], Progress]:
    seen: list[Progress] = []
    outcomes = ask_all(engine, requests, check, on_progress=seen.append)
    return outcomes, seen[-1]


def test_an_answer_comes_with_its_chain_its_usage_and_who_gave_it(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin() as server:
        outcomes, progress = ask(engine_for(server), some_requests(3), full_list)
    assert [o.request_id for o in outcomes] == ["r0", "r1", "r2"]
    answer = outcomes[0]
    assert isinstance(answer, Exchange) and answer.fault is None and not answer.from_store
    assert answer.content.startswith("[2] > ") and "osmosis" not in answer.reasoning
    assert "salt" in answer.reasoning and answer.finish_reason == "stop"
    assert (answer.served_model, answer.fingerprint) == (MODEL, VERSION)
    assert answer.prompt_tokens > 40 and answer.completion_tokens > 20 and answer.latency_s > 0
    assert progress.calls == progress.done == progress.good == 3
    record = next(records(store, [answer.key]))
    assert record.exchange == replace(answer, from_store=True)
    assert record.messages == some_requests(1)[0].messages and record.sampling["max_tokens"] == 400


def test_a_stored_answer_comes_back_free_and_only_what_is_missing_is_bought(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin() as server:
        first, _ = ask(engine_for(server), some_requests(20), full_list)
        again, progress = ask(engine_for(server), some_requests(25), full_list)
        assert server.counts["answered"] == 25
    assert [replace(o, from_store=True) for o in first] == again[:20]
    assert (progress.stored, progress.calls) == (20, 5)


def test_one_question_under_two_ids_is_bought_once(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    one = some_requests(1)[0]
    with running_standin(Faults(latency_s=0.05)) as server:
        outcomes, _ = ask(engine_for(server), [replace(one, id=str(i)) for i in range(20)], full_list)
        assert server.counts["answered"] == 1
    assert sorted(o.request_id for o in outcomes) == sorted(str(i) for i in range(20))


def test_a_changed_parser_reads_stored_answers_again_for_nothing(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as server:
        ask(engine_for(server), some_requests(5), full_list)
        paid = server.counts["answered"]
        outcomes, _ = ask(engine_for(server), some_requests(5), accept_all)
        assert server.counts["answered"] == paid
    assert all(isinstance(o, Exchange) and o.fault is None and o.repair_of is None for o in outcomes)


def test_an_error_in_the_check_surfaces_and_the_answers_are_kept(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    def broken(request: Request, content: str) -> str | None:
        raise ZeroDivisionError("parser bug")

    requests = some_requests(8)
    with running_standin() as server:
        with pytest.raises(ZeroDivisionError, match="parser bug"):
            ask_all(engine_for(server), requests, broken)
        assert len(list(records(store, (r.key for r in requests)))) == server.counts["answered"] > 0
    assert store.reserved("all").tokens == 0


def test_an_error_surfaces_though_the_input_never_ends(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    async def stream() -> AsyncIterator[Request]:
        yield some_requests(1)[0]
        await asyncio.Event().wait()

    def broken(request: Request, content: str) -> str | None:
        raise ZeroDivisionError("parser bug")

    async def drain(engine: Engine) -> None:
        async for _ in engine.ask(stream(), broken):
            pass

    with running_standin() as server, pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(drain(engine_for(server)), 5))


def test_an_error_in_the_input_surfaces_after_what_was_answered(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    async def stream() -> AsyncIterator[Request]:
        for request in some_requests(12):
            yield request
        raise LookupError("the source broke off")

    async def collect(engine: Engine) -> list[Exchange | Failure]:
        got: list[Exchange | Failure] = []
        with pytest.raises(LookupError, match="broke off"):
            async for outcome in engine.ask(stream(), full_list):
                got.append(outcome)
        return got

    with running_standin(Faults(latency_s=0.05)) as server:
        got = asyncio.run(collect(engine_for(server, start_in_flight=12)))
        assert len(got) == server.counts["answered"] > 0


def test_an_answer_is_handed_out_while_the_input_is_still_waiting(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    async def run(engine: Engine) -> int:
        answered = asyncio.Event()

        async def stream() -> AsyncIterator[Request]:
            for request in some_requests(3):
                yield request
                await asyncio.wait_for(answered.wait(), 5)
                answered.clear()

        count = 0
        async for _ in engine.ask(stream(), full_list):
            count += 1
            answered.set()
        return count

    with running_standin() as server:
        assert asyncio.run(run(engine_for(server))) == 3


def test_the_input_is_read_no_further_than_the_output_is_taken(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    read = 0

    async def stream() -> AsyncIterator[Request]:
        nonlocal read
        for request in some_requests(400):
            read += 1
            yield request

    async def run(engine: Engine) -> None:
        async with aclosing(engine.ask(stream(), full_list)) as outcomes:
            await anext(outcomes)
            await asyncio.sleep(0.4)

    with running_standin() as server:
        asyncio.run(run(engine_for(server, max_in_flight=8)))
        assert 1 <= server.counts["answered"] <= read <= 1 + 6 * 8
    assert store.reserved("all").tokens == 0


def test_leaving_early_ends_every_task_and_keeps_what_was_in_flight(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    async def run(engine: Engine) -> set[asyncio.Task[object]]:
        async with engine.open() as session, aclosing(session.ask(some_requests(1000), full_list)) as outcomes:
            await anext(outcomes)
            while not session.purchase.progress().in_flight:
                await asyncio.sleep(0.01)
        return asyncio.all_tasks() - {asyncio.current_task()}

    with running_standin(Faults(latency_s=0.1)) as server:
        assert asyncio.run(run(engine_for(server))) == set()
        assert 1 < server.counts["answered"] < 100
    assert store.reserved("all").tokens == 0
    with sqlite3.connect(store.path) as con:
        kinds = dict(con.execute("SELECT kind, count(*) FROM spend GROUP BY kind").fetchall())
    assert kinds == {"answer": server.counts["answered"]}


def test_a_model_that_the_endpoint_does_not_serve_stops_the_run(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    requests = [replace(r, sampling=replace(r.sampling, model="deepseek-chat")) for r in some_requests(50)]
    with running_standin() as server, pytest.raises(EndpointRefused, match=r"refuses deepseek-chat.*model name"):
        ask_all(engine_for(server), requests, full_list)


def test_progress_is_one_line_with_what_a_person_asks_for(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    lines: list[str] = []
    with running_standin(Faults(latency_s=0.05)) as server:
        engine = engine_for(server, max_in_flight=4)
        ask_all(engine, some_requests(40), full_list, on_progress=lambda p: lines.append(p.line), every_s=0.1)
    assert len(lines) > 2
    assert lines[-1].startswith("40/40 done, 0 stored, 40 calls, ")
    assert "in flight of 4" in lines[0] and "left" in lines[1] and "$0.00" in lines[-1]
