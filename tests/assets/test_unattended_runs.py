"""Runs that no person started: within the night's budget, and with what failed asked once more."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))

from mills import spend, write_folder

from assets.definitions import defs
from assets.resources import Factory
from assets.tags import ARRIVED, NIGHT
from flows.nights import night_at
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

CENTS = {"input": 0, "cached": 0, "output": 100, "source": "an answer of 100 tokens costs a cent"}
UNATTENDED = {NIGHT: "2030-01-02"}
RUN = """
import sys, dagster as dg
from assets.definitions import defs
from assets.resources import Factory
from assets.tags import NIGHT
factory = Factory(profile=sys.argv[1], home=sys.argv[2])
instance = dg.DagsterInstance.ephemeral()
instance.add_dynamic_partitions("domain", [sys.argv[3]])
defs.resolve_job_def("label_domain").execute_in_process(
    instance=instance, partition_key=sys.argv[3], tags={NIGHT: "2030-01-02"}, resources={"factory": factory},
    raise_on_error=False)
"""


def home_of(folder: Path, *domains: str, queries: int = 8, **profile: Any) -> Factory:
    """A home with some folders as its sources, and a profile like offline with a teacher that takes chances."""
    path = folder / "mine.yaml"
    teacher = {"temperature": 0.6, **profile.pop("teacher", {})}
    path.write_text(json.dumps({"extends": "offline", "description": "mine", "teacher": teacher, **profile}), "utf-8")
    factory = Factory(profile=str(path), home=str(folder / "home"))
    folders = [str(write_folder(folder / "sources" / domain, queries)) for domain in domains]
    factory.registry.keep(factory.registry.choose(folders, None))
    return factory


def label(factory: Factory, domain: str, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("domain", [domain])
    return defs.resolve_job_def("label_domain").execute_in_process(
        instance=instance, partition_key=domain, tags=tags, resources={"factory": factory}, raise_on_error=False
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event, *_) = result.get_step_failure_events()
    return str(event.step_failure_data.user_failure_data.description)


def spent(factory: Factory) -> float:
    with ExchangeStore(factory.settings.store_path) as store:
        return store.spent("all").usd


def asked(factory: Factory) -> dict[int, int]:
    """How many answers there are of each generation, repair turns left out."""
    rows = factory.lake.read("exchanges", columns=["generation", "repair_of"])
    first = rows.filter(rows["repair_of"].is_null())
    return dict(first.group_by("generation").len().sort("generation").iter_rows())


def test_the_night_stops_at_its_budget_and_the_next_goes_on_from_there(tmp_path: Path) -> None:
    factory = home_of(tmp_path, "land", queries=16, teacher={"price": CENTS}, budgets={"night_usd": 0.35})
    with ExchangeStore(factory.settings.store_path) as store:
        spend(store, night_at(datetime.now(UTC)).began - timedelta(hours=1), 50.0)
    stopped = label(factory, "land", UNATTENDED)
    assert not stopped.success
    told = failure(stopped)
    assert "land: the budget of the night" in told and "$0.35, is used up" in told
    bought = spent(factory) - 50.0
    assert 0.1 < bought <= 0.35
    assert not label(factory, "land", {ARRIVED: "abc"}).success  # an arrival is paid for by the same night
    assert spent(factory) - 50.0 <= 0.35
    assert label(factory, "land", {}).success  # a person's run is bounded by the person's budget
    assert spent(factory) - 50.0 > 0.35


def test_the_person_s_own_budget_still_holds_where_it_ends_first(tmp_path: Path) -> None:
    teacher = {"price": CENTS, "budget_usd": 0.3}
    factory = home_of(tmp_path, "land", queries=16, teacher=teacher, budgets={"night_usd": 100})
    stopped = label(factory, "land", UNATTENDED)
    (event,) = stopped.get_step_failure_events()
    assert "of $0.30 after" in event.step_failure_data.error_display_string
    assert 0 < spent(factory) <= 0.3


def test_domains_that_run_at_once_in_processes_of_their_own_share_the_night_s_budget(tmp_path: Path) -> None:
    domains = ("land", "lake")
    factory = home_of(tmp_path, *domains, queries=16, teacher={"price": CENTS}, budgets={"night_usd": 0.5})
    command = [sys.executable, "-c", RUN, factory.profile, factory.home]
    runs = [
        subprocess.Popen([*command, domain], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))
        for domain in domains
    ]
    errors = [run.communicate(timeout=120)[1].decode() for run in runs]
    assert any("used up" in error for error in errors), errors
    assert 0.3 < spent(factory) <= 0.5
    with ExchangeStore(factory.settings.store_path) as store:
        assert store.reserved("all").usd == 0


def yesterday(factory: Factory) -> None:
    """Let every answer in the store be a day older than it is."""
    with closing(sqlite3.connect(factory.settings.store_path)) as store, store:
        day = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds")
        store.execute("UPDATE exchanges SET created_at = ?", [day])


def test_what_was_malformed_is_asked_once_a_night_as_a_fresh_generation_and_only_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    people = {"judgements": {"sea": "human"}}
    with running_standin(Faults(rate_garbage=1.0)) as broken:
        teacher = {"base_url": broken.base_url, "breaker": {"share": 1.0}, "generations": 2, "budget_usd": 0}
        factory = home_of(tmp_path, "sea", teacher=teacher, labels=people)
        assert label(factory, "sea", UNATTENDED).success
        yesterday(factory)
        assert label(factory, "sea", {}).success
        assert asked(factory) == {0: 7}  # a person asks again by `rankmill resynthesize`
        for _ in range(2):
            assert label(factory, "sea", UNATTENDED).success
            assert asked(factory) == {0: 7, 1: 7}
        yesterday(factory)
        assert label(factory, "sea", UNATTENDED).success
        assert asked(factory) == {0: 7, 1: 7}  # generations is 2
        assert broken.counts["answered"] == 2 * 2 * 7


@pytest.mark.parametrize("temperature", [0.6, 0.0])
def test_an_inconsistent_ranking_is_asked_again_unless_the_teacher_would_say_the_same(
    tmp_path: Path, temperature: float
) -> None:
    factory = home_of(
        tmp_path, "land", queries=16, alpha=1.0, teacher={"temperature": temperature}, labels={"mining_window": 4}
    )
    assert label(factory, "land", {}).success
    lost = factory.lake.read("rejections", {"asset": "consistent_rankings", "partition_key": "land"})
    before = asked(factory)
    assert 0 < lost.height < before[0]
    yesterday(factory)
    assert label(factory, "land", UNATTENDED).success
    again = lost.height if temperature else 0
    assert asked(factory) == before | ({1: again} if again else {})
    newest = factory.lake.read("rankings").join(factory.lake.read("exchanges"), left_on="exchange_key", right_on="key")
    assert int((newest["generation"] == 1).sum()) == again


def test_no_more_is_asked_again_than_the_night_can_pay_for(tmp_path: Path) -> None:
    # An answer counts 1024 tokens before it is asked, which is $0.1024: two of them fit.
    factory = home_of(
        tmp_path, "land", queries=16, alpha=1.0, teacher={"price": CENTS}, budgets={"night_usd": 0.25},
        labels={"mining_window": 4},
    )  # fmt: skip
    assert label(factory, "land", {}).success
    with closing(sqlite3.connect(factory.settings.store_path)) as store, store:
        store.execute("UPDATE spend SET at = '2020-01-01T00:00:00.000+00:00'")
    yesterday(factory)
    assert label(factory, "land", UNATTENDED).success
    assert asked(factory)[1] == 2
