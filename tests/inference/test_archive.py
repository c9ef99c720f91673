"""A store taken out as rows and built again from them: what was paid for is not bought again, and is counted once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import Check, EngineFor, Make
from salt_water import DEAR
from servers import answering, serving

from inference.archive import Record, everything, records, restore
from inference.engine import ask_all
from inference.exchange import Exchange, Request, Sampling
from inference.prices import NOTHING, Cost
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ExchangeStore]:
    with ExchangeStore(tmp_path / "rebuilt.sqlite") as opened:
        yield opened


def through_json(record: Record) -> Record:
    """A record as it comes back from a file of UTF-8 text."""
    row: dict[str, Any] = json.loads(json.dumps(asdict(record), ensure_ascii=False).encode("utf-8"))
    return Record(Exchange(**row["exchange"]), tuple(row["messages"]), row["sampling"])


def costs(store: ExchangeStore) -> Cost:
    return sum((Cost(r.exchange.usd, tokens(r)) for r in everything(store)), NOTHING)


def tokens(record: Record) -> int:
    return record.exchange.prompt_tokens + record.exchange.completion_tokens


def test_a_store_built_again_from_its_rows_answers_everything_repair_turns_included(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore, other: ExchangeStore
) -> None:
    requests = some_requests(520)
    with running_standin(Faults(rate_garbage=0.3, rate_cutoff=0.1, rate_reset=0.05)) as server:
        outcomes = ask_all(engine_for(server, prices=DEAR), requests, full_list)
        bought = server.counts["answered"]
        assert restore(other, map(through_json, everything(store)), "rebuilt") == bought > 520
        again = ask_all(engine_for(server, prices=DEAR, opened=other), requests, full_list)
        assert server.counts["answered"] == bought
    answers = [outcome for outcome in outcomes if isinstance(outcome, Exchange)]
    assert len(answers) == 520 and again == [replace(answer, from_store=True) for answer in answers]
    assert any(o.repaired for o in answers) and any(o.fault is not None for o in answers)
    assert list(everything(other)) == list(everything(store))
    # What was lost on its way has no row, so a store that is built again counts what was answered.
    assert other.spent("rebuilt") == costs(store) != store.spent("all") and other.spent("all") == NOTHING


def test_what_is_there_is_not_added_again_and_its_money_not_counted_twice(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore, other: ExchangeStore
) -> None:
    with running_standin(Faults(rate_garbage=0.3)) as server:
        ask_all(engine_for(server, prices=DEAR), some_requests(40), full_list)
        ask_all(engine_for(server, prices=DEAR, opened=other), some_requests(60)[30:], full_list)
    rows, before, own = list(everything(store)), other.spent("all"), {r.exchange.key for r in everything(other)}
    missing = [row for row in rows if row.exchange.key not in own]
    assert 0 < len(missing) < len(rows)
    assert restore(other, [*rows, *rows], "all") == len(missing), "each of them stands there twice"
    after = other.spent("all")
    assert after == before + sum((Cost(r.exchange.usd, tokens(r)) for r in missing), NOTHING) == costs(other)
    kept = list(everything(other))
    assert restore(other, rows, "all") == 0 == restore(store, kept[:0], "all")
    assert other.spent("all") == after and list(everything(other)) == kept


def test_an_answer_that_was_asked_again_is_the_one_that_counts_after_a_store_is_built_again(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore, other: ExchangeStore
) -> None:
    requests = some_requests(12)
    with running_standin(Faults(rate_garbage=1.0)) as server:
        ask_all(engine_for(server), requests[:6], full_list)
    with running_standin() as server:
        store.ask_again(requests[:6])
        outcomes = ask_all(engine_for(server), requests, full_list)
        store.ask_again([found for found, _ in store.look_up(requests[:3])])
        ask_all(engine_for(server), requests, full_list)
        bought = server.counts["answered"]
        assert restore(other, everything(store), "all") == 2 * 6 + bought
        again = ask_all(engine_for(server, opened=other), requests, full_list)
        assert server.counts["answered"] == bought == 15
    assert [o.generation for o in again if isinstance(o, Exchange) and o.fault is None] == [2] * 3 + [1] * 3 + [0] * 6
    assert again[3:] == [replace(o, from_store=True) for o in outcomes[3:] if isinstance(o, Exchange)]
    assert other.times_asked_again() == store.times_asked_again()


ODD = {
    "a lone surrogate": "half an emoji \ud83d at the token limit",
    "two lone surrogates the wrong way round": "\ude00\ud83d",
    "NUL and other controls": "\x00\x01\x1f\x7f\x85",
    "line ends": "a\r\nb\rc\u2028d\u2029e\x0b\x0c",
    "no characters": "\ufffe\uffff\ufdd0\U0010ffff",
    "both directions": "abc \u202eאבג\u202c \u200f",
    "a byte order mark": "\ufeffstart",
    "signs of other languages": "'; DROP TABLE exchanges; -- \" \\ \\u0000 {}[]<>&%s",
    "combined": "e\u0301 👩‍👩‍👧‍👦 ﷽",
    "blanks": " \t\n ",
    "much": "слово " * 20_000,
}


def replaced(text: str) -> str:
    """A text as UTF-8 can hold it."""
    return "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)


def in_short(text: str) -> str:
    return re.sub("\ufffd+", "\ufffd", text)


async def echo(request: web.Request) -> web.Response:
    # As Python's json reads it, and thus many a server: lone surrogates come and go.
    text = json.loads(await request.read())["messages"][-1]["content"]
    message = {"role": "assistant", "content": f"<{text}>", "reasoning_content": text}
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "model": "m"})


@pytest.mark.parametrize("odd", ODD)
def test_odd_text_is_answered_kept_and_found_again(
    odd: str, engine_for: EngineFor, store: ExchangeStore, other: ExchangeStore
) -> None:
    sampling = Sampling("stand-in-teacher", 0.0, 1.0, 9)
    request = Request("r", ({"role": "system", "content": ODD[odd]}, {"role": "user", "content": ODD[odd]}), sampling)
    with serving(answering(echo)) as base_url:
        answer = ask_all(engine_for(base_url, max_attempts=1), [request])[0]
    assert isinstance(answer, Exchange), answer
    assert (answer.content, answer.reasoning) == (f"<{replaced(ODD[odd])}>", replaced(ODD[odd]))
    assert restore(other, map(through_json, everything(store)), "all") == 1
    for opened in (store, other):
        engine = engine_for(base_url, max_attempts=1, opened=opened)
        assert ask_all(engine, [request]) == [replace(answer, from_store=True)], "nobody listens there any more"
        asked = [message["content"] for message in next(everything(opened)).messages]
        assert [in_short(text) for text in asked] == [in_short(replaced(ODD[odd]))] * 2
    assert list(everything(other)) == list(everything(store))


def test_rows_of_chosen_answers_come_with_their_repair_turns_and_each_once(
    engine_for: EngineFor, some_requests: Make, full_list: Check, store: ExchangeStore
) -> None:
    requests = some_requests(30)
    with running_standin(Faults(rate_garbage=0.5)) as server:
        ask_all(engine_for(server), requests, full_list)
    keys = {request.key for request in requests[:10]}
    turns = {r.exchange.key for r in everything(store) if r.exchange.repair_of in keys}
    found = [record.exchange.key for record in records(store, [*keys, *turns, *keys, "no such key"])]
    assert turns and sorted(found) == sorted(keys | turns)
