"""Every fault of an endpoint, by its name, through the engine: nothing is lost, and nothing that is no answer is kept.

Faults of the wire bring no answer and are retried; faults of the text are paid for, kept, and repaired once. Each is
met in a share, where another attempt can succeed, and every time, where none can.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from salt_water import DEAR
from servers import answering, serving

from inference.archive import everything
from inference.endpoint import RETRY_AFTER_AT_MOST_S, retry_after_s
from inference.engine import Engine
from inference.exchange import FAULTS, Exchange, Failure, Request, repair_request
from inference.prices import NOTHING
from inference.progress import Progress
from inference.standin.completions import completion
from inference.standin.faults import Draw, Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore

Make = Callable[..., list[Request]]
EngineFor = Callable[..., Engine]
Check = Callable[[Request, str], str | None]
Outcomes = list[Exchange | Failure]
MISSING = "the list does not name every passage once"


@dataclass(frozen=True)
class Form(Faults):
    """Faults that all come in one of their forms."""

    form: int = 0

    def draw(self, prompt: str, attempt: int) -> Draw:
        return replace(super().draw(prompt, attempt), variant=self.form)


@dataclass(frozen=True)
class Late(Faults):
    """A share of the requests is answered well, but long after anybody waits for it."""

    late: float = 0.0
    latency_sigma: float = 1e-9

    def draw(self, prompt: str, attempt: int) -> Draw:
        return Draw(latency_s=60.0 if super().draw(prompt, attempt).variant % 1000 < 1000 * self.late else 0.0)


@dataclass(frozen=True)
class Wire:
    """A fault that brings no answer: what the stand-in does, and the engine's word for it.

    `counted` is the stand-in's own word; `more` is what the engine needs to meet the fault in a short time.
    """

    faults: Callable[[float], Faults]
    counted: str
    trouble: str
    detail: str
    may_cost: bool = True
    more: dict[str, float] = field(default_factory=dict)


def of(kind: str, form: int = 0, **more: Any) -> Callable[[float], Faults]:
    return lambda share: Form(form=form, **{f"rate_{kind}": share, **more})


SOON = {"timeout_s": 1.0}
WIRE = {
    "429 with Retry-After": Wire(of("429", retry_after_s=0.02), "429", "429", "HTTP 429: rate limit", False),
    "429 without Retry-After": Wire(of("429_bare"), "429_bare", "429", "HTTP 429: rate limit", False),
    "500": Wire(of("500"), "500", "500", "HTTP 500: the server had an error", False),
    "reset": Wire(of("reset"), "reset", "reset", "reset by peer|disconnected"),
    "half body": Wire(of("half_body"), "half_body", "half body", "ClientPayloadError"),
    "slow loris": Wire(of("slow", drip_s=0.1), "slow", "timeout", "no answer within 1 s", more=SOON),
    "wrong JSON: cut short": Wire(of("wrong_json", 0), "wrong_json", "unreadable", 'body begins \'{"id"'),
    "wrong JSON: a page": Wire(of("wrong_json", 1), "wrong_json", "unreadable", "body begins '<!DOCTYPE html>"),
    "wrong JSON: no choices": Wire(of("wrong_json", 2), "wrong_json", "unreadable", "body begins .*choices"),
    "wrong JSON: an error": Wire(of("wrong_json", 3), "wrong_json", "unreadable", "upstream provider error"),
    "interrupted": Wire(of("interrupted"), "interrupted", "interrupted", "finish_reason insufficient_system_resource"),
    "time-out per attempt": Wire(lambda share: Late(late=share), "late", "timeout", "no answer within 1 s", more=SOON),
}
each_wire = pytest.mark.parametrize("wire", WIRE.values(), ids=WIRE.keys())


@dataclass(frozen=True)
class Text:
    """A fault of an answer: what the stand-in does and in which form, and the engine's words for it."""

    does: str
    kind: str
    fault: str
    form: int = 0


