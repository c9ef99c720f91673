"""The campaign: real questions to the stand-in teacher over HTTP; nothing bought twice, nothing told that is secret."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from flows.answers import read_mining, read_rankings
from flows.campaign import Home, Label, label
from flows.paid import EXCHANGE_SCHEMA, calls_behind, exchange_rows
from flows.questions import LabelSettings, Pool, Question, mining_questions, ranking_questions
from flows.teacher import TeacherSettings
from inference.archive import records
from inference.budget import Budget, BudgetExceeded
from inference.endpoint import Endpoint, EndpointRefused
from inference.engine import Engine, ask_all
from inference.exchange import Exchange, Request
from inference.pace import PaceSettings
from inference.prices import Cost, Price, Prices
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

KEY = "sk-9f8e7d6c5b4a-very-secret"
TEXTS = {
    "d0": "Osmosis draws water through the membrane of a cell to the saltier side.",
    "d1": "Pasta water should be salted before it boils.",
    "d2": "Sailors carried casks of fresh water.",
    "d3": "A cell is the smallest unit of life.",
}
DEAR = Price(input=1e6, cached=1e6, output=1e6, source="a dollar a token makes budgets easy to read")


def at(folder: Path) -> Home:
    return Home(folder / "x.sqlite", folder / "logs")


def rows(folder: Path, asked: list[Question]) -> pl.DataFrame:
    """What is stored behind some questions, as rows of the lake."""
    with ExchangeStore(folder / "x.sqlite") as store:
        return pl.concat(
            [pl.DataFrame(schema=EXCHANGE_SCHEMA), *exchange_rows(store, calls_behind(store, asked), "math")]
        )


def paid(bought: Label) -> tuple[int, int]:
    """Answers bought, and questions answered from the store."""
    return bought.progress.answers, bought.progress.stored


def pools(count: int) -> list[Pool]:
    query = "Why does salt water dry out cell number {}?"
    return [Pool("math", f"q{n}", query.format(n), "By osmosis.", tuple(TEXTS), TEXTS) for n in range(count)]


def mining(count: int) -> list[Question]:
    return mining_questions(pools(count), LabelSettings(), TeacherSettings(max_tokens=400).sampling)


def ranking(count: int) -> list[Question]:
    people = pl.DataFrame({"qid": [f"q{n}" for n in range(count)], "docid": ["d0"] * count, "grade": [1] * count})
    nobody = people.clear()
    sampling = TeacherSettings(max_tokens=400).sampling
    return ranking_questions(pools(count), nobody, people, "human", LabelSettings(), sampling, "teacher_rankings")[0]


def test_the_stand_in_s_answers_become_judgements_and_rankings(tmp_path: Path) -> None:
    asked = mining(3)
    bought = label("mine", asked, TeacherSettings(), at(tmp_path))
    mined = read_mining(asked, bought.outcomes, "math", "mined_judgements")
    assert mined.rows.filter(pl.col("role") == "positive")["docid"].unique().to_list() == ["d0"]
    assert bought.progress.answers == len(asked) == rows(tmp_path, asked).height
    lists = ranking(3)
    ranked = read_rankings(lists, label("rank", lists, TeacherSettings(), at(tmp_path)).outcomes, "math", "human", "s")
    assert ranked.rejections.is_empty()
    assert ranked.rows["judge"].unique().to_list() == ["stand-in-teacher"]
    for row in ranked.rows.iter_rows(named=True):
        assert sorted(row["final_list"]) == sorted(row["initial_list"])
        assert row["reasoning"]
    assert set(ranked.rows["exchange_key"]) == {question.request.key for question in lists}


def test_a_second_call_buys_nothing_and_brings_the_same(tmp_path: Path) -> None:
    asked = ranking(12)
    with running_standin(Faults(rate_garbage=0.4, rate_500=0.1)) as server:
        teacher = TeacherSettings(base_url=server.base_url)
        first = label("rank", asked, teacher, at(tmp_path))
        answered, before = server.counts["answered"], rows(tmp_path, asked)
        again = label("rank", asked, teacher, at(tmp_path))
        assert server.counts["answered"] == answered
    repairs = before.height - len(asked)
    # Garbage was answered, so that repair turns are among what must not be bought again.
    assert repairs > 0
    assert paid(first) == (answered, 0) == (len(asked) + repairs, 0)
    assert paid(again) == (0, len(asked))
    assert {again.figures[name] for name in ("calls", "answers", "tokens", "usd", "unanswered")} == {0}
    assert rows(tmp_path, asked).equals(before)
    for domain in ("math", "other"):
        made = [read_rankings(asked, bought.outcomes, domain, "human", "s") for bought in (first, again)]
        assert made[0].rows.equals(made[1].rows)
        assert made[0].rejections.equals(made[1].rejections)


def requests_held_at_most(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """Requests that were in memory together while something was done."""
    held: dict[int, weakref.ref[Request]] = {}
    most, made = 0, Request.__post_init__

    def counted(request: Request) -> None:
        nonlocal most
        made(request)
        held[id(request)] = weakref.ref(request, lambda _, place=id(request): held.pop(place, None))
        most = max(most, len(held))

    with monkeypatch.context() as patched:
        patched.setattr(Request, "__post_init__", counted)
        work()
    return most


def test_a_campaign_holds_no_more_prompts_than_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ranking(4000)

    def ask() -> Label:
        return label("rank", asked, TeacherSettings(), at(tmp_path))

    bought, stored = requests_held_at_most(monkeypatch, ask), requests_held_at_most(monkeypatch, ask)
    assert 0 < bought < 1000 and 0 < stored < 2000
    with ExchangeStore(tmp_path / "x.sqlite") as store:
        calls = calls_behind(store, asked)
        assert [piece.height for piece in exchange_rows(store, calls, "math")] == [1000] * 4


def test_what_a_killed_process_may_have_been_charged_for_is_told_and_stands_in_the_figures(tmp_path: Path) -> None:
    asked, told = ranking(3), list[str]()
    assert "presumed_usd" not in label("rank", asked, TeacherSettings(), at(tmp_path), told.append).figures
    assert not any("in flight when a process ended" in line for line in told)
    with ExchangeStore(tmp_path / "x.sqlite") as store:
        lost = ranking(5)[-1].request
        assert store.claim([(lost, Cost(0.25, 700))], Budget())[0].status == "granted"
        store.release([lost.key], presumed=True)
    figures = label("rank", ranking(5), TeacherSettings(), at(tmp_path), told.append).figures
    assert (figures["presumed_requests"], figures["presumed_usd"]) == (1, 0.25)
    (line,) = [line for line in told if "in flight when a process ended" in line]
    assert "1 requests" in line and "$0.25" in line


def test_only_what_is_missing_is_bought_when_questions_are_added(tmp_path: Path) -> None:
    label("rank", ranking(4), TeacherSettings(), at(tmp_path))
    more = label("rank", ranking(7), TeacherSettings(), at(tmp_path))
    assert (*paid(more), rows(tmp_path, ranking(7)).height) == (3, 4, 7)


def test_an_answer_that_still_wants_its_repair_turn_gets_one(tmp_path: Path) -> None:
    # As after a kill between a faulty answer and its repair: every first answer is stored, and no second one.
    asked = ranking(3)
    with running_standin(Faults(rate_garbage=1.0)) as server, ExchangeStore(tmp_path / "x.sqlite") as store:
        endpoint = Endpoint(base_url=server.base_url, api_key=SecretStr("none"))
        engine = Engine(endpoint, store, Budget(), Prices.load(), PaceSettings())
        ask_all(engine, [question.request for question in asked])
    bought = label("rank", asked, TeacherSettings(), at(tmp_path))
    assert bought.progress.answers == 3 and rows(tmp_path, asked).height == 6
    assert all(isinstance(outcome, Exchange) and outcome.repaired for outcome in bought.outcomes)
    assert read_rankings(asked, bought.outcomes, "math", "human", "s").rows.height == 3


def test_exchange_rows_are_whole_and_name_question_prompt_and_price(tmp_path: Path) -> None:
    asked = mining(4)
    label("mine", asked, TeacherSettings(price=DEAR), at(tmp_path))
    found = rows(tmp_path, asked)
    assert dict(found.schema) == dict(EXCHANGE_SCHEMA)
    assert found["key"].n_unique() == found.height == len(asked)
    by_key = {question.request.key: question for question in asked}
    for row in found.iter_rows(named=True):
        question = by_key[row["key"]]
        assert json.loads(row["messages"]) == [dict(message) for message in question.request.messages]
        assert (row["purpose"], row["prompt_sha256"]) == (question.purpose, question.template.sha256)
        assert row["usd"] == row["prompt_tokens"] + row["completion_tokens"] > 0
        assert json.loads(row["sampling"])["temperature"] == 0.6


def test_no_row_file_or_message_holds_the_key(tmp_path: Path) -> None:
    asked, told = mining(4), list[str]()
    with running_standin(Faults(rate_garbage=0.5), api_key=KEY) as server:
        teacher = TeacherSettings(base_url=server.base_url, api_key=SecretStr(KEY))
        bought = label("mine", asked, teacher, at(tmp_path), told.append)
        with pytest.raises(EndpointRefused) as refused:
            wrong = TeacherSettings(base_url=server.base_url, api_key=SecretStr(KEY[::-1]))
            label("mine", mining(5), wrong, at(tmp_path), told.append)
    assert told
    places = [rows(tmp_path, asked).write_json(), repr(bought), repr(teacher), teacher.model_dump_json(), str(told)]
    places += [str(refused.value), repr(refused.value)]
    for secret in (KEY, KEY[::-1]):
        assert not [place for place in places if secret in place]
        assert not [file for file in tmp_path.iterdir() if secret.encode() in file.read_bytes()]


def test_a_budget_stops_the_campaign_and_everything_bought_is_kept(tmp_path: Path) -> None:
    asked = ranking(30)
    poor = TeacherSettings(price=DEAR, budget_usd=4000.0, max_tokens=400, pace=PaceSettings(max_in_flight=4))
    with running_standin() as server:
        poor = poor.model_copy(update={"base_url": server.base_url})
        with pytest.raises(BudgetExceeded, match=r"stopped at \$[\d,.]+ of \$4,000\.00 after \d+ of 30 requests; all"):
            label("teacher_rankings math", asked, poor, at(tmp_path))
        bought = server.counts["answered"]
        assert 0 < bought < 30
        with ExchangeStore(tmp_path / "x.sqlite") as store:
            assert len(list(records(store, (question.request.key for question in asked)))) == bought
            assert 0 < store.spent("all").usd <= 4000
        rich = poor.model_copy(update={"budget_usd": 1e9})
        rest = label("teacher_rankings math", asked, rich, at(tmp_path))
        assert (*paid(rest), server.counts["answered"]) == (30 - bought, bought, 30)


def test_no_questions_are_answered_with_nothing(tmp_path: Path) -> None:
    bought = label("mine", [], TeacherSettings(), at(tmp_path))
    assert (bought.outcomes, bought.progress.calls) == ((), 0)
    assert rows(tmp_path, []).is_empty() and dict(rows(tmp_path, []).schema) == dict(EXCHANGE_SCHEMA)
