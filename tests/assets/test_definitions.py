"""The graph as others rely on it: every key, group, partition, check, job and schedule, and what loading it costs."""

import subprocess
import sys

import dagster as dg

from assets.definitions import defs

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "prefect",
    "great_expectations",
    "datasets",
    "matplotlib",
    "openai",
    "ray",
    "kubernetes",
)


def test_every_asset_key_group_partition_and_dependency_is_as_designed(snapshot) -> None:  # type: ignore[no-untyped-def]
    graph = defs.resolve_asset_graph()
    assert {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "partitions": type(graph.get(key).partitions_def).__name__ if graph.get(key).partitions_def else None,
            "reads": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
        }
        for key in sorted(graph.get_all_asset_keys())
    } == snapshot


def test_every_check_is_as_designed(snapshot) -> None:  # type: ignore[no-untyped-def]
    keys = defs.resolve_asset_graph().asset_check_keys
    assert sorted(f"{key.asset_key.to_user_string()}/{key.name}" for key in keys) == snapshot


def test_every_job_and_schedule_is_as_designed_and_schedules_are_off(snapshot) -> None:  # type: ignore[no-untyped-def]
    repository = defs.get_repository_def()
    schedules = {s.name: (s.cron_schedule, s.job_name, s.default_status.value) for s in repository.schedule_defs}
    jobs = sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__"))
    sensors = sorted(sensor.name for sensor in repository.sensor_defs)
    assert {"jobs": jobs, "schedules": schedules, "sensors": sensors} == snapshot
    assert all(s.default_status == dg.DefaultScheduleStatus.STOPPED for s in repository.schedule_defs)


def test_every_asset_says_what_it_is() -> None:
    assert [spec.key.to_user_string() for spec in defs.resolve_all_asset_specs() if not spec.description] == []


def test_loading_the_definitions_brings_in_nothing_heavy() -> None:
    code = f"import assets.definitions, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