TEXT = {
    "cut-off": Text("cutoff", "cut_off", FAULTS["cut_off"]),
    "empty": Text("empty", "empty", FAULTS["empty"]),
    "refusal: a filter": Text("refusal", "withheld", FAULTS["withheld"], 0),
    "refusal: a field": Text("refusal", "refusal", FAULTS["refusal"], 1),
    "refusal: a sentence": Text("refusal", "refusal", FAULTS["refusal"], 2),
    "garbage": Text("garbage", "malformed", MISSING),
}
each_text = pytest.mark.parametrize("text", TEXT.values(), ids=TEXT.keys())


@contextmanager
def playing(faults: Faults) -> Iterator[Standin]:
    """A stand-in that drops what it still has in hand at the end, and would have answered late."""
    server = Standin(faults)
    with serving(server.app()) as server.base_url:
        yield server


def ask(engine: Engine, requests: Sequence[Request], check: Check) -> tuple[Outcomes, Progress]:
    """Outcomes in the order of the requests, each of which must come out exactly once, and the last figures."""
    seen: list[Progress] = []

    async def collect() -> Outcomes:
        async with aclosing(engine.ask(requests, check, on_progress=seen.append)) as outcomes:
            return [outcome async for outcome in outcomes]

    outcomes = asyncio.run(collect())
    assert Counter(o.request_id for o in outcomes) == Counter(r.id for r in requests)
    by_id = {outcome.request_id: outcome for outcome in outcomes}
    return [by_id[request.id] for request in requests], seen[-1]


def good(outcomes: Outcomes) -> list[Exchange]:
    return [o for o in outcomes if isinstance(o, Exchange) and o.fault is None]


def kept(store: ExchangeStore) -> dict[str, Exchange]:
    return {record.exchange.key: record.exchange for record in everything(store)}


def spending(store: ExchangeStore, kind: str) -> Counter[tuple[str, int]]:
    """Keys and tokens of what was spent."""
    with sqlite3.connect(store.path) as con:
        return Counter(con.execute("SELECT key, tokens FROM spend WHERE kind = ?", (kind,)).fetchall())


def at_worst(requests: Sequence[Request], times: int) -> Counter[tuple[str, int]]:
    return Counter({(r.key, DEAR.worst_case(r).tokens): times for r in requests})


def as_said(request: Request, does: str, form: int) -> tuple[str, int]:
    """The text that the stand-in puts on the wire under a fault, and the tokens that it charges."""
    body = {"model": "stand-in-teacher", "messages": list(request.messages), "max_tokens": request.sampling.max_tokens}
    said = completion(body, Draw(does, form))
    return said["choices"][0]["message"]["content"] or "", said["usage"]["total_tokens"]


