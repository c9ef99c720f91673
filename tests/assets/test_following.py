"""What follows by itself when data changes, and what never does; with the clock moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine
from daemon_turns import daemon

from assets.definitions import defs
from assets.described import NEEDS
from assets.following import FOLLOWING

NOON = datetime(2030, 1, 2, 12, 0, tzinfo=UTC)
GRAPH = defs.resolve_asset_graph()
DOMAIN, RECIPE = "math", "reasonrank"


@dataclass
class Clock:
    """Ticks of the sensor, half a minute apart, over one history."""

    instance: dg.DagsterInstance
    cursor: Any = None
    now: datetime = NOON

    def tick(self, later: timedelta = timedelta(seconds=30)) -> set[tuple[str, str | None]]:
        """What a tick asks for: assets with their partitions."""
        self.now += later
        result = dg.evaluate_automation_conditions(
            defs=defs, instance=self.instance, cursor=self.cursor, evaluation_time=self.now
        )
        self.cursor = result.cursor
        return {
            (key.to_user_string(), partition)
            for key in GRAPH.get_all_asset_keys()
            for partition in (result.get_requested_partitions(key) if result.get_num_requested(key) else ())
        }

    def made(self, asset: str, version: str, partition: str | None = None, passed: bool = True) -> None:
        """An asset was materialized, by whomever, this is the hash of its content, and so its checks ended."""
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": version})
        )
        for check in GRAPH.asset_check_keys:
            if check.asset_key == dg.AssetKey(asset) and GRAPH.get_check_spec(check).blocking:
                self.instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(asset_key=check.asset_key, check_name=check.name, passed=passed)
                )

    def everything(self, version: str) -> None:
        """Every asset was materialized, for one domain and one recipe."""
        for key in GRAPH.toposorted_asset_keys:
            self.made(key.to_user_string(), version, self.partition(key))

    def partition(self, key: dg.AssetKey) -> str | None:
        """The partition of an asset that these tests make."""
        kind = GRAPH.get(key).partitions_def
        return None if kind is None else DOMAIN if isinstance(kind, dg.DynamicPartitionsDefinition) else RECIPE


@pytest.fixture
def clock() -> Iterator[Clock]:
    with dg.instance_for_test() as kept:
        kept.add_dynamic_partitions("domain", [DOMAIN, "coding"])
        clock = Clock(kept)
        clock.everything("1")
        clock.tick()
        yield clock


def test_a_new_release_is_followed_by_its_reports_and_its_card_once(clock: Clock) -> None:
    clock.made("training_set", "2")
    assert clock.tick() == {("data_quality_report", None), ("dataset_card", None)}
    assert clock.tick() == set()
    assert clock.tick(timedelta(days=1)) == set()


def test_what_came_out_the_same_sets_nothing_off(clock: Clock) -> None:
    for night in range(3):
        clock.everything("1")
        assert clock.tick(timedelta(days=1)) == set(), night


def test_a_run_that_made_the_reports_too_leaves_nothing_to_follow(clock: Clock) -> None:
    clock.made("training_set", "2")
    for report in ("data_quality_report", "dataset_card"):
        clock.made(report, "2")
    assert clock.tick() == set()


@pytest.mark.parametrize(
    ("changed", "follows"),
    [
        ("queries", {("candidates", DOMAIN)}),
        ("passages", {("candidates", DOMAIN)}),
        ("human_judgements", set()),
        ("candidates", set()),
        ("mined_judgements", {("campaign_report", None)}),
        ("teacher_rankings", {("consistent_rankings", DOMAIN), ("campaign_report", None)}),
        ("consistent_rankings", {("campaign_report", None)}),
        ("benchmarks", set()),
        ("sft_model", set()),
        ("benchmark_runs", {("leaderboard", None), ("champion", None)}),
        ("leaderboard", {("champion", None)}),
    ],
)
def test_a_change_is_followed_by_what_reads_it_in_its_own_domain(
    clock: Clock, changed: str, follows: set[tuple[str, str | None]]
) -> None:
    clock.made(changed, "2", clock.partition(dg.AssetKey(changed)))
    assert clock.tick() == follows


def test_nothing_that_costs_money_or_hours_ever_follows_whatever_has_changed(clock: Clock) -> None:
    asked: set[str] = set()
    for change in range(2, 5):
        for key in GRAPH.toposorted_asset_keys:
            clock.made(key.to_user_string(), f"{change}", clock.partition(key))
            asked |= {asset for asset, _ in clock.tick(timedelta(hours=1))}
    assert asked == set(FOLLOWING)
    assert asked.isdisjoint(NEEDS)
    assert all(GRAPH.get(dg.AssetKey(asset)).automation_condition is None for asset in NEEDS)


def test_nothing_follows_a_release_whose_blocking_check_failed(clock: Clock) -> None:
    clock.made("training_set", "2", passed=False)
    assert clock.tick() == set()
    clock.made("training_set", "3")
    assert clock.tick() == {("data_quality_report", None), ("dataset_card", None)}


def test_dagsters_own_daemon_starts_what_follows_once_when_the_sensor_is_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    later = timedelta(minutes=1)
    with daemon(tmp_path, "offline", "reports_follow") as mill:
        history = Clock(mill.instance)
        mill.instance.add_dynamic_partitions("domain", [DOMAIN])
        with time_machine.travel(NOON, tick=False):
            history.everything("1")
        mill.every(later, NOON + later, 2)
        assert mill.instance.get_runs_count() == 0
        mill.instance.start_sensor(mill.repository().get_sensor("reports_follow"))
        mill.every(later, NOON + 3 * later, 2)
        assert mill.instance.get_runs_count() == 0  # what was there before it is no change
        with time_machine.travel(NOON + 5 * later, tick=False):
            history.made("training_set", "2")
        mill.every(later, NOON + 6 * later, 3)
        (run,) = mill.instance.get_runs()
        assert run.asset_selection == {dg.AssetKey("data_quality_report"), dg.AssetKey("dataset_card")}
        assert [tick.error for tick in mill.ticks("reports_follow") if tick.error] == []
