"""Runs whose process is gone while nobody watched: ended a minute later, their places in the pools free again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("rankmill", "warehouse"))

from test_instances import SLEEPER

from assets.watchman import end_lost_runs
from rankmill.settings import ROOT


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text("utf-8"), "utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def tick(machine: dg.DagsterInstance, cursor: str | None) -> tuple[str, str | None]:
    """What a tick of the sensor says, and the cursor that it leaves."""
    with dg.build_sensor_context(instance=machine, cursor=cursor) as context:
        result = end_lost_runs(context)
    assert isinstance(result, dg.SensorResult) and result.skip_reason is not None
    return str(result.skip_reason.skip_message), result.cursor


def test_a_run_that_is_lost_in_two_ticks_is_ended_and_one_that_lives_is_left_alone(
    machine: dg.DagsterInstance, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "asking\n"
    (run,) = machine.get_runs()
    said, cursor = tick(machine, None)
    assert (said, cursor) == ("no run has lost its process", "[]")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    said, cursor = tick(machine, cursor)  # whoever watches it may still report it
    assert said == "no run has lost its process"
    said, cursor = tick(machine, cursor)
    assert said == f"ended, since their processes are gone: {run.run_id}" and cursor == "[]"
    ended = machine.get_run_by_id(run.run_id)
    assert ended is not None and ended.status == dg.DagsterRunStatus.FAILURE
    assert machine.event_log_storage.get_concurrency_info("teacher").active_run_ids == set()
    assert tick(machine, cursor) == ("no run has lost its process", "[]")
