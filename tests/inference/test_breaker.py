"""The circuit breaker: a run that is going nowhere stops, says why, and keeps what it has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
from asking import Check, EngineFor, Make, Outcomes
from hypothesis import given
from hypothesis import strategies as st

from inference.archive import everything
from inference.breaker import Breaker, BreakerSettings, EndpointDown, MostlyErrors
from inference.endpoint import RequestRefused
from inference.engine import Engine, ask_all
from inference.exchange import FAULTS, Exchange, Failure, Requests
from inference.standin.faults import Draw, Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore, now


@dataclass(frozen=True)
class Outage(Faults):
    """So many requests are answered, and those after them meet one kind of fault, but for every `but`-th."""

    kind: str = "500"
    after: int = 0
    but: int = 10**9
    latency_sigma: float = 1e-9
    number: Iterator[int] = field(default_factory=count)

    def draw(self, prompt: str, attempt: int) -> Draw:
        number = next(self.number)
        return Draw("none" if number < self.after or (number + 1) % self.but == 0 else self.kind)


def take(engine: Engine, requests: Requests, check: Check) -> tuple[Outcomes, Exception | None]:
    """What came out of a run, and what stopped it."""
    got: Outcomes = []

    async def run() -> None:
        async for outcome in engine.ask(requests, check):
            got.append(outcome)

    try:
        asyncio.run(run())
    except (EndpointDown, MostlyErrors) as error:
        return got, error
    return got, None


def kept(store: ExchangeStore) -> dict[str, Exchange]:
    return {record.exchange.key: record.exchange for record in everything(store)}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("500", "500: HTTP 500: the server had an error"),
        ("429_bare", "429: HTTP 429: rate limit reached"),
        ("reset", "reset: .*(reset by peer|disconnected)"),
        ("wrong_json", "unreadable: .*the body begins"),
    ],
)
def test_an_outage_stops_a_run_by_its_name_and_what_was_answered_before_it_is_not_bought_again(
    kind: str, told: str, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(300)
    with running_standin(Outage(kind=kind, after=30)) as server:
        outcomes, error = take(engine_for(server, max_attempts=2, max_in_flight=8), requests, full_list)
        assert isinstance(error, EndpointDown)
        assert re.search(
            rf"^{server.base_url} left 1\d requests in a row without an answer, the last one \(r\d+\) with {told}.*"
            r"\(attempts: 2\)\. All answers so far are kept\. "
            r"(Check that the endpoint is up,|Ask for less .*;) then run again\.$",
            str(error),
        )
        assert server.counts["answered"] == 30 and server.counts[kind] < 2 * (10 + 2 * 12)
    answers = {o.key: replace(o, from_store=True) for o in outcomes if isinstance(o, Exchange)}
    assert len(answers) == 30 and kept(store) == answers and store.reserved("all").tokens == 0
    with running_standin() as server:
        assert len(ask_all(engine_for(server), requests, full_list)) == 300
        assert server.counts["answered"] == 270


def test_an_endpoint_that_is_gone_stops_a_run_before_it_has_tried_every_request(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin() as server:
        gone = server.base_url
    outcomes, error = take(engine_for(gone, max_attempts=2), some_requests(300), full_list)
    assert isinstance(error, EndpointDown) and re.search("with unreachable: ClientConnectorError", str(error))
    assert len(outcomes) < 100 and kept(store) == {} and store.spent("all").tokens == 0


def test_an_answer_in_between_starts_the_count_of_the_unanswered_anew(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    def run(in_a_row: int) -> Exception | None:
        with running_standin(Outage(but=10)) as server:
            engine = engine_for(server, max_attempts=1, max_in_flight=1)
            engine = replace(engine, breaker=BreakerSettings(unanswered_in_a_row=in_a_row, share=1.0))
            return take(engine, some_requests(100), full_list)[1]

    # Nine in a row are unanswered; two requests that end at once may be told in either order.
    assert run(in_a_row=12) is None
    assert isinstance(run(in_a_row=7), EndpointDown)


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("garbage", "malformed.*: the list does not name every passage once; it wrote '"),
        ("cutoff", f"cut_off.*: {FAULTS['cut_off']}; it wrote '\\[2\\]"),
        ("empty", f"empty.*: {FAULTS['empty']}; it wrote ''"),
    ],
)
def test_mostly_unusable_answers_stop_a_run_by_their_name_and_are_kept(
    does: str, told: str, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(300)
    with running_standin(Faults(**{f"rate_{does}": 1.0})) as server:  # type: ignore[arg-type]
        outcomes, error = take(engine_for(server, max_in_flight=8), requests, full_list)
        assert isinstance(error, MostlyErrors)
        assert re.search(
            rf"^50 of the last 50 answers of {server.base_url} are unusable \(50 {told}.*All answers so far are kept\.",
            str(error),
        )
        # Two calls an answer, of which 50 and hardly more than are on their way are paid for.
        assert len(kept(store)) == server.counts["answered"] <= 2 * (50 + 2 * 12)
    assert {o.key for o in outcomes} <= kept(store).keys() and 50 <= len(outcomes) <= 50 + 2 * 12
    assert store.reserved("all").tokens == 0


def test_unanswered_and_unusable_count_together_and_both_are_named(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin(Faults(rate_500=0.4, rate_garbage=0.6)) as server:
        engine = engine_for(server, max_attempts=1, max_in_flight=2)
        engine = replace(engine, breaker=BreakerSettings(unanswered_in_a_row=1000))
        _, error = take(engine, some_requests(300), full_list)
    assert isinstance(error, MostlyErrors)
    told = re.search(r"^50 of the last 50 .* are unusable \((\d+) (\w+), (\d+) (\w+)\)", str(error))
    assert told and {told[2], told[4]} == {"malformed", "500"} and int(told[1]) + int(told[3]) == 50


def test_where_enough_answers_are_usable_a_run_goes_on(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    with running_standin(Faults(rate_garbage=0.7)) as server:
        outcomes, error = take(engine_for(server), some_requests(200), full_list)
    faulty = sum(isinstance(o, Exchange) and o.fault is not None for o in outcomes)
    assert error is None and len(outcomes) == 200 and 60 < faulty < 140


def test_a_share_of_one_never_stops(engine_for: EngineFor, some_requests: Make, full_list: Check) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as server:
        engine = replace(engine_for(server), breaker=BreakerSettings(share=1.0))
        outcomes, error = take(engine, some_requests(150), full_list)
    assert error is None
    assert sorted(o.request_id for o in outcomes) == sorted(request.id for request in some_requests(150))
    assert all(isinstance(o, Exchange) and o.fault is not None for o in outcomes)


def test_stored_answers_say_nothing_about_the_endpoint(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    faulty, good, fresh = some_requests(100), some_requests(300)[100:], some_requests(350)[300:]
    with running_standin(Faults(rate_garbage=1.0)) as server:
        take(replace(engine_for(server), breaker=BreakerSettings(share=1.0)), faulty, full_list)
    with running_standin() as server:
        outcomes, error = take(engine_for(server), [*faulty, *good], full_list)
        assert error is None and len(outcomes) == 300, "faulty ones out of the store do not stop a run"
        assert server.counts["answered"] == 200
    mixed = [request for pair in zip(good, fresh, strict=False) for request in pair]
    with running_standin(Faults(rate_500=1.0)) as server:
        _, error = take(engine_for(server, max_attempts=1), mixed, full_list)
    assert isinstance(error, EndpointDown), "good ones out of the store do not hide an outage"


def outcome(kind: str) -> Exchange | Failure:
    if kind == "failed":
        return Failure("r", "k", "500", "HTTP 500")
    answer = Exchange("r", "k", "m", "m", "[1]", "", "stop", 1, 1, 0, 0.0, 0.1, 1, now())
    more: dict[str, dict[str, Any]] = {"stored": {"from_store": True, "fault": "bad"}, "faulty": {"fault": "bad"}}
    return replace(answer, **more.get(kind, {}))


@given(
    st.lists(st.sampled_from(["good", "faulty", "failed", "stored"]), max_size=40),
    st.integers(1, 5),
    st.integers(1, 10),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_a_run_is_given_up_at_the_first_outcome_that_says_so(
    kinds: list[str], in_a_row: int, window: int, share: float
) -> None:
    def hopeless(seen: list[str]) -> bool:
        fresh = [kind for kind in seen if kind != "stored"]
        last = fresh[-window:]
        down = len(fresh) >= in_a_row and set(fresh[-in_a_row:]) == {"failed"}
        mostly = len(last) == window and sum(kind != "good" for kind in last) > share * window
        return down or (share < 1 and mostly)

    expected = next((n for n in range(len(kinds)) if hopeless(kinds[: n + 1])), len(kinds))
    breaker = Breaker(BreakerSettings(unanswered_in_a_row=in_a_row, window=window, share=share), "http://x/v1")
    stopped = 0
    with suppress(EndpointDown, MostlyErrors):
        for kind in kinds:
            breaker.watch(outcome(kind))
            stopped += 1
    assert stopped == expected


def test_refusals_are_told_by_the_first_of_them_and_an_outage_by_the_last() -> None:
    def stopped_by(*kinds: str) -> str:
        breaker = Breaker(BreakerSettings(unanswered_in_a_row=len(kinds)), "http://x/v1")
        with pytest.raises((EndpointDown, RequestRefused)) as caught:
            for number, kind in enumerate(kinds):
                breaker.watch(Failure(f"r{number}", "k", kind, f"HTTP {kind}: body {number}"))
        return f"{type(caught.value).__name__}: {caught.value}"

    refused = stopped_by("500", "422", "400", "400", "500")
    assert "RequestRefused: http://x/v1 is up, and refused 5 requests in a row" in refused
    assert "the first one (r1) with 422: HTTP 422: body 1. All" in refused and "endpoint is up" not in refused
    assert "the last one (r2) with 503: HTTP 503: body 2. All" in stopped_by("400", "503", "503")
    assert "Raise deadline_s" in stopped_by("too late", "too late", "503") and "endpoint is up" in stopped_by("503")
