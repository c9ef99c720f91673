"""Batch mode against the stand-in over real HTTP: what is answered, repaired, refused, paid and kept."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gate import gate_before
from salt_water import DEAR, ranking_prompt
from servers import serving
from test_secrets import ECHOES, KEY, dumped, echoing, traces

from inference.archive import records
from inference.batch import rows as batch_rows
from inference.batch.api import BatchRefused
from inference.batch.desk import input_line
from inference.batch.engine import BatchEngine, BatchSettings
from inference.batch.rows import BatchElsewhere
from inference.breaker import BreakerSettings, EndpointDown, MostlyErrors
from inference.budget import ASSUMED_TOKENS_PER_S, Budget, BudgetExceeded, estimate
from inference.endpoint import Endpoint, EndpointRefused
from inference.engine import Asks, Engine, ask_all
from inference.exchange import Exchange, Failure, Request, Sampling
from inference.prices import Price, Prices, UnknownPrice
from inference.progress import Progress
from inference.standin.answers import VERSION
from inference.standin.faults import Faults
from inference.standin.server import MODEL, Standin, running_standin
from inference.store import ExchangeStore

Make = Callable[..., list[Request]]
EngineFor = Callable[..., Engine]
BatchFor = Callable[..., BatchEngine]
Check = Callable[[Request, str], str | None]
# A dollar a token, half a dollar in a batch.
HALVED = DEAR.with_price(MODEL, Price(input=1e6, cached=1e6, output=1e6, batch=0.5, source="test"))


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


def ask(engine: Asks, requests: list[Request], check: Check) -> tuple[list[Exchange | Failure], Progress]:
    seen: list[Progress] = []
    outcomes = ask_all(engine, requests, check, on_progress=seen.append)
    return outcomes, seen[-1]


def rows_of(store: ExchangeStore, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(store.path) as con:
        return con.execute(sql).fetchall()


def kinds_of_spending(store: ExchangeStore) -> dict[str, int]:
    return dict(rows_of(store, "SELECT kind, count(*) FROM spend GROUP BY kind"))


def nothing_is_held(store: ExchangeStore) -> bool:
    claims, open_batches, lines = (
        rows_of(store, f"SELECT count(*) FROM {what}")[0][0]
        for what in ("claims", "batches WHERE ended_as IS NULL", "batch_lines")
    )
    return claims == open_batches == lines == store.reserved("all").tokens == 0


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


def test_batches_are_no_larger_than_they_may_be_and_no_more_of_them_are_open(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    most_open = 0

    def watch(_progress: Progress) -> None:
        nonlocal most_open
        open_now = rows_of(store, "SELECT count(*) FROM batches WHERE ended_as IS NULL")[0][0]
        most_open = max(most_open, open_now)

    with running_standin(Faults(batch_delay_s=0.1)) as server, gate_before(server.base_url) as gate:
        engine = batches_for(gate.base_url, max_requests=4, open_batches=2)
        ask_all(engine, some_requests(30), on_progress=watch, every_s=0.01)
        assert gate.seen["POST /batches"] == 8 and most_open == 2
        three_lines = 3 * (len(some_requests(1)[0].messages_json) + 512)
        ask_all(batches_for(gate.base_url, max_bytes=three_lines), [replace(r, generation=1) for r in some_requests(9)])
        assert gate.seen["POST /batches"] == 8 + 3
    assert [size for (size,) in rows_of(store, "SELECT requests FROM batches ORDER BY rowid")] == [4] * 7 + [2, 3, 3, 3]


def test_two_processes_on_one_store_have_no_more_batches_open_than_one(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore, tmp_path: Path
) -> None:
    requests, most_open = some_requests(24), 0

    def watch(_progress: Progress) -> None:
        nonlocal most_open
        open_now = rows_of(store, "SELECT count(*) FROM batches WHERE ended_as IS NULL")[0][0]
        most_open = max(most_open, open_now)

    async def drain(engine: BatchEngine, part: list[Request]) -> int:
        return len([one async for one in engine.ask(part, on_progress=watch, every_s=0.01)])

    async def both(one: BatchEngine, other: BatchEngine) -> list[int]:
        return await asyncio.gather(drain(one, requests[:12]), drain(other, requests[12:]))

    with running_standin(Faults(batch_delay_s=0.1)) as server, ExchangeStore(store.path) as second:
        settings = {"max_requests": 3, "open_batches": 2}
        pair = batches_for(server, **settings), batches_for(server, opened=second, **settings)
        assert asyncio.run(both(*pair)) == [12, 12]
    assert most_open == 2


def test_a_batch_is_sent_though_it_is_not_full_where_no_more_may_be_read(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    async def run(engine: BatchEngine) -> int:
        return len([one async for one in engine.ask(some_requests(12), full_list)])

    with running_standin(Faults(rate_garbage=0.4)) as server:
        engine = batches_for(server, max_requests=4, open_batches=1)
        # Repair turns take up the room that a further four requests would want.
        assert asyncio.run(asyncio.wait_for(run(engine), 10)) == 12
        assert server.counts["garbage"] > 0


def test_each_batch_asks_one_model(batches_for: BatchFor, some_requests: Make, store: ExchangeStore) -> None:
    other = [replace(r, sampling=replace(r.sampling, model="gpt-4o")) for r in some_requests(3)]
    with running_standin() as server, pytest.raises(BatchRefused, match="3 requests to gpt-4o"):
        ask_all(batches_for(server), [*some_requests(3), *other])
    assert sorted(rows_of(store, "SELECT model, requests FROM batches")) == [("gpt-4o", 3), (MODEL, 3)]


def test_requests_are_read_no_further_than_batches_may_be_open(batches_for: BatchFor, some_requests: Make) -> None:
    read = 0

    async def stream() -> AsyncIterator[Request]:
        nonlocal read
        for request in some_requests(100):
            read += 1
            yield request

    async def run(engine: BatchEngine) -> None:
        async with aclosing(engine.ask(stream())) as outcomes:
            await anext(outcomes)
            await asyncio.sleep(0.3)

    with running_standin() as server:
        asyncio.run(run(batches_for(server, max_requests=4, open_batches=3)))
    assert 4 <= read <= 2 * 12 + 1


def test_a_batch_is_sent_though_it_is_not_full_while_the_input_waits_for_its_answer(
    batches_for: BatchFor, some_requests: Make
) -> None:
    async def run(engine: BatchEngine) -> int:
        answered = asyncio.Event()

        async def stream() -> AsyncIterator[Request]:
            for request in some_requests(3):
                yield request
                await asyncio.wait_for(answered.wait(), 5)
                answered.clear()

        count = 0
        async for _ in engine.ask(stream()):
            count += 1
            answered.set()
        return count

    with running_standin() as server:
        assert asyncio.run(run(batches_for(server))) == 3


def test_several_streams_of_one_run_share_its_batches_and_figures(
    batches_for: BatchFor, some_requests: Make, full_list: Check
) -> None:
    requests = some_requests(20)
    seen: list[Progress] = []

    async def run(engine: BatchEngine) -> list[int]:
        async with engine.open(25, seen.append) as session:

            async def drain(part: list[Request]) -> int:
                return len([one async for one in session.ask(part, full_list) if isinstance(one, Exchange)])

            return await asyncio.gather(drain(requests[:10]), drain(requests[5:]))

    with running_standin(Faults(batch_delay_s=0.05)) as server:
        assert asyncio.run(run(batches_for(server, max_requests=5))) == [10, 15]
        assert server.counts["answered"] == 20
    assert (seen[-1].calls, seen[-1].done, seen[-1].stored) == (20, 25, 5)


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


def test_the_key_stays_out_of_errors_logs_progress_and_the_store(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-plantedsecret-0123456789"
    lines: list[str] = []
    with running_standin(api_key="another") as server:
        engine = batches_for(server, key=secret)
        try:
            ask_all(engine, some_requests(3), full_list, on_progress=lambda p: lines.append(p.line + repr(p)))
        except EndpointRefused as error:
            lines += [*traceback.format_exception(error), repr(error.__context__), repr(engine)]
        assert "key refused" in "".join(lines) and "incorrect API key provided: Bearer ***" in "".join(lines)
    assert nothing_is_held(store)
    faults = Faults(rate_garbage=0.3, rate_500=0.3)
    with running_standin(faults, api_key=secret) as server, gate_before(server.base_url) as gate:
        # An endpoint that answers with the key, wherever it can.
        gate.at["GET /files/content"] = lambda said: said.replace(b"The ", f"{secret} ".encode()).replace(b"the ", b"")
        outcomes = ask_all(batches_for(gate.base_url, key=secret), some_requests(10), full_list)
        lines += [repr(one) for one in outcomes]
        assert any(isinstance(one, Exchange) and one.reasoning.startswith("*** query") for one in outcomes)
    store.close()
    assert secret not in "\n".join(lines) and secret not in caplog.text and "/batches" in caplog.text
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent_and_not_shown(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        with pytest.raises(EndpointRefused, match=r"no HTTP header can carry") as caught:
            ask_all(batches_for(gate.base_url, key=f"{KEY}\n{KEY}"), some_requests(2))
        assert not gate.seen and nothing_is_held(store)
    assert traces(dumped(caught.value)) == []


@pytest.mark.parametrize("echo", ECHOES)
def test_an_endpoint_that_shows_the_key_it_was_sent_has_it_in_no_error_log_or_row(
    echo: str, batches_for: BatchFor, some_requests: Make, store: ExchangeStore, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echoing(ECHOES[echo]))
    with serving(app) as base_url:
        engine = batches_for(base_url, key=KEY, unreachable_s=0.01)
        with pytest.raises((EndpointRefused, EndpointDown)) as caught:
            ask_all(engine, some_requests(2), on_progress=lambda p: lines.append(p.line + repr(p)))
    assert nothing_is_held(store)
    store.close()
    # OpenAI's HTTP client logs a status line as it came, which no endpoint but this one fills with a key.
    logged = [r.getMessage() for r in caplog.records if (echo, r.name) != ("a reason", "httpx2")]
    written = [dumped(caught.value), repr(engine), *lines, *logged]
    written += [path.read_bytes().decode("utf-8", "replace") for path in store.path.parent.iterdir()]
    assert [trace for text in written for trace in traces(text)] == []


def test_an_answer_to_a_creation_that_names_no_batch_is_a_lost_one(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["POST /batches"] = lambda _said: b'{"choices": []}'
        outcomes = ask_all(batches_for(gate.base_url), some_requests(3))
        assert len(outcomes) == 3 == server.counts["answered"] and gate.seen["POST /batches"] == 1
    assert nothing_is_held(store)


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


def test_an_endpoint_without_a_batch_api_is_named(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, pytest.raises(EndpointRefused, match=r"not found.*has a Batch API; then run"):
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


def queue_full(said: bytes) -> bytes:
    errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}]
    failed = {"status": "failed", "errors": {"data": errors}, "output_file_id": None, "error_file_id": None}
    return json.dumps({**json.loads(said), **failed}).encode()


def test_a_batch_whose_upload_takes_long_is_kept_by_its_sender(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    def listed(until: float) -> list[bool]:
        with sqlite3.connect(store.path) as con:
            con.execute("UPDATE batches SET sender_until = ? WHERE sender_until > 0", (until,))
        store.clerk.submit(store.renew, writes=True).result()
        rows = store.clerk.submit(lambda con: batch_rows.open_rows(con, store), writes=False).result()
        return [row.sending for row in rows]

    async def leave(engine: BatchEngine, gate: Any) -> None:
        async with aclosing(engine.ask(some_requests(3))) as outcomes:
            asking = asyncio.ensure_future(anext(outcomes))
            while not gate.held:
                await asyncio.sleep(0.01)
            assert listed(until=time.time() - 1) == [True]
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        while gate.held:
            await asyncio.sleep(0.01)

    with running_standin() as server, gate_before(server.base_url) as gate:
        for place in ("POST /files", "POST /batches"):
            gate.at = {place: "hold"}
            asyncio.run(leave(batches_for(gate.base_url), gate))
            # Before the creation nothing is left of the batch; after it, the next run has to look.
            assert listed(until=time.time() + 60) == ([] if place == "POST /files" else [False])


def test_a_full_queue_at_the_provider_is_waited_for_with_fewer_batches_open(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    first: list[str] = []
    refused: set[str] = set()

    def one_at_a_time(said: bytes) -> bytes:
        batch = json.loads(said)
        running = {remote for (remote,) in rows_of(store, "SELECT remote FROM batches WHERE ended_as IS NULL")}
        first[:] = [one for one in first if one in running] or [batch["id"]]
        if batch["id"] in first and batch["id"] not in refused:
            return said
        refused.add(batch["id"])
        return queue_full(said)

    with running_standin(Faults(batch_delay_s=0.6)) as server, gate_before(server.base_url) as gate:
        gate.at["GET /batches"] = one_at_a_time
        outcomes = ask_all(batches_for(gate.base_url, max_requests=3, open_batches=3, rounds=0), some_requests(9))
    assert refused and all(isinstance(one, Exchange) and one.attempts == 1 for one in outcomes)
    assert len(outcomes) == 9 and nothing_is_held(store)


def test_a_queue_that_is_full_of_others_batches_stops_the_run(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /batches"] = queue_full
        with pytest.raises(BatchRefused, match=r"Enqueued token limit reached.*max_requests"):
            ask_all(batches_for(gate.base_url), some_requests(2))
    assert nothing_is_held(store)


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


def test_a_request_that_is_no_text_fails_alone(batches_for: BatchFor, some_requests: Make, full_list: Check) -> None:
    odd = Request("odd", ({"role": "user", "content": "half a pair: \ud800"},), Sampling(MODEL, 0.0, 1.0, 400))
    with running_standin() as server:
        outcomes, progress = ask(batches_for(server), [odd, *some_requests(3)], full_list)
    assert isinstance(outcomes[0], Failure) and outcomes[0].kind == "no text" and progress.good == 3


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
        command = str(caught.value).split("python -m inference.batch.rows ")[1].split()
        assert f"3 of these requests are in a batch that was filed for {there} at 20" in str(caught.value)
        batch_rows.main(command[:1])
        assert f"3 x {MODEL}  {there}  batch_" in capsys.readouterr().out
        batch_rows.main(command)
        assert store.spent("all") == worst and nothing_is_held(store)
        with pytest.raises(SystemExit):
            batch_rows.main(command)
        assert "no open batch" in capsys.readouterr().err
        assert len(ask_all(batches_for(server), some_requests(5))) == 5 == server.counts["answered"]
    assert kinds_of_spending(store) == {"answer": 5, "presumed": 3}


def test_a_batch_that_the_provider_has_lost_is_named_with_the_way_out(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["GET /batches"] = 404
        with pytest.raises(
            EndpointRefused, match=r"not found.*give it up.*python -m inference.batch.rows \S+ --give-up"
        ):
            ask_all(batches_for(gate.base_url), some_requests(2))
    assert store.reserved("all").tokens > 0 and len(rows_of(store, "SELECT 1 FROM batches WHERE ended_as IS NULL")) == 1


def test_an_answer_of_a_batch_says_nothing_about_how_long_a_live_one_takes(
    engine_for: EngineFor, batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(20)
    with running_standin(Faults(latency_s=0.2)) as server:
        ask(batches_for(server), requests[:10], full_list)
        usual = store.usual(MODEL)
        assert usual is not None and usual.seconds == usual.completion_tokens / ASSUMED_TOKENS_PER_S
        ask(engine_for(server), requests[10:12], full_list)
    usual = store.usual(MODEL)
    assert usual is not None and usual.answers == 12 and 0.2 <= usual.seconds < 0.4


def test_the_estimate_of_a_batch_is_its_share_of_the_price(some_requests: Make, store: ExchangeStore) -> None:
    live = estimate(some_requests(5), HALVED, store, in_flight=1)
    batch = estimate(some_requests(5), HALVED, store, in_flight=1, share=HALVED.of(MODEL).batch)
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


def test_the_table_halves_the_price_of_batches_where_the_provider_does() -> None:
    shares = {model: price.batch for model, price in Prices.load().models.items()}
    assert {shares[model] for model in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini")} == {0.5}
    assert {shares[model] for model in ("deepseek-reasoner", "deepseek-chat", MODEL)} == {1.0}


def test_progress_names_what_is_open(batches_for: BatchFor, some_requests: Make) -> None:
    seen: list[Progress] = []
    with running_standin(Faults(batch_delay_s=0.3)) as server:
        engine = batches_for(server, max_requests=3, open_batches=2)
        ask_all(engine, some_requests(6), on_progress=seen.append, every_s=0.05)
    assert max(one.in_flight for one in seen) == 6 and {one.concurrency for one in seen} == {6}
    assert max(one.oldest_s for one in seen) > 0.15 and seen[-1].in_flight == 0
    assert seen[-1].line.startswith("6/6 done, 0 stored, 6 calls, ")


def test_a_prompt_is_what_the_provider_reads_in_a_line(some_requests: Make) -> None:
    request = some_requests(1)[0]
    line = json.loads(input_line(request, "max_completion_tokens"))
    assert (line["custom_id"], line["method"], line["url"]) == (request.key, "POST", "/v1/chat/completions")
    assert line["body"] == {
        "messages": [{"role": "user", "content": ranking_prompt("Why does salt water dry out cell number 0?")}],
        "model": MODEL, "temperature": 0.0, "top_p": 1.0, "max_completion_tokens": 400,
    }  # fmt: skip
