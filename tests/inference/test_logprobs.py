"""Log-probabilities: part of what is asked, kept with the answer, and free when they are asked for again."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from asking import EngineFor, Make
from batch_runs import BatchFor
from gate import gate_before
from hypothesis import given
from hypothesis import strategies as st
from servers import answering, serving

from inference import logprobs
from inference.archive import everything, restore
from inference.engine import ask_all
from inference.exchange import Exchange, Request, Sampling
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

CHAT = "POST /chat/completions"


def with_logprobs(requests: list[Request], top: int = 5) -> list[Request]:
    asked = [(r, replace(r.sampling, top_logprobs=top)) for r in requests]
    return [replace(r, id=f"{r.id} with {top}", sampling=sampling) for r, sampling in asked]


def answered(outcomes: list) -> list[Exchange]:
    assert all(isinstance(one, Exchange) for one in outcomes)
    return outcomes


def test_what_came_back_is_stored_and_the_same_question_costs_nothing(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore, tmp_path: Path
) -> None:
    requests = with_logprobs(some_requests(3))
    with running_standin() as server:
        first = answered(ask_all(engine_for(server), requests))
        bought = server.counts["answered"]
        again = answered(ask_all(engine_for(server), requests))
        assert (bought, server.counts["answered"]) == (3, 3)
    assert again == [replace(one, from_store=True) for one in first]
    written = logprobs.tokens(again[0].logprobs)
    assert "".join(token.text for token in written) == again[0].content
    assert [len(token.top) for token in written if token.text.isdigit()] == [4, 3, 2, 1]
    with ExchangeStore(tmp_path / "rebuilt.sqlite") as other:
        restore(other, everything(store), "all")
        assert list(everything(other)) == list(everything(store))


def test_asking_for_log_probabilities_is_another_question_and_asking_for_none_the_old_one(
    engine_for: EngineFor, some_requests: Make
) -> None:
    plain = some_requests(1)
    with running_standin() as server:
        for asked in (plain, with_logprobs(plain, 0), with_logprobs(plain, 5), with_logprobs(plain, 6), plain):
            (outcome,) = answered(ask_all(engine_for(server), asked))
            assert (outcome.logprobs is None) is (asked is plain)
        assert server.counts["answered"] == 4


@pytest.mark.parametrize("top", [-1, 21])
def test_more_than_an_endpoint_lists_is_refused_before_it_is_asked(top: int) -> None:
    with pytest.raises(ValueError, match=f"top_logprobs is {top}: endpoints list from 0 to 20"):
        Sampling("m", 0.0, 1.0, 1, top_logprobs=top)


def test_batches_bring_them_too(batches_for: BatchFor, some_requests: Make, store: ExchangeStore) -> None:
    requests = with_logprobs(some_requests(2))
    with running_standin() as server:
        for outcome in answered(ask_all(batches_for(server), requests)):
            assert "".join(token.text for token in logprobs.tokens(outcome.logprobs)) == outcome.content


def test_an_answer_of_one_token_is_whole_and_bought_once(engine_for: EngineFor, some_requests: Make) -> None:
    asked: list[dict] = []

    async def reply(request: web.Request) -> web.Response:
        asked.append(await request.json())
        choice = {"message": {"content": "A"}, "finish_reason": "length", "logprobs": {"content": [TOKEN]}}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})

    with serving(answering(reply)) as base_url:
        (outcome,) = answered(ask_all(engine_for(base_url), with_logprobs(some_requests(1, max_tokens=1), 2)))
        (cut,) = answered(ask_all(engine_for(base_url), some_requests(1, max_tokens=1)))
    assert outcome.fault is None
    assert logprobs.tokens(outcome.logprobs) == (logprobs.Token("A", -0.5, (("A", -0.5), (" B", -9999.0))),)
    # Where a text was asked for, one that is cut off is a fault, whatever an endpoint tells unasked.
    assert cut.fault is not None and cut.logprobs is None
    assert [(body.get("logprobs"), body.get("top_logprobs")) for body in asked] == [(True, 2), *[(None, None)] * 2]


TOKEN = {
    "token": "A", "logprob": -0.5, "bytes": [65],
    "top_logprobs": [{"token": "A", "logprob": -0.5}, {"token": " B", "logprob": float("-inf")}],
}  # fmt: skip


def test_a_faulty_answer_that_is_not_to_be_mended_is_bought_once_and_kept_with_its_fault(
    engine_for: EngineFor, batches_for: BatchFor, some_requests: Make
) -> None:
    requests = [replace(request, mend=False) for request in some_requests(3)]
    with running_standin(Faults(rate_cutoff=1.0)) as server:
        outcomes = answered(ask_all(engine_for(server), requests))
        assert server.counts["answered"] == 3 and all(one.fault for one in outcomes)
        again = answered(ask_all(batches_for(server), requests))
        assert server.counts["answered"] == 3 and [one.fault for one in again] == [one.fault for one in outcomes]
        fresh = answered(ask_all(batches_for(server), [r.in_generation(1) for r in requests]))
        assert server.counts["answered"] == 6 and all(one.fault for one in fresh)
        # Who wants it mended later buys the one turn that this takes.
        ask_all(engine_for(server), some_requests(3))
        assert server.counts["answered"] == 9


def test_a_store_from_before_keeps_its_answers_and_takes_new_ones(
    engine_for: EngineFor, some_requests: Make, tmp_path: Path
) -> None:
    path, requests = tmp_path / "old.sqlite", some_requests(4)
    with running_standin() as server:
        with ExchangeStore(path) as opened:
            before = answered(ask_all(engine_for(server, opened=opened), requests))
        with sqlite3.connect(path) as con:  # as it was written before log-probabilities were kept
            con.execute("ALTER TABLE exchanges DROP COLUMN logprobs")
            con.execute("PRAGMA user_version = 1")
        for _ in range(2):  # the second time it is of the new form
            with ExchangeStore(path) as opened:
                after = answered(ask_all(engine_for(server, opened=opened), [*requests, *with_logprobs(requests)]))
        assert after[:4] == [replace(one, from_store=True) for one in before]
        assert all(one.logprobs for one in after[4:]) and server.counts["answered"] == 8


def test_log_probabilities_that_are_none_are_an_answer_that_cannot_be_read(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[CHAT] = lambda said: said.replace(b'"logprob": ', b'"logprob": "x", "was": ')
        (outcome,) = ask_all(engine_for(gate.base_url, max_attempts=1), with_logprobs(some_requests(1)))
    assert not isinstance(outcome, Exchange) and outcome.kind == "unreadable"
    assert list(everything(store)) == []


probabilities = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=40).map(
    lambda parts: sorted((part / math.fsum(parts) for part in parts), reverse=True)
)


@given(probabilities, st.integers(1, 20))
def test_no_token_that_is_not_listed_is_likelier_than_the_bound(parts: list[float], top: int) -> None:
    listed = tuple((str(place), math.log(part)) for place, part in enumerate(parts[:top]))
    bound = math.exp(logprobs.Token("0", listed[0][1], listed).most_absent)
    assert all(part <= bound + 1e-8 for part in parts[top:])
    assert bound <= parts[:top][-1] + 1e-12
    if top >= len(parts):
        assert bound < 1e-8
