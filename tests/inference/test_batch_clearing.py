"""Batch mode and what is left at the provider: files are deleted once answers are stored, batches are cancelled."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from asking import Make
from batch_runs import BatchFor, kinds_of_spending, nothing_is_held, rows_of
from gate import gate_before

from inference.batch.__main__ import main as batch_main
from inference.batch.engine import BatchEngine
from inference.batch.giving_up import give_up_now
from inference.engine import ask_all
from inference.exchange import Exchange, Request
from inference.progress import Progress
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore


def shown(server: Standin, what: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{server.base_url}/{what}", timeout=10) as answer:
        listed: list[dict[str, Any]] = json.load(answer)["data"]
    return listed


async def leave_when(engine: BatchEngine, requests: list[Request], happened: Callable[[], bool]) -> None:
    """Send batches, and leave them open at a moment."""
    async with aclosing(engine.ask(requests)) as outcomes:
        asking = asyncio.ensure_future(anext(outcomes))
        while not happened():
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def test_the_files_of_a_batch_are_deleted_once_its_answers_are_stored(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    seen: list[Progress] = []
    with running_standin(Faults(rate_500=0.3)) as server, gate_before(server.base_url) as gate:
        outcomes = ask_all(batches_for(gate.base_url, max_requests=5), some_requests(12), on_progress=seen.append)
        assert all(isinstance(one, Exchange) for one in outcomes)
        counted = {name: seen[-1].figures[f"batch_files_{name}"] for name in ("deleted", "left")}
        assert counted == {"deleted": gate.passed["DELETE /files"], "left": 0}
        assert gate.seen["DELETE /files"] > gate.passed["POST /files"] >= 3 and shown(server, "files") == []
    assert nothing_is_held(store) and rows_of(store, "SELECT * FROM batch_files") == []


def test_files_are_left_where_that_is_wanted(batches_for: BatchFor, some_requests: Make, store: ExchangeStore) -> None:
    with running_standin() as server:
        ask_all(batches_for(server, delete_files=False), some_requests(3))
        assert sorted(file["purpose"] for file in shown(server, "files")) == ["batch", "batch_output"]
    assert rows_of(store, "SELECT * FROM batch_files") == []


def test_no_file_is_deleted_before_its_answers_are_stored(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    stored_then: list[int] = []

    def deleting(said: bytes) -> bytes:
        stored_then.append(rows_of(store, "SELECT count(*) FROM exchanges")[0][0])
        return said

    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["DELETE /files"] = deleting
        ask_all(batches_for(gate.base_url), some_requests(4))
    assert stored_then == [4, 4]


@pytest.mark.parametrize("at", ["cut", 503])
def test_files_that_cannot_be_deleted_now_fail_nothing_and_are_deleted_by_the_next_run(
    at: str | int, batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["DELETE /files"] = at
        seen: list[Progress] = []
        assert len(ask_all(batches_for(gate.base_url), some_requests(3), on_progress=seen.append)) == 3
        assert seen[-1].figures["batch_files_left"] == 2 and seen[-1].figures["batch_files_deleted"] == 0
        assert "2 files of batches to be deleted there yet" in seen[-1].line
        assert len(shown(server, "files")) == 2 == len(rows_of(store, "SELECT * FROM batch_files"))
        gate.at.clear()
        ask_all(batches_for(gate.base_url), some_requests(3))
        assert shown(server, "files") == [] == rows_of(store, "SELECT * FROM batch_files")


def test_files_that_may_not_be_deleted_are_named_once_and_fail_nothing(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore, caplog: pytest.LogCaptureFixture
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["DELETE /files"] = 403
        for _ in range(2):
            assert len(ask_all(batches_for(gate.base_url), some_requests(3))) == 3
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 2 and all("which refuses to delete it: forbidden (HTTP 403" in one for one in said)


def test_the_input_file_of_a_batch_that_was_never_made_is_deleted(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at["POST /batches"] = "hold"
        asyncio.run(leave_when(batches_for(gate.base_url), some_requests(3), lambda: gate.held > 0))
        gate.at.clear()
        assert len(shown(server, "files")) == 1
        ask_all(batches_for(gate.base_url, settle_s=0.0), some_requests(3))
        assert shown(server, "files") == [] and server.counts["answered"] == 3


def opened(server: Standin, batches_for: BatchFor, requests: list[Request], store: ExchangeStore, answered: int) -> str:
    """The id of a batch that is left open when so many of its lines are answered."""
    asyncio.run(leave_when(batches_for(server), requests, lambda: server.counts["answered"] >= answered))
    return str(rows_of(store, "SELECT batch FROM batches WHERE ended_as IS NULL")[0][0])


def test_a_batch_that_is_given_up_is_cancelled_and_what_it_has_answered_is_kept(
    batches_for: BatchFor,
    some_requests: Make,
    store: ExchangeStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_standin(Faults(batch_delay_s=5.0)) as server:
        batch = opened(server, batches_for, some_requests(20), store, answered=3)
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        batch_main([str(store.path), "--give-up", batch])
        assert f"{batch}: cancelled at {server.base_url}; what it brought is kept" in capsys.readouterr().out
        answered = server.counts["answered"]
        assert [one["status"] for one in shown(server, "batches")] == ["cancelled"] and 3 <= answered < 20
        assert kinds_of_spending(store) == {"answer": answered} and nothing_is_held(store)
        assert shown(server, "files") == []


def test_a_batch_that_had_ended_when_it_is_given_up_is_collected_whole(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(batch_delay_s=0.5)) as server:
        batch = opened(server, batches_for, some_requests(4), store, answered=1)
        while shown(server, "batches")[0]["status"] != "completed":
            pass
        assert "completed at" in give_up_now(store, batch, server.base_url, "none")
    assert kinds_of_spending(store) == {"answer": 4} and nothing_is_held(store)


def test_a_batch_that_does_not_end_in_time_counts_as_spent_though_it_was_cancelled(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(batch_delay_s=60.0)) as server:
        batch = opened(server, batches_for, some_requests(200), store, answered=1)
        worst = store.reserved("all")
        said = give_up_now(store, batch, server.base_url, "none", within_s=0.2)
        assert "counted as spent in full; it had not ended there within 0.2 s of being cancelled" in said
        assert shown(server, "batches")[0]["status"] == "cancelling"
    assert store.spent("all") == worst and nothing_is_held(store)


def test_a_batch_elsewhere_is_given_up_without_showing_a_key_to_another_address(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(batch_delay_s=60.0)) as server, running_standin(api_key="another") as other:
        batch = opened(server, batches_for, some_requests(50), store, answered=1)
        said = give_up_now(store, batch, other.base_url, "sk-for-another-address")
        assert (
            f"OPENAI_BASE_URL is not {server.base_url}, so it was not cancelled there. Its id there is batch_" in said
        )
        assert not other.counts and shown(server, "batches")[0]["status"] == "in_progress"
    assert nothing_is_held(store)


def test_a_batch_at_an_endpoint_that_is_gone_can_be_given_up(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(batch_delay_s=60.0)) as server:
        batch, gone = opened(server, batches_for, some_requests(50), store, answered=1), server.base_url
    said = give_up_now(store, batch, gone, "none", within_s=0.5)
    assert "counted as spent in full; it was not cancelled there" in said and "out of reach" in said
    assert nothing_is_held(store)
