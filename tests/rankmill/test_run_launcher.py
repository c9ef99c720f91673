"""A team's run whose code server dies: it ends when its process is gone, and no sooner, and is executed again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("rankmill", "warehouse"))

import held_campaigns
from code_servers import code_server, until
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.daemon import MonitoringDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from shared_services import free_port
from test_instances import team_history

from rankmill.dead_runs import GRPC_INFO, LAUNCHED_ON, dead_runs, open_pools
from rankmill.settings import ROOT
from training.jobs import alive


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that holds campaigns back, below the home of a team's instance whose pools' places are freed at once."""
    team = (ROOT / "dagster-team.yaml").read_text("utf-8")
    at_once = team.replace("free_slots_after_run_end_seconds: 60", "free_slots_after_run_end_seconds: 1")
    assert at_once != team
    (tmp_path / "dagster.yaml").write_text(at_once, "utf-8")
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    yield hold
    hold.unlink(missing_ok=True)


class Daemon:
    """The daemons of a team that begin runs, watch them and execute them again, a turn at a time."""

    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance, self.workspace = instance, workspace
        self.daemons = (QueuedRunCoordinatorDaemon(5), MonitoringDaemon(60), EventLogConsumerDaemon())

    def turn(self) -> None:
        for daemon in self.daemons:
            for error in daemon.run_iteration(self.workspace):
                assert not hasattr(error, "message"), error

    def status(self, run: str) -> dg.DagsterRunStatus:
        return self.instance.get_run_by_id(run).status  # type: ignore[union-attr]

    def submit(self) -> str:
        request = self.workspace.create_request_context()
        (location,) = request.code_locations
        (repository,) = location.get_repositories().values()
        job = repository.get_full_job("campaign")
        run = self.instance.create_run_for_job(
            held_campaigns.campaign,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            status=dg.DagsterRunStatus.NOT_STARTED,
        )
        self.instance.submit_run(run.run_id, request)
        return run.run_id


@contextlib.contextmanager
def team(folder: Path, port: int) -> Iterator[Daemon]:
    """A team's instance with its daemons."""
    target = GrpcServerTarget(host="127.0.0.1", port=port, socket=None, location_name="rankmill")
    with (
        dg.DagsterInstance.from_config(str(folder)) as instance,
        WorkspaceProcessContext(instance, target) as workspace,
    ):
        open_pools(instance)
        yield Daemon(instance, workspace)


def process_of(instance: dg.DagsterInstance, run: str) -> int:
    """The process that a run's log names."""
    entries = instance.all_logs(run, of_type=dg.DagsterEventType.ENGINE_EVENT)
    (pid,) = [
        entry.dagster_event.engine_event_data.metadata["pid"].value  # type: ignore[union-attr]
        for entry in entries
        if entry.dagster_event.message.startswith("Started process for run")  # type: ignore[union-attr]
    ]
    return int(pid)  # type: ignore[arg-type]


def test_a_run_outlives_its_code_server_and_is_executed_again_when_its_process_is_gone_too(
    hold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with (
        team_history(tmp_path / "server", monkeypatch),
        code_server(tmp_path, port) as server,
        team(tmp_path, port) as house,
    ):
        pools = house.instance.event_log_storage
        run = house.submit()
        until(lambda: pools.get_concurrency_info("teacher").active_run_ids == {run}, "it asks", house.turn)
        worker = process_of(house.instance, run)
        server.kill()
        server.wait(10)
        house.turn()  # a server that does not answer proves nothing
        assert house.status(run) == dg.DagsterRunStatus.STARTED
        assert list(dead_runs(house.instance)) == []
        with code_server(tmp_path, port):  # it knows nothing of the run, whose process lives
            house.turn()
            assert house.status(run) == dg.DagsterRunStatus.STARTED
            os.kill(worker, signal.SIGKILL)
            until(lambda: not alive(worker), "the process is gone")
            house.turn()
            assert house.status(run) == dg.DagsterRunStatus.FAILURE
            hold.unlink()
            until(lambda: len(house.instance.get_runs()) == 2, "it is executed again", house.turn)
            (again,) = [one.run_id for one in house.instance.get_runs() if one.run_id != run]
            until(lambda: house.status(again) == dg.DagsterRunStatus.SUCCESS, "it has its place", house.turn)
            assert pools.get_concurrency_info("teacher").active_run_ids == set()


def test_a_run_is_judged_by_the_machine_whose_code_server_began_it(
    hold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    here, elsewhere = os.uname().nodename, "another-host"
    at_port, at_socket = {"host": "127.0.0.1", "port": port}, {"host": "localhost", "socket": str(tmp_path / "gone")}
    with team_history(tmp_path / "server", monkeypatch), team(tmp_path, port) as house:
        instance = house.instance

        def under_way(pid: int, server: dict[str, Any], launched_on: str) -> dg.DagsterRun:
            tags = {GRPC_INFO: json.dumps(server), LAUNCHED_ON: launched_on}
            run = instance.create_run_for_job(held_campaigns.campaign, status=dg.DagsterRunStatus.STARTED, tags=tags)
            instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
            return run

        def health(run: dg.DagsterRun) -> WorkerStatus:
            return instance.run_launcher.check_run_worker_health(run).status

        lost = under_way(process.pid, at_socket, here)  # the server that a daemon starts itself has no second life
        others = [under_way(process.pid, at_socket, elsewhere), under_way(os.getpid(), at_socket, here)]
        assert [run.run_id for run in dead_runs(instance)] == [lost.run_id]
        mine, other = under_way(os.getpid(), at_port, here), under_way(os.getpid(), at_port, elsewhere)
        assert {health(run) for run in (lost, *others, mine, other)} == {WorkerStatus.RUNNING}  # nobody answers
        with code_server(tmp_path, port):  # and knows none of them
            assert (health(mine), health(other)) == (WorkerStatus.RUNNING, WorkerStatus.FAILED)
            instance.report_run_failed(other)
            assert health(other) == WorkerStatus.RUNNING  # it has ended, and there is nobody to ask after
