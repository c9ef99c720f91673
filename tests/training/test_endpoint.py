"""Decoders over an endpoint, through the real engine and the stand-in over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.budget import Budget, BudgetExceeded
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.exchange import Exchange, Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Price, Prices
from inference.running import run
from inference.standin.answers import answer
from inference.standin.faults import Faults
from inference.standin.server import MODEL, Standin, running_standin
from inference.store import ExchangeStore
from ranking.decoding.calls import Decoder, Reply
from ranking.decoding.cascade import cascade
from ranking.decoding.desk import Desk, Ticket, decode_all
from ranking.decoding.listwise import random_groups, sliding_window
from ranking.decoding.replies import read_list
from ranking.prompts import load_template
from training.endpoint import Answered, CallUnanswered, decode_over, request_id, spoken

COUNTS = [12, 7, 1, 9]
TEMPLATE = load_template("rank_teacher")
QUERIES = ("tides of the moon", "rust on iron", "one", "bread that rises")
WORDS = ("moon", "tides", "iron", "rust", "bread", "rises", "sea", "yeast", "water", "metal", "oven", "gravity")
DECODERS = {
    "sliding": sliding_window(5, 2),
    "groups": random_groups(4, repeats=2),
    "cascade": cascade(random_groups(4), sliding_window(4, 2), keep=6),
}
every = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())


def messages(ticket: Ticket) -> list[dict[str, str]]:
    passages = [f"{WORDS[p]} and {WORDS[(p * 5 + 3) % 12]} number {p}" for p in ticket.call.positions]
    return TEMPLATE.messages(QUERIES[ticket.query], passages)


def ask(ticket: Ticket) -> Request:
    return Request(request_id(ticket), tuple(messages(ticket)), Sampling(MODEL, 0.0, 1.0, 400))


def read(ticket: Ticket, exchange: Exchange) -> Reply:
    return read_list(ticket.call, exchange.content)


def engine(server: Standin, store: ExchangeStore, in_flight: int = 8, usd: float = 5.0, attempts: int = 6) -> Engine:
    return Engine(
        Endpoint(base_url=server.base_url, api_key="none"),
        store,
        Budget(usd=usd, scope="reranking"),
        Prices.load().with_price(MODEL, Price(input=1.0, cached=1.0, output=1.0, source="a test's")),
        PaceSettings(max_in_flight=in_flight, max_attempts=attempts, backoff_base_s=0.01),
    )


def decoded(asked: Engine, decoder: Decoder) -> tuple[Desk, list[Answered]]:
    desk = Desk(COUNTS, decoder)
    return desk, run(decode_over([asked, asked], desk, ask, read))


@every
def test_an_endpoint_gives_the_order_that_its_answers_give_however_many_are_in_flight(
    decoder: Decoder, tmp_path: Path
) -> None:
    def reply_to(tickets: list[Ticket]) -> list[Reply]:
        return [read_list(ticket.call, answer(messages(ticket)).content) for ticket in tickets]

    expected = decode_all(COUNTS, decoder, reply_to)
    assert [made.order for made in expected] != [tuple(range(count)) for count in COUNTS]
    for in_flight in (1, 16):
        with running_standin() as server, ExchangeStore(tmp_path / f"{in_flight}.sqlite") as store:
            desk, answers = decoded(engine(server, store, in_flight), decoder)
            assert desk.ranked == expected
            # Groups that happen to be dealt alike twice are one question, bought once.
            assert server.counts["answered"] == len({one.exchange.key for one in answers})
            assert len(answers) == desk.calls


def test_what_is_stored_is_not_asked_again(tmp_path: Path) -> None:
    with running_standin() as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        first, _ = decoded(engine(server, store), DECODERS["sliding"])
        bought = server.counts["answered"]
        again, answers = decoded(engine(server, store), DECODERS["sliding"])
        assert (again.ranked, server.counts["answered"]) == (first.ranked, bought)
        assert all(one.exchange.from_store for one in answers)


def test_garbage_is_counted_not_asked_again_and_leaves_the_first_stage(tmp_path: Path) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        desk, answers = decoded(engine(server, store), DECODERS["sliding"])
        assert [sorted(made.order) for made in desk.ranked] == [list(range(count)) for count in COUNTS]
        assert desk.faults == {"list": desk.calls}
        assert server.counts["garbage"] == desk.calls == len(answers)


def test_a_budget_stops_it_with_all_answers_kept_and_more_money_goes_on(tmp_path: Path) -> None:
    with running_standin() as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        with pytest.raises(BudgetExceeded, match="all answers are kept"):
            decoded(engine(server, store, in_flight=1, usd=0.0015), DECODERS["sliding"])
        kept = server.counts["answered"]
        desk, answers = decoded(engine(server, store), DECODERS["sliding"])
        assert 0 < kept < desk.calls == server.counts["answered"]
        assert sum(one.exchange.from_store for one in answers) == kept


def test_a_call_that_is_never_answered_ends_it_and_says_so(tmp_path: Path) -> None:
    with running_standin(Faults(rate_500=1.0)) as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        desk = Desk([3], sliding_window(3, 1))
        with pytest.raises(CallUnanswered, match=r"query number 0 was never answered .500.*ask again"):
            run(decode_over([engine(server, store, attempts=1)], desk, ask, read))


def test_each_stage_of_a_cascade_asks_its_own_endpoint(tmp_path: Path) -> None:
    with (
        running_standin() as small,
        running_standin() as large,
        ExchangeStore(tmp_path / "small.sqlite") as one,
        ExchangeStore(tmp_path / "large.sqlite") as two,
    ):
        desk = Desk(COUNTS, DECODERS["cascade"])
        answers = run(decode_over([engine(small, one), engine(large, two)], desk, ask, read))
        stages = [answered.ticket.call.ranker for answered in answers]
        assert (small.counts["answered"], large.counts["answered"]) == (stages.count(0), stages.count(1))
        assert stages.count(0) > 0 < stages.count(1)


def test_nothing_to_ask_opens_and_closes_without_a_request(tmp_path: Path) -> None:
    with running_standin() as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        desk = Desk([1, 0], sliding_window())
        assert run(decode_over([engine(server, store)], desk, ask, read)) == []
        assert [made.order for made in desk.ranked] == [(0,), ()]


def test_a_chain_that_the_endpoint_took_out_stands_in_its_tags_again(tmp_path: Path) -> None:
    with running_standin() as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        _, answers = decoded(engine(server, store), DECODERS["sliding"])
    said = answers[0].exchange
    assert said.reasoning and spoken(said) == f"<think>{said.reasoning}</think>{said.content}"
