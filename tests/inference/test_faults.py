"""Every fault of an endpoint, by its name, through the engine: nothing is lost, and nothing that is no answer is kept.

Faults of the wire bring no answer and are retried; faults of the text are paid for, kept, and repaired once. Each is
met in a share, where another attempt can succeed, and every time, where none can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from asking import Check, EngineFor, Late, Make, ask, at_worst, good, kept, playing, spending
from salt_water import DEAR
from servers import answering, serving

from inference.archive import everything
from inference.exchange import FAULTS, Exchange, Failure, Request, repair_request
from inference.prices import NOTHING
from inference.standin.completions import completion
from inference.standin.faults import Draw, Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

MISSING = "the list does not name every passage once"


@dataclass(frozen=True)
class Form(Faults):
    """Faults that all come in one of their forms."""

    form: int = 0

    def draw(self, prompt: str, attempt: int) -> Draw:
        return replace(super().draw(prompt, attempt), variant=self.form)


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
    assert store.spent("all").usd == progress.usd == progress.spent.usd == sum(e.usd for e in stored.values())
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
