"""The night: what the schedule starts, and what follows only when all of it has succeeded."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))

from daemon_turns import daemon
from mills import spend, write_folder

from assets.alerts import cause
from assets.automation import nightly, sensors
from assets.resources import Factory
from assets.tags import ARRIVED, NIGHT, PARTITION, RUNS
from inference.store import ExchangeStore
from warehouse.intake.steps import refusal

TONIGHT = datetime(2030, 1, 2, 3, 0, tzinfo=UTC)
FOLLOWERS = [sensor for sensor in sensors if sensor.name.endswith("_follows")]
SUCCESS, STARTED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def run(
    instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, night: str | None, key: str = "", runs: int = 1
) -> dg.DagsterRun:
    @dg.op
    def nothing() -> None:
        """An op, so that there is a job."""

    @dg.job(name=job)
    def made() -> None:
        nothing()

    tags = {} if night is None else {NIGHT: night, RUNS: str(runs), PARTITION: key}
    return instance.create_run_for_job(made, status=status, tags=tags)


def follow(
    instance: dg.DagsterInstance, sensor: dg.SensorDefinition, ended: dg.DagsterRun, profile: str = "offline"
) -> list[dg.RunRequest]:
    event = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=ended.job_name, message="")
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_instance=instance,
        dagster_run=ended,
        dagster_event=event,
        resources={"factory": Factory(profile=profile, home="unused")},
    )
    return [asked for asked in sensor(context) if isinstance(asked, dg.RunRequest)]  # type: ignore[attr-defined]


def tick(home: Path, instance: dg.DagsterInstance, profile: str = "offline", at: datetime = TONIGHT) -> list[Any]:
    """What the schedule gives at a moment."""
    factory = Factory(profile=profile, home=str(home))
    with dg.build_schedule_context(instance, scheduled_execution_time=at, resources={"factory": factory}) as context:
        return list(nightly(context))  # type: ignore[call-overload]


def test_the_schedule_starts_every_active_domain_once_a_night(tmp_path: Path) -> None:
    with dg.instance_for_test() as kept:
        asked = tick(tmp_path, kept)
        assert set(kept.get_dynamic_partitions("domain")) == {"coding", "complex_qa", "math", "web_search"}
        again = tick(tmp_path, kept, at=TONIGHT + timedelta(minutes=7))
        tomorrow = tick(tmp_path, kept, at=TONIGHT + timedelta(days=1))
    assert [request.partition_key for request in asked] == ["coding", "complex_qa", "math", "web_search"]
    assert {(request.tags[NIGHT], request.tags[RUNS]) for request in asked} == {("2030-01-02", "4")}
    # A tick that comes twice asks for the same runs, which Dagster starts once.
    assert [r.run_key for r in again] == [r.run_key for r in asked]
    assert {r.run_key for r in tomorrow}.isdisjoint(r.run_key for r in asked)


def test_a_night_without_money_is_skipped_with_the_reason_until_the_month_is_over(tmp_path: Path) -> None:
    profile = tmp_path / "bounded.yaml"
    profile.write_text(
        "extends: offline\ndescription: bounded\nbudgets: {night_usd: 5, month_usd: 8}\n"
        "teacher: {price: {input: 0, cached: 0, output: 1000, source: a dollar an answer of 1000 tokens}}\n"
    )
    home = tmp_path / "home"
    with ExchangeStore(home / "exchanges.sqlite") as store:
        spend(store, TONIGHT - timedelta(hours=20), 7.5)
    with dg.instance_for_test() as kept:
        (skipped,) = tick(home, kept, str(profile))
        assert "the budget of the month 2030-01, $8.00, is used up" in skipped.skip_message
        assert kept.get_dynamic_partitions("domain") == []
        assert len(tick(home, kept, str(profile), TONIGHT.replace(month=2, day=1))) == 4


def two_sources(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A home whose active sources are two folders, land and sea; gives both."""
    home = tmp_path / "home"
    registry = Factory(profile="offline", home=str(home)).registry
    folders = [write_folder(tmp_path / name, 4) for name in ("land", "sea")]
    registry.keep(registry.choose([str(folder) for folder in folders], None))
    return home, folders


def test_a_domain_whose_folder_turns_bad_stays_as_it_is_and_the_others_go_on(tmp_path: Path) -> None:
    home, folders = two_sources(tmp_path)
    with dg.instance_for_test() as kept:
        assert [r.partition_key for r in tick(home, kept)] == ["land", "sea"]
        (folders[0] / "passages.jsonl").write_text("no JSON\n", "utf-8")
        asked = tick(home, kept, at=TONIGHT + timedelta(days=1))
        assert [(r.partition_key, r.tags[RUNS]) for r in asked] == [("sea", "1")]
        (folders[1] / "qrels.tsv").unlink()
        (skipped,) = tick(home, kept, at=TONIGHT + timedelta(days=2))
        assert "every source has turned bad: land, sea" in skipped.skip_message


