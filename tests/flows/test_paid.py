"""What was paid for is in the lake, whoever asked and whatever ended it; and a rebuilt store has spent the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mills import mill, spend, write_folder

from flows.paid import every_call_kept, keep, rebuild_store
from flows.questions import asked_for
from flows.resynthesis import Mill, label_all, plan_all
from flows.steps import ranking_questions
from inference.budget import Budget, BudgetExceeded
from inference.exchange import Exchange, Request, Sampling
from inference.prices import Cost, Price
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore, mark
from warehouse.lake import Lake
from warehouse.laws import ids_used_twice
from warehouse.ledger import campaign_calls
from warehouse.pages.campaigns import campaign_values
from warehouse.production import Shop

DEAR = Price(input=1e6, cached=1e6, output=1e6, source="a dollar a token makes budgets easy to read")


@pytest.fixture
def teacher() -> Iterator[Standin]:
    with running_standin() as server:
        yield server


def silent(_: str) -> None:
    """Hears nothing."""


def label(made: Mill) -> None:
    label_all(made, plan_all(made, False, silent), silent, silent)


def shop_of(made: Mill) -> Shop:
    return Shop(made.lake, "sea", made.lake.snapshot(), ["sea"])


def without_store(made: Mill) -> None:
    for file in made.home.store.parent.glob("exchanges.sqlite*"):
        file.unlink()


def reword(folder: Path, count: int = 8) -> None:
    """Ask the first queries of a source in other words."""
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    for row in rows[:count]:
        row["text"] = row["text"].replace("Why does", "How comes it that")
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_answers_to_questions_that_have_changed_stay_and_the_reports_count_today_s(
    tmp_path: Path, teacher: Standin
) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url, price=DEAR)
    label(made)
    before = made.lake.read("exchanges")
    reword(tmp_path / "sources" / "sea")
    label(made)
    after, today = made.lake.read("exchanges"), campaign_calls(made.lake, ["domain", "purpose", "key", "usd"])
    assert set(before["key"]) < set(after["key"]) and after.height == teacher.counts["answered"] == 14
    assert set(today["key"]) == set(after["key"]) - set(before["key"])
    assert campaign_values(made.lake, ["sea"], 0.4)["usd"] == today["usd"].sum() < after["usd"].sum()
    without_store(made)
    assert rebuild_store(made.lake, made.home.store) == (14, 14)
    write_folder(tmp_path / "sources" / "sea", 8)
    label(made)
    assert teacher.counts["answered"] == 14, "the first questions are answered still"
    assert set(campaign_calls(made.lake, ["domain", "purpose", "key"])["key"]) == set(before["key"])
    assert ids_used_twice(made.lake) == []


def test_what_a_stopped_campaign_has_bought_is_in_the_lake_and_names_its_prompt(
    tmp_path: Path, teacher: Standin
) -> None:
    poor = mill(tmp_path, {"land": 16}, teacher.base_url, price=DEAR, budget_usd=4000.0)
    with pytest.raises(BudgetExceeded):
        label(poor)
    rows = poor.lake.read("exchanges")
    assert rows.height == teacher.counts["answered"] > 0 and rows["prompt_sha256"].null_count() == 0
    assert poor.lake.read("campaign_exchanges").is_empty()


def test_what_a_killed_campaign_has_bought_is_in_after_the_next_run_and_once(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    label(made)
    # As after a kill: the store holds answers, and the lake has never heard of them.
    fresh = mill(tmp_path / "other", {"sea": 8}, teacher.base_url)
    (tmp_path / "exchanges.sqlite").rename(tmp_path / "other" / "exchanges.sqlite")
    keep(fresh.lake, fresh.home.store, "the next run")
    swept = fresh.lake.read("exchanges")
    assert swept.height == 7 and swept["prompt_sha256"].null_count() == 7
    assert swept.select("domain", "purpose").unique().rows() == [("sea", "rank_teacher")]
    label(fresh)
    kept = fresh.lake.read("exchanges")
    assert (kept.height, kept["prompt_sha256"].null_count(), teacher.counts["answered"]) == (7, 0, 7)


def test_what_a_store_has_lost_comes_back_before_anything_is_asked_and_its_money_with_it(
    tmp_path: Path, teacher: Standin
) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url, price=DEAR)
    label(made)
    with ExchangeStore(made.home.store) as store:
        spent = store.spent("all")
    without_store(made)
    # One question is asked in other words: the others must not be, and their price counts against the budget.
    reword(tmp_path / "sources" / "sea", 1)
    poor = replace(made, teacher=made.teacher.model_copy(update={"budget_usd": spent.usd + 1}))
    told: list[str] = []
    with pytest.raises(BudgetExceeded):
        label_all(poor, plan_all(poor, False, told.append), told.append, told.append)
    assert teacher.counts["answered"] == 7 and any("had lost 7 answers" in line for line in told)
    label(made)
    assert teacher.counts["answered"] == made.lake.read("exchanges").height == 8
    with ExchangeStore(made.home.store) as store:
        assert store.spent("all").usd == pytest.approx(made.lake.read("exchanges")["usd"].sum())


def test_a_rebuilt_store_has_spent_what_the_old_one_had_presumed_and_double_charges_included(
    tmp_path: Path, teacher: Standin
) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url, price=DEAR)
    lost = Request("lost", ({"role": "user", "content": "lost"},), Sampling("m", 0.0, 1.0, 16))
    with ExchangeStore(made.home.store) as store:
        store.claim([(lost, Cost(0.25, 700))], Budget())
        store.release([lost.key], presumed=True)
        spend(store, datetime(2030, 1, 1, tzinfo=UTC), 2.0)
    label(made)
    with ExchangeStore(made.home.store) as store:
        (asked, *_), _ = ranking_questions(shop_of(made), made.campaign("sea", silent))
        (bought,) = store.look_up([asked.request])
        assert bought[1] is not None
        # Another process had asked the same: it was paid as well, and the first answer stands.
        second = replace(bought[1], created_at="2030-01-02T00:00:00.000+00:00", usd=3.0)
        store.put([(bought[0], second)], "all")
        before = store.spent("all"), store.presumed("all")
    keep(made.lake, made.home.store, "at the end")
    without_store(made)
    known, new = rebuild_store(made.lake, made.home.store)
    assert known == new == teacher.counts["answered"] + 1
    for _ in range(2):
        with ExchangeStore(made.home.store) as store:
            (spent, presumed), (was, were) = (store.spent("all"), store.presumed("all")), before
            assert (spent.usd, spent.tokens) == (pytest.approx(was.usd), was.tokens)
            assert presumed == were == (1, (0.25, 700))
        assert rebuild_store(made.lake, made.home.store) == (known, 0)


@pytest.mark.parametrize("end", [None, LookupError("it broke off")])
def test_answers_of_a_reranking_come_into_the_lake_with_their_log_probabilities(
    tmp_path: Path, teacher: Standin, end: Exception | None
) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    asked = Request("sea/q1/0/0", ({"role": "user", "content": "1"},), Sampling("m", 0.0, 1.0, 1, top_logprobs=2))
    answer = Exchange("sea/q1/0/0", asked.key, "m", "m", "", "", "length", 1, 1, 0, 0.5, 0.1, 1, "2030", logprobs="[]")
    with suppress(LookupError), every_call_kept(made.lake, made.home.store, "reranking"):
        with ExchangeStore(made.home.store) as store:
            store.put([(asked, answer)], "all")
        if end is not None:
            raise end
    (row,) = made.lake.read("exchanges").iter_rows(named=True)
    assert (row["domain"], row["purpose"], row["usd"]) == ("", "reranking", 0.5)
    without_store(made)
    rebuild_store(made.lake, made.home.store)
    with ExchangeStore(made.home.store) as store:
        assert store.look_up([asked]) == [(asked, replace(answer, from_store=True))]


def test_two_that_keep_at_once_add_every_call_once(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    label(made)
    lakes = [Lake.at(tmp_path / "other" / "lake") for _ in range(2)]
    assert [lake.read("exchanges").height for lake in lakes] == [0, 0]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda lake: keep(lake, made.home.store, "at once"), lakes))
    assert sorted(lakes[0].read("exchanges")["key"]) == sorted(made.lake.read("exchanges")["key"])


def test_what_is_kept_already_makes_no_commit(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    label(made)
    before = made.lake.snapshot()
    keep(made.lake, made.home.store, "again")
    label(made)
    assert made.lake.snapshot() == before


def test_a_fault_that_a_new_check_finds_in_an_old_answer_stands_in_the_lake(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    label(made)
    (asked, *_), _ = ranking_questions(shop_of(made), made.campaign("sea", silent))
    with ExchangeStore(made.home.store) as store:
        store.clerk.submit(lambda con: mark(con, asked.request.key, "too short"), writes=True).result()
    keep(made.lake, made.home.store, "again", [asked], "sea")
    faults = made.lake.read("exchanges").select("key", "fault")
    assert faults.height == 7 and faults.drop_nulls().rows() == [(asked.request.key, "too short")]


@pytest.mark.parametrize(
    ("request_id", "told"),
    [
        ("math/q1/rank_teacher/0", ("math", "rank_teacher")),
        ("math/a/b/mine_positives/20", ("math", "mine_positives")),
        ("math/q1/0/3", ("", "reranking")),
        ("q1", ("", "reranking")),
    ],
)  # fmt: skip
def test_a_request_s_id_tells_whose_question_it_is(request_id: str, told: tuple[str, str]) -> None:
    assert asked_for(request_id) == told
