"""The night: what the schedule starts, and what follows only when all of it has succeeded."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets.automation import nightly, sensors
from assets.resources import Factory
from assets.tags import NIGHT

TONIGHT = datetime(2030, 1, 2, 3, 0, tzinfo=UTC)
FOLLOWERS = [sensor for sensor in sensors if sensor.name.endswith("_follows")]
SUCCESS, STARTED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def run(instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, night: str | None) -> dg.DagsterRun:
    @dg.op
    def nothing() -> None:
        """An op, so that there is a job."""

    @dg.job(name=job)
    def made() -> None:
        nothing()

    tags = {} if night is None else {NIGHT: night}
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


def test_the_schedule_starts_every_active_domain_once_a_night(tmp_path: Path) -> None:
    factory = Factory(profile="offline", home=str(tmp_path))
    with (
        dg.instance_for_test() as kept,
        dg.build_schedule_context(kept, scheduled_execution_time=TONIGHT, resources={"factory": factory}) as context,
    ):
        asked = list(nightly(context))
        assert set(kept.get_dynamic_partitions("domain")) == {"coding", "complex_qa", "math", "web_search"}
    assert [request.partition_key for request in asked] == ["coding", "complex_qa", "math", "web_search"]
    assert {request.tags[NIGHT] for request in asked} == {"2030-01-02"}
    assert len({request.run_key for request in asked}) == 4


def test_the_release_follows_only_when_every_domain_of_the_night_has_succeeded(instance: dg.DagsterInstance) -> None:
    release = FOLLOWERS[0]
    ended = run(instance, "label_domain", SUCCESS, "2030-01-02")
    run(instance, "label_domain", STARTED, "2030-01-02")
    assert follow(instance, release, ended) == []
    other = dg.DagsterInstance.ephemeral()
    ended = run(other, "label_domain", SUCCESS, "2030-01-02")
    run(other, "label_domain", STARTED, "2030-01-01")
    asked = follow(other, release, ended)
    assert [request.tags[NIGHT] for request in asked] == ["2030-01-02"]


def test_training_follows_the_release_for_the_recipes_of_the_profile(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    ended = run(instance, "release_training_set", SUCCESS, "2030-01-02")
    assert [request.partition_key for request in follow(instance, FOLLOWERS[1], ended)] == ["reasonrank"]
    profile = tmp_path / "two.yaml"
    profile.write_text("extends: offline\ndescription: two\nnightly: [first, direct-point]\n")
    asked = follow(instance, FOLLOWERS[1], ended, str(profile))
    assert [request.partition_key for request in asked] == ["first", "direct-point"]


def test_a_person_s_run_sets_nothing_off(instance: dg.DagsterInstance) -> None:
    for sensor, job in zip(FOLLOWERS, ("label_domain", "release_training_set", "train_and_evaluate"), strict=True):
        assert follow(instance, sensor, run(instance, job, SUCCESS, None)) == []