@pytest.mark.parametrize("file", ["queries.jsonl", "training_data_all.jsonl"])
def test_a_file_that_the_disk_refuses_to_read_makes_one_bad_source_and_ends_no_night(tmp_path: Path, file: str) -> None:
    home, folders = two_sources(tmp_path)
    (folders[0] / file).unlink(missing_ok=True)
    (folders[0] / file).symlink_to("/proc/self/mem")  # a file for all that can be seen, and not even root can read it
    with dg.instance_for_test() as kept:
        assert [(r.partition_key, r.tags[RUNS]) for r in tick(home, kept)] == [("sea", "1")]
    factory = Factory(profile="offline", home=str(home))
    said = refusal(factory.lake, factory.registry.domain("land"), 0)
    assert said is not None and "cannot be read (Input/output error)" in said and "ls -l" in said


@pytest.mark.parametrize("instead", ["a folder", "a dangling link"])
def test_what_is_no_file_makes_a_bad_source_too(tmp_path: Path, instead: str) -> None:
    home, folders = two_sources(tmp_path)
    file = folders[0] / "passages.jsonl"
    file.unlink()
    file.mkdir() if instead == "a folder" else file.symlink_to(tmp_path / "nowhere")
    with dg.instance_for_test() as kept:
        assert [r.partition_key for r in tick(home, kept)] == ["sea"]


def test_the_release_follows_only_when_every_domain_of_the_night_has_succeeded(instance: dg.DagsterInstance) -> None:
    release = FOLLOWERS[0]
    night = "2030-01-02"
    ended = run(instance, "label_domain", SUCCESS, night, "math", runs=2)
    assert follow(instance, release, ended) == []  # the other has not even been submitted
    run(instance, "label_domain", STARTED, night, "coding", runs=2)
    assert follow(instance, release, ended) == []
    other = dg.DagsterInstance.ephemeral()
    ended = run(other, "label_domain", SUCCESS, night, "math")
    run(other, "label_domain", STARTED, "2030-01-01", "math")
    asked = follow(other, release, ended)
    assert [request.tags[NIGHT] for request in asked] == [night]


def test_a_run_that_failed_counts_by_its_newest_execution(instance: dg.DagsterInstance) -> None:
    night = "2030-01-02"
    ended = run(instance, "label_domain", SUCCESS, night, "math", runs=2)
    run(instance, "label_domain", dg.DagsterRunStatus.FAILURE, night, "coding", runs=2)
    assert follow(instance, FOLLOWERS[0], ended) == []
    again = run(instance, "label_domain", SUCCESS, night, "coding", runs=2)
    assert len(follow(instance, FOLLOWERS[0], again)) == 1


def test_training_follows_the_release_for_the_recipes_of_the_profile(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    ended = run(instance, "release_training_set", SUCCESS, "2030-01-02")
    assert [request.partition_key for request in follow(instance, FOLLOWERS[1], ended)] == ["reasonrank"]
    profile = tmp_path / "two.yaml"
    profile.write_text("extends: offline\ndescription: two\nnightly: [first, direct-point]\n")
    asked = follow(instance, FOLLOWERS[1], ended, str(profile))
    assert [request.partition_key for request in asked] == ["first", "direct-point"]
    assert {request.tags[RUNS] for request in asked} == {"2"}


def test_an_arrival_of_the_day_is_labelled_and_starts_no_release(instance: dg.DagsterInstance) -> None:
    @dg.op
    def nothing() -> None:
        """An op, so that there is a job."""

    @dg.job(name="label_domain")
    def labelled() -> None:
        nothing()

    ended = instance.create_run_for_job(labelled, status=SUCCESS, tags={ARRIVED: "abc"})
    assert follow(instance, FOLLOWERS[0], ended) == []


def test_a_person_s_run_sets_nothing_off(instance: dg.DagsterInstance) -> None:
    for sensor, job in zip(FOLLOWERS, ("label_domain", "release_training_set", "train_and_evaluate"), strict=True):
        assert follow(instance, sensor, run(instance, job, SUCCESS, None)) == []


def test_a_chain_that_meets_a_half_edited_profile_goes_on_in_the_next_tick_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    profile = tmp_path / "edited.yaml"
    profile.write_text("extends: offline\ndescription: edited\nnightly: [fir", "utf-8")
    with daemon(tmp_path, str(profile), "train_and_evaluate_follows") as mill:
        mill.at(TONIGHT)  # sensors begin where the history ends
        with time_machine.travel(TONIGHT + timedelta(minutes=1), tick=False):
            mill.ended_well("release_training_set", {NIGHT: "2030-01-02", RUNS: "1"})
            mill.ended_well("release_training_set", {})  # a person's, which would be looked at next
        mill.every(timedelta(minutes=1), TONIGHT + timedelta(minutes=2), 2)
        failed = mill.ticks("train_and_evaluate_follows")[:2]
        assert [tick.status.value for tick in failed] == ["FAILURE"] * 2
        assert "edited.yaml" in cause(failed[0].error)
        profile.write_text("extends: offline\ndescription: edited\nnightly: [first, rank-r1]\n", "utf-8")
        mill.every(timedelta(minutes=1), TONIGHT + timedelta(minutes=4), 3)
        asked = mill.instance.get_runs(dg.RunsFilter(job_name="train_and_evaluate"))
    assert sorted(run.tags[PARTITION] for run in asked) == ["first", "rank-r1"]
