"""Where Dagster keeps runs: on one machine, in a team's PostgreSQL; and runs whose process is gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))

from shared_services import postgres

from rankmill.dead_runs import GRPC_INFO, POOLS, PROCESS, dead_runs, end_dead_runs, hand_out_places, open_pools
from rankmill.settings import ROOT, Settings

SLEEPER = """
import os, socket, sys, time
import dagster as dg
from rankmill.dead_runs import PROCESS

@dg.op(pool="teacher")
def asks():
    print("asking", flush=True)
    time.sleep(120)

@dg.job
def campaign():
    asks()

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    campaign.execute_in_process(instance=instance, tags={PROCESS: f"{socket.gethostname()}/{os.getpid()}"})
"""


SMALL = """
import sys
import dagster as dg

@dg.op(pool="teacher")
def asks():
    pass

@dg.job
def campaign():
    asks()

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    campaign.execute_in_process(instance=instance)
"""


@dg.op(pool="lake")
def writes() -> None:
    """Takes a place in the pool and gives it back."""


@dg.job
def small() -> None:
    """One op in a pool."""
    writes()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))  # where the storage that it names keeps its files
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text("utf-8"), "utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def agreed(instance: dg.DagsterInstance, runs: int) -> None:
    """What both files promise."""
    config = instance.get_concurrency_config()
    assert config.pool_config.default_pool_limit == 1 and config.run_queue_config is not None
    assert config.run_queue_config.max_concurrent_runs == runs
    assert instance.run_monitoring_enabled and instance.run_retries_enabled and instance.freshness_enabled
    assert instance.run_retries_max_retries == 2 and not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.get_settings("concurrency")["runs"]["max_concurrent_runs"] == runs
    for kind in ("schedule", "sensor"):
        assert instance.get_settings("retention")[kind]["purge_after_days"]


def test_one_machine_needs_no_service_and_its_pools_let_four_write_and_one_ask(machine: dg.DagsterInstance) -> None:
    agreed(machine, 4)
    open_pools(machine)
    assert small.execute_in_process(instance=machine).success
    pools = machine.event_log_storage
    assert pools.get_concurrency_info("lake").slot_count == POOLS["lake"]
    pools.set_concurrency_slots("lake", 2)
    open_pools(machine)  # somebody has chosen
    assert pools.get_concurrency_info("lake").slot_count == 2


@contextlib.contextmanager
def team_history(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A team's PostgreSQL for the length of a block, named in the environment."""
    monkeypatch.setenv("RANKMILL_INSTANCE", "team")
    with postgres(folder) as address:
        values = dict(re.findall(r"(\w+)=(\S+)", address.removeprefix("postgres:")))
        for name, value in (
            ("HOST", values["host"]), ("PORT", values["port"]), ("DB", values["dbname"]),
            ("USERNAME", values["user"]), ("PASSWORD", "any"),
        ):  # fmt: skip
            monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
        yield


def test_a_team_s_runs_are_in_postgresql_where_every_machine_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with team_history(tmp_path / "server", monkeypatch):
        for folder in ("one", "other"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "dagster.yaml").write_text(Settings.load().instance_file.read_text("utf-8"), "utf-8")
        with (
            dg.DagsterInstance.from_config(str(tmp_path / "one")) as one,
            dg.DagsterInstance.from_config(str(tmp_path / "other")) as other,
        ):
            agreed(one, 16)
            open_pools(one)
            ran = small.execute_in_process(instance=one)
            assert ran.success
            seen = other.get_run_by_id(ran.run_id)
            assert seen is not None and seen.status == dg.DagsterRunStatus.SUCCESS
            assert other.event_log_storage.get_concurrency_info("lake").slot_count == POOLS["lake"]
            assert not list((tmp_path / "one").rglob("*.db"))
        at_once = [
            subprocess.Popen([sys.executable, "-c", SMALL, str(tmp_path / "one")], stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        with dg.DagsterInstance.from_config(str(tmp_path / "one")) as one:
            until = time.monotonic() + 120
            while any(process.poll() is None for process in at_once) and time.monotonic() < until:
                hand_out_places(one)  # as the watchman does
                time.sleep(0.5)
        errors = [process.communicate(timeout=1)[1] for process in at_once]
        assert [process.returncode for process in at_once] == [0] * 4, errors


def test_a_run_that_was_killed_is_marked_and_its_place_in_the_pool_is_free_again(
    machine: dg.DagsterInstance, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "asking\n"
    (run,) = machine.get_runs()
    pools = machine.event_log_storage
    assert pools.get_concurrency_info("teacher").active_run_ids == {run.run_id}
    assert end_dead_runs(machine) == []  # it lives
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert end_dead_runs(machine) == [run.run_id]
    ended = machine.get_run_by_id(run.run_id)
    assert ended is not None and ended.status == dg.DagsterRunStatus.FAILURE
    assert pools.get_concurrency_info("teacher").active_run_ids == set()
    assert end_dead_runs(machine) == []


def test_a_step_that_was_passed_over_gets_the_place_that_is_free(machine: dg.DagsterInstance) -> None:
    pools = machine.event_log_storage
    pools.set_concurrency_slots("teacher", 1)
    assert pools.claim_concurrency_slot("teacher", "first", "asks").is_claimed
    assert not pools.claim_concurrency_slot("teacher", "second", "asks").is_claimed
    assert hand_out_places(machine) == 0  # none is free
    pools.free_concurrency_slots_for_run("first")
    assert pools.claim_concurrency_slot("teacher", "second", "asks").is_claimed
    pools.free_concurrency_slots_for_run("second")
    # The third saw no free place, and stood in the queue when the second had already gone.
    pools.add_pending_step("teacher", "third", "asks", priority=1, should_assign=False)
    pools.add_pending_step("teacher", "fourth", "asks", should_assign=False)
    assert not pools.claim_concurrency_slot("teacher", "third", "asks").is_claimed
    assert hand_out_places(machine) == 1
    assert pools.claim_concurrency_slot("teacher", "third", "asks").is_claimed
    assert not pools.claim_concurrency_slot("teacher", "fourth", "asks").is_claimed
    assert hand_out_places(machine) == 0


def test_a_run_of_the_daemon_is_known_by_the_process_that_its_log_names(machine: dg.DagsterInstance) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(30)
    runs = {}
    for name, pid in (("gone", gone.pid), ("here", os.getpid())):
        run = machine.create_run_for_job(small, status=dg.DagsterRunStatus.STARTED)
        machine.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
        runs[name] = run.run_id
    unknown = machine.create_run_for_job(small, status=dg.DagsterRunStatus.STARTED)
    elsewhere = machine.create_run_for_job(
        small, status=dg.DagsterRunStatus.STARTED, tags={PROCESS: f"another-host/{gone.pid}"}
    )
    # Executed again in the UI: it has the tag of a `rankmill run` that is gone, and a process of its own.
    again = machine.create_run_for_job(
        small,
        status=dg.DagsterRunStatus.STARTED,
        tags={PROCESS: f"{socket.gethostname()}/{gone.pid}", GRPC_INFO: '{"host": "localhost", "socket": "/gone"}'},
    )
    machine.report_engine_event("Started process for run (pid: 1).", again, EngineEventData.in_process(os.getpid()))
    assert [run.run_id for run in dead_runs(machine)] == [runs["gone"]]
    assert {unknown.run_id, elsewhere.run_id}.isdisjoint(end_dead_runs(machine))
