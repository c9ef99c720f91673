"""Batch mode, the way out: what goes into which batch, how many are open, and what a provider's queue does to it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import Check, Make
from batch_runs import BatchFor, ask, nothing_is_held, rows_of
from gate import gate_before
from salt_water import ranking_prompt

from inference.batch import rows as batch_rows
from inference.batch.api import BatchRefused
from inference.batch.desk import input_line
from inference.batch.engine import BatchEngine
from inference.engine import ask_all
from inference.exchange import Exchange, Failure, Request, Sampling
from inference.progress import Progress
from inference.standin.faults import Faults
from inference.standin.server import MODEL, running_standin
from inference.store import ExchangeStore


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


def queue_full(said: bytes) -> bytes:
    errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}]
    failed = {"status": "failed", "errors": {"data": errors}, "output_file_id": None, "error_file_id": None}
    return json.dumps({**json.loads(said), **failed}).encode()


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


def test_a_request_that_is_no_text_fails_alone(batches_for: BatchFor, some_requests: Make, full_list: Check) -> None:
    odd = Request("odd", ({"role": "user", "content": "half a pair: \ud800"},), Sampling(MODEL, 0.0, 1.0, 400))
    with running_standin() as server:
        outcomes, progress = ask(batches_for(server), [odd, *some_requests(3)], full_list)
    assert isinstance(outcomes[0], Failure) and outcomes[0].kind == "no text" and progress.good == 3


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
