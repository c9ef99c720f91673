"""How long is waited: as an endpoint asks, within a rate limit, and never beyond the deadline of a request."""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from contextlib import aclosing

import pytest
from asking import Check, EngineFor, Late, Make, ask, at_worst, good, kept, playing, spending
from salt_water import DEAR

from inference.endpoint import RETRY_AFTER_AT_MOST_S, retry_after_s
from inference.engine import Engine
from inference.exchange import Exchange, Failure
from inference.prices import NOTHING
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore


def test_a_429_is_waited_out_as_the_endpoint_asks_and_lowers_the_pace(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    started = time.monotonic()
    with running_standin(Faults(rate_429=0.2, retry_after_s=0.2, latency_s=0.01)) as server:
        outcomes, progress = ask(engine_for(server, start_in_flight=16), some_requests(25), full_list)
        assert server.counts["429"] > 0
    assert len(good(outcomes)) == 25
    assert time.monotonic() - started > 0.2
    assert progress.concurrency < 16


SECONDS = {"3": 3.0, "0.5": 0.5, None: None, "soon": None, "-1": 0.0, "60000": RETRY_AFTER_AT_MOST_S, "inf": None}


@pytest.mark.parametrize(("header", "seconds"), SECONDS.items())
def test_retry_after_is_read_as_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert 50 < (retry_after_s(email.utils.formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert retry_after_s("Wed, 21 Oct 2099 07:28:00 GMT") == RETRY_AFTER_AT_MOST_S


def test_while_an_endpoint_asks_everybody_to_wait_nothing_is_claimed_and_the_progress_says_so(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    async def paused(engine: Engine) -> str:
        async with engine.open() as session, aclosing(session.ask(some_requests(50))) as outcomes:
            first = asyncio.ensure_future(anext(outcomes))
            async with asyncio.timeout(10):
                while not session.purchase.progress().troubles or store.reserved("all") != NOTHING:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert store.reserved("all") == NOTHING and not first.done()
            first.cancel()
            await asyncio.wait([first])
            return session.purchase.progress().line

    with running_standin(Faults(rate_429=1.0, retry_after_s=90.0)) as server:
        line = asyncio.run(paused(engine_for(server, start_in_flight=1, max_in_flight=4)))
    assert ", the endpoint asks to wait 1:2" in line


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_a_request_that_a_rate_limit_keeps_waiting_fails_at_its_deadline(
    limit: str, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin() as server:
        began = time.monotonic()
        outcomes, progress = ask(engine_for(server, deadline_s=0.5, **{limit: 1.0}), some_requests(8), full_list)
        assert time.monotonic() - began < 60, "the next allowance is a minute away"
    assert progress.failed.keys() == {"too late"} and 1 <= progress.calls == len(good(outcomes)) < 8
    assert store.reserved("all") == NOTHING


def test_the_tokens_of_an_answer_are_taken_from_the_allowance_once_they_are_known(
    engine_for: EngineFor, some_requests: Make
) -> None:
    async def owed(engine: Engine) -> tuple[float, float]:
        async with engine.open() as session:
            (answer,) = [outcome async for outcome in session.ask(some_requests(1))]
            assert isinstance(answer, Exchange)
            tokens = session.purchase.pace(answer.model).tokens
            return answer.prompt_tokens + answer.completion_tokens, tokens.wait_s()

    with running_standin() as server:
        taken, wait_s = asyncio.run(owed(engine_for(server, tokens_per_minute=60.0)))
    # One comes back a second, and there were two.
    assert taken > 60 and taken - 2 - 10 < wait_s < taken


def test_attempts_end_at_the_deadline_of_a_request_and_those_that_are_answered_in_time_are_kept(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(16)
    always = {"max_attempts": 10**6, "backoff_base_s": 0.02, "backoff_cap_s": 0.02}
    with running_standin(Faults(rate_500=0.3)) as server:
        outcomes, progress = ask(engine_for(server, deadline_s=60.0, **always), requests, full_list)
        assert progress.troubles == {"500": server.counts["500"]} and len(good(outcomes)) == 16
    more = some_requests(20)[16:]
    with running_standin(Faults(rate_500=1.0)) as server:
        outcomes, progress = ask(engine_for(server, deadline_s=0.3, **always), more, full_list)
        assert server.counts["500"] > 4, "the deadline and not the first error has ended it"
    # The last attempt may be one that the deadline cuts short.
    assert progress.failed.keys() <= {"500", "timeout"} and progress.failed["500"] > 0
    assert all(isinstance(o, Failure) and re.search(r"attempts: \d+, deadline of 0.3 s", o.detail) for o in outcomes)
    assert kept(store).keys() == {request.key for request in requests}
    assert spending(store, "presumed").total() == progress.troubles.get("timeout", 0)


def test_an_attempt_is_waited_for_no_longer_than_the_deadline_of_its_request(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(3)
    with playing(Late(late=1.0)) as server:
        engine = engine_for(server, prices=DEAR, deadline_s=0.3, timeout_s=30.0)
        outcomes, progress = ask(engine, requests, full_list)
    assert progress.failed == {"timeout": 3} and progress.calls == 3
    assert all(isinstance(o, Failure) and "attempts: 1, deadline of 0.3 s" in o.detail for o in outcomes)
    assert kept(store) == {} and spending(store, "presumed") == at_worst(requests, times=1)


def test_a_request_whose_turn_comes_after_its_deadline_is_not_sent_and_costs_nothing(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(6)
    with running_standin(Faults(rate_429=1.0, retry_after_s=1.0)) as server:
        engine = engine_for(server, start_in_flight=1, max_in_flight=4, deadline_s=0.5)
        outcomes, progress = ask(engine, requests, full_list)
        assert progress.calls == server.counts["429"] < 6
    assert progress.failed.keys() == {"429", "too late"} and len(outcomes) == sum(progress.failed.values())
    assert store.spent("all") == NOTHING == store.reserved("all")