@each_wire
def test_a_fault_of_the_wire_is_retried_until_there_is_an_answer(
    wire: Wire, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(16)
    with playing(wire.faults(0.3)) as server:
        outcomes, progress = ask(engine_for(server, prices=DEAR, **wire.more), requests, full_list)
        assert server.counts["answered"] == len(requests)
    lost = progress.troubles[wire.trouble]
    assert lost > 0 and lost == server.counts.get(wire.counted, lost)
    assert progress.troubles == {wire.trouble: lost} and not progress.faulty and not progress.failed
    assert progress.calls == len(requests) + lost
    assert kept(store) == {o.key: replace(o, from_store=True) for o in good(outcomes)}
    assert kept(store).keys() == {request.key for request in requests}
    presumed = spending(store, "presumed")
    assert presumed.total() == (lost if wire.may_cost else 0) and presumed <= at_worst(requests, times=lost)
    assert store.spent("all").tokens == sum(tokens * n for (_, tokens), n in presumed.items()) + sum(
        as_said(request, "none", 0)[1] for request in requests
    )


@each_wire
def test_a_fault_of_the_wire_that_never_ends_fails_the_request_which_can_be_asked_again(
    wire: Wire, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(4)
    with playing(wire.faults(1.0)) as server:
        outcomes, progress = ask(engine_for(server, prices=DEAR, max_attempts=2, **wire.more), requests, full_list)
        assert server.counts["answered"] == 0 and server.counts.get(wire.counted, 8) == 8
    failures = [o for o in outcomes if isinstance(o, Failure)]
    assert [(o.kind, o.key) for o in failures] == [(wire.trouble, request.key) for request in requests]
    assert all(re.search(wire.detail, o.detail) and "(attempts: 2)" in o.detail for o in failures)
    assert progress.failed == {wire.trouble: 4} and progress.troubles == {wire.trouble: 8} and progress.calls == 8
    assert kept(store) == {} and store.reserved("all") == NOTHING
    assert spending(store, "presumed") == at_worst(requests, times=2 if wire.may_cost else 0)
    assert store.spent("all").usd == sum(2 * DEAR.worst_case(r).usd for r in requests if wire.may_cost)
    with running_standin() as server:
        again, _ = ask(engine_for(server), requests, full_list)
    assert len(good(again)) == 4 and kept(store).keys() == {request.key for request in requests}


COMPLETION = b'{"choices": [{"finish_reason": "stop", "message": {"content": "[2] > [1] %b"}}]}'
FINE = COMPLETION % b""
BODIES = {
    "nested without end": (b"[" * 200_000, None),
    "content that is no text": (b'{"choices": [{"message": {"content": [1, 2]}}]}', None),
    "a message that is none": (b'{"choices": [{"message": null}]}', None),
    **{
        f"a count that is {count}": (FINE[:-1] + f', "usage": {{"completion_tokens": {count}}}}}'.encode(), None)
        for count in ('"many"', "-1000000", "1e999", "9" * 30, "[7]")
    },
    "usage that is a list": (FINE[:-1] + b', "usage": [7]}', None),
    "nothing": (b"", None),
    "half an emoji": (COMPLETION % rb"\ud83d", "[2] > [1] \ufffd"),
    "bytes that are no UTF-8": (COMPLETION % b"\xff", "[2] > [1] \ufffd"),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_no_client_foresees_is_an_answer_if_one_can_be_read_in_it_and_else_a_trouble(
    body: str, engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    raw, content = BODIES[body]

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=raw, content_type="application/json")

    requests = some_requests(1)
    with serving(answering(answer)) as base_url:
        outcomes, progress = ask(engine_for(base_url, prices=DEAR, max_attempts=1), requests, lambda _r, _c: None)
    if content is None:
        assert progress.failed == {"unreadable": 1} and kept(store) == {}
        assert spending(store, "presumed") == at_worst(requests, times=1)
    else:
        assert [o.content for o in good(outcomes)] == [content]
        # Usage that was not told counts at its worst.
        assert spending(store, "answer") == at_worst(requests, times=1)


@pytest.mark.parametrize("reason", ['"error"', '"abort"', '"eos"', '""', "null"])
def test_only_a_finish_reason_that_is_known_to_mean_so_makes_an_answer_none(
    reason: str, engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=FINE.replace(b'"stop"', reason.encode()), content_type="application/json")

    with serving(answering(answer)) as base_url:
        outcomes, progress = ask(engine_for(base_url, max_attempts=1), some_requests(1), lambda _r, _c: None)
    if reason in ('"error"', '"abort"'):
        assert progress.failed == {"interrupted": 1} and kept(store) == {}
    else:
        assert [o.finish_reason for o in good(outcomes)] == [(json.loads(reason) or "")] and len(kept(store)) == 1


def test_an_address_where_nobody_listens_is_named_and_costs_nothing(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    with running_standin() as server:
        gone = server.base_url
    outcomes, progress = ask(engine_for(gone, max_attempts=2), some_requests(1), full_list)
    assert isinstance(outcomes[0], Failure) and outcomes[0].kind == "unreachable"
    assert progress.troubles == {"unreachable": 2} and store.spent("all") == NOTHING


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
        assert time.monotonic() - began < 20
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


@each_text
def test_a_fault_of_the_text_is_mended_by_one_more_turn_that_names_it_and_both_answers_are_kept(
    text: Text, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(30)
    with running_standin(of(text.does, text.form)(0.4)) as server:
        outcomes, progress = ask(engine_for(server, prices=DEAR), requests, full_list)
    stored, records = kept(store), {record.exchange.key: record for record in everything(store)}
    first = {request.key: stored[request.key] for request in requests}
    faulty = [request for request in requests if first[request.key].fault is not None]
    turns = [repair_request(r, first[r.key].content, text.fault) for r in faulty]
    unmended = server.counts[text.does] - len(faulty)
    assert 0 < unmended < len(faulty) < 30
    assert stored.keys() == first.keys() | {turn.key for turn in turns}
    assert len(stored) == server.counts["answered"] == progress.calls == progress.answers
    assert progress.faulty == {text.kind: unmended} and progress.repaired == len(faulty) - unmended
    assert progress.good == len(good(outcomes)) == 30 - unmended and not progress.failed and not progress.troubles
    for asked in (*requests, *turns):
        kind = text.does if stored[asked.key].fault else "none"
        said, cost = as_said(asked, kind, text.form)
        assert (stored[asked.key].content, stored[asked.key].usd) == (said, cost)
        assert stored[asked.key].fault in (None, text.fault) and stored[asked.key].repair_of == asked.repair_of
        assert records[asked.key].messages == asked.messages
    for turn, request in zip(turns, faulty, strict=True):
        shown = first[request.key].content or "(no answer)"
        assert [m["role"] for m in records[turn.key].messages] == ["user", "assistant", "user"]
        assert records[turn.key].messages[1]["content"] == shown
        assert text.fault in records[turn.key].messages[2]["content"]
    came_out = {o.key for o in outcomes}
    assert came_out == first.keys() - {r.key for r in faulty} | {turn.key for turn in turns}
    assert store.spent("all").usd == progress.usd == sum(e.usd for e in stored.values())
    assert not spending(store, "presumed")


@each_text
def test_a_fault_of_the_text_that_stays_comes_out_by_its_name_with_its_text_and_is_not_bought_again(
    text: Text, engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(6)
    with running_standin(of(text.does, text.form)(1.0)) as server:
        outcomes, progress = ask(engine_for(server), requests, full_list)
        again, second = ask(engine_for(server), requests, full_list)
        assert server.counts["answered"] == server.counts[text.does] == 12
    answers = [o for o in outcomes if isinstance(o, Exchange)]
    assert [(o.fault, o.repair_of) for o in answers] == [(text.fault, request.key) for request in requests]
    assert [o.content for o in answers] == [as_said(request, text.does, text.form)[0] for request in requests]
    assert progress.faulty == {text.kind: 6} and progress.good == 0 and not progress.failed
    assert second.calls == 0 and again == [replace(o, from_store=True) for o in answers]
    assert [e.fault for e in kept(store).values()] == [text.fault] * 12


def test_a_chain_that_eats_all_tokens_is_no_success_and_takes_nothing_from_the_others(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    short = some_requests(5, max_tokens=10)
    others = some_requests(12)[5:]
    with running_standin() as server:
        outcomes, progress = ask(engine_for(server, prices=DEAR), [*short, *others], full_list)
        again, second = ask(engine_for(server), short, full_list)
        assert server.counts["answered"] == 2 * 5 + 7
    eaten = [o for o in outcomes[:5] if isinstance(o, Exchange)]
    assert [(o.content, o.fault, o.completion_tokens) for o in eaten] == [("", FAULTS["chain_cut_off"], 10)] * 5
    assert all(o.reasoning.startswith("The query is about") for o in eaten), "what was paid for is kept"
    assert progress.faulty == {"chain_cut_off": 5} and len(good(outcomes)) == progress.good == 7
    assert second.calls == 0 and again == [replace(o, from_store=True) for o in eaten]
    assert store.spent("all").usd == sum(e.usd for e in kept(store).values())
