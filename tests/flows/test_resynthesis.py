"""Labelling without Dagster: what is planned is what is bought, and nothing is bought that need not be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from mills import mill, write_folder

from flows.paid import rebuild_store
from flows.plan import Planned
from flows.resynthesis import Mill, label_all, plan_all, report
from flows.steps import ranking_questions
from flows.teacher import engine_for
from inference.budget import BudgetExceeded
from inference.engine import ask_all
from inference.prices import Price
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore
from warehouse.ledger import latest
from warehouse.production import Shop

DEAR = Price(input=1e6, cached=1e6, output=1e6, source="a dollar a token makes budgets easy to read")
SOURCES = {"land": 16, "sea": 8}


@pytest.fixture
def teacher() -> Iterator[Standin]:
    with running_standin() as server:
        yield server


def silent(_: str) -> None:
    """Hears nothing."""


def states(planned: list[Planned]) -> dict[tuple[str, str], dict[str, int]]:
    return {(each.domain, each.purpose): dict(each.states) for each in planned}


def label(made: Mill, retry: bool = False) -> list[Planned]:
    planned = plan_all(made, retry, silent)
    label_all(made, planned, silent, silent)
    return planned


def test_a_plan_buys_nothing_and_counts_the_calls_that_follow(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, SOURCES, teacher.base_url)
    planned = plan_all(made, False, silent)
    assert teacher.counts["answered"] == 0
    by_place = {(each.domain, each.purpose): each for each in planned}
    assert by_place["land", "mining"].states == {"new": 2 * 14} and not by_place["land", "mining"].provisional
    assert by_place["land", "ranking"].provisional and by_place["land", "ranking"].states == {"new": 14}
    # People have judged the sea: nothing is mined, and its lists are known before anything is bought.
    assert by_place["sea", "mining"].states == {} and not by_place["sea", "ranking"].provisional
    label_all(made, planned, silent, silent)
    ranked = made.lake.read("rankings").height
    assert teacher.counts["answered"] == 28 + ranked
    assert sum(each.estimate.calls for each in planned) == 28 + 14 + 7 >= 28 + ranked


def test_what_was_labelled_is_answered_and_not_bought_again(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, SOURCES, teacher.base_url)
    label(made)
    bought = teacher.counts["answered"]
    again = label(made)
    assert teacher.counts["answered"] == bought
    assert all(set(each.states) <= {"answered"} and each.estimate.calls == 0 for each in again)
    assert not any(each.provisional for each in again)


def test_a_new_query_is_new_a_changed_one_is_changed_and_only_they_are_bought(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    label(made)
    bought = teacher.counts["answered"]
    folder = write_folder(tmp_path / "sources" / "sea", 10)
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    rows[0]["text"] = rows[0]["text"].replace("Why does", "How comes it that")
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    # Two passages of the new queries may also come into old pools, whose questions then have changed too.
    planned = states(plan_all(made, False, silent))["sea", "ranking"]
    assert planned["new"] == 2 and planned["changed"] >= 1
    label(made)
    assert teacher.counts["answered"] == bought + planned["new"] + planned["changed"]


def test_what_another_model_was_never_asked_is_new(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url)
    label(made)
    other = mill(tmp_path, {"sea": 8}, teacher.base_url, model="another-teacher", price=DEAR)
    assert states(plan_all(other, False, silent))["sea", "ranking"] == {"new": 7}


def test_rejected_questions_are_asked_again_only_when_told_and_only_so_often(tmp_path: Path) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as broken:
        made = mill(tmp_path, {"sea": 8}, broken.base_url, generations=2, breaker={"share": 1.0})
        label(made)
        assert states(plan_all(made, False, silent))["sea", "ranking"] == {"rejected": 7}
        bought = broken.counts["answered"]
        assert bought == 2 * 7 and made.lake.read("rankings").is_empty()
        label(made)
        assert broken.counts["answered"] == bought
        (planned,) = [each for each in label(made, retry=True) if each.purpose == "ranking"]
        assert planned.estimate.calls == len(planned.retry) == 7
        assert broken.counts["answered"] == 2 * bought
        # The second generation was the last that the teacher's settings allow.
        (planned,) = [each for each in label(made, retry=True) if each.purpose == "ranking"]
        assert planned.retry == () and broken.counts["answered"] == 2 * bought
    kept = made.lake.read("exchanges")
    assert sorted(kept["generation"].unique()) == [0, 1] and kept.height == 2 * bought
    lost = made.lake.read("rejections", {"asset": "teacher_rankings", "stage": "teacher_rankings"})
    assert lost["reason"].to_list() == ["malformed_answer"] * 7


def test_a_retry_that_succeeds_brings_rankings(tmp_path: Path) -> None:
    with running_standin(Faults(rate_garbage=1.0)) as broken:
        label(mill(tmp_path, {"sea": 8}, broken.base_url, breaker={"share": 1.0}))
    with running_standin() as mended:
        made = mill(tmp_path, {"sea": 8}, mended.base_url)
        label(made)
        assert made.lake.read("rankings").is_empty() and mended.counts["answered"] == 0
        label(made, retry=True)
    ranked = made.lake.read("rankings")
    assert ranked.height == 7
    asked = made.lake.read("exchanges").filter(pl.col("key").is_in(ranked["exchange_key"].to_list()))
    assert asked["generation"].to_list() == [1] * 7


def test_an_answer_without_its_repair_turn_is_planned_as_such(tmp_path: Path) -> None:
    # As after a kill between a faulty answer and its repair: first answers are stored, and no second one.
    with running_standin(Faults(rate_garbage=1.0)) as broken:
        made = mill(tmp_path, {"sea": 8}, broken.base_url)
        plan_all(made, False, silent)
        campaign = made.campaign("sea", silent)
        asked, _ = ranking_questions(Shop(made.lake, "sea", made.lake.snapshot(), ["sea"]), campaign)
        with ExchangeStore(made.home.store) as store:
            ask_all(engine_for(made.teacher, broken.base_url, store, "sea"), [q.request for q in asked[:4]])
    planned = plan_all(made, False, silent)
    assert states(planned)["sea", "ranking"] == {"unrepaired": 4, "new": 3}
    (foreseen,) = [each.estimate for each in planned if each.purpose == "ranking"]
    assert (foreseen.calls, foreseen.stored) == (7, 0)
    with running_standin() as teacher:
        label(mill(tmp_path, {"sea": 8}, teacher.base_url))
        assert teacher.counts["answered"] == foreseen.calls


def test_a_spent_budget_keeps_what_was_bought_and_the_report_can_still_be_written(
    tmp_path: Path, teacher: Standin
) -> None:
    poor = mill(tmp_path, {"land": 16}, teacher.base_url, price=DEAR, budget_usd=4000.0)
    with pytest.raises(BudgetExceeded):
        label(poor)
    bought = teacher.counts["answered"]
    assert 0 < bought < 28 and latest(poor.lake, "mined_judgements", "land") is None
    assert "Label campaign" in report(poor, []).read_text("utf-8")
    label(mill(tmp_path, {"land": 16}, teacher.base_url, price=DEAR, budget_usd=1e9))
    assert teacher.counts["answered"] == 28 + poor.lake.read("rankings").height


def test_several_samples_make_one_ranking_with_their_agreement(tmp_path: Path, teacher: Standin) -> None:
    made = mill(tmp_path, {"sea": 8}, teacher.base_url, labels={"samples": 3})
    label(made)
    ranked = made.lake.read("rankings")
    assert ranked.height == 7 and teacher.counts["answered"] == 21
    keys = set(made.lake.read("exchanges")["key"])
    samples = made.lake.read("ranking_samples")
    for row in ranked.iter_rows(named=True):
        of_row = samples.filter(pl.col("ranking_id") == row["ranking_id"])
        assert of_row["exchange_key"].n_unique() == of_row["initial_list"].n_unique() == 3
        assert row["exchange_key"] in of_row["exchange_key"].to_list() and set(of_row["exchange_key"]) <= keys
        assert sorted(row["final_list"]) == sorted(row["initial_list"])
        # The stand-in judges a passage by its words and not by its place, so that its samples agree.
        assert row["agreement"] == pytest.approx(1.0)
    figures = latest(made.lake, "teacher_rankings", "sea")
    assert figures is not None and figures.figures["kendalls_w"] == pytest.approx(1.0)


def test_the_report_tells_cost_latency_bias_and_rejections(tmp_path: Path) -> None:
    with running_standin(Faults(latency_s=0.02, rate_garbage=0.5)) as teacher:
        made = mill(tmp_path, SOURCES, teacher.base_url, price=DEAR)
        page = report(made, label(made)).read_text("utf-8")
        paid = teacher.counts["answered"]
    usd = made.lake.read("exchanges")["usd"].sum()
    assert f"<b>{paid}</b>answers paid" in page and f"<b>${usd:.2f}</b>in all" in page
    for words in ("What this run had planned", "p99", "Position bias", "malformed_answer", "stand-in"):
        assert words in page


def test_a_lost_store_is_rebuilt_from_the_lake_and_nothing_is_bought_again(tmp_path: Path) -> None:
    with running_standin(Faults(rate_garbage=0.4)) as teacher:
        made = mill(tmp_path, SOURCES, teacher.base_url)
        label(made)
        bought = teacher.counts["answered"]
        for file in tmp_path.glob("exchanges.sqlite*"):
            file.unlink()
        assert rebuild_store(made.lake, made.home.store) == (bought, bought)
        assert rebuild_store(made.lake, made.home.store) == (bought, 0)
        planned = label(made)
        assert teacher.counts["answered"] == bought
    assert all(set(each.states) <= {"answered", "rejected"} for each in planned)


def test_the_command_line_estimates_labels_and_resynthesizes_without_dagster(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "land", 12)
    home = ["--home", str(tmp_path / "home")]

    def rankmill(*words: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from rankmill.cli import main; main(); "
        watch = "import atexit; atexit.register(lambda: print('DAGSTER' if 'dagster' in sys.modules else 'none'))"
        command = [sys.executable, "-c", f"import sys; {watch}; {code}", *words, *home]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    foreseen = json.loads(rankmill("estimate", "--sources", str(folder), "--json").stdout.splitlines()[0])
    assert foreseen[0]["new"] == foreseen[0]["calls"] > 0 and foreseen[0]["usd_at_most"] == 0
    table = rankmill("estimate").stdout
    assert "inconsistent" not in table and "…" not in table
    assert all(name in table for name in ("answered", "ranking *", "USD at most", "hours", "0.00"))
    told = rankmill("label")
    assert "report: " in told.stdout and "DAGSTER" not in told.stdout
    assert "consistent_rankings" in told.stderr
    again = rankmill("resynthesize", "--dry-run")
    assert "0 calls to buy" in again.stdout and "none" in again.stdout
