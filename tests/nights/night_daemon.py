"""The daemon of a simulated house: Dagster's own daemons, a turn at a time, until a night has come to rest.

    python night_daemon.py          # orders come in on stdin as JSON lines, and answers go out on stdout

Schedule, sensors, run queue, monitoring and retries are those of `dagster-daemon`, with a code server and a process a
run; what begins before the first turn is what `rankmill ui` begins with. Only their pauses are left out: where nothing
runs, the clock is moved on to when the sensors are due. Absent on purpose: the web server.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import moved_clock
from dagster._core.remote_representation.grpc_server_registry import GrpcServerRegistry
from dagster._core.scheduler.instigation import InstigatorType
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.controller import create_daemon_grpc_server_registry
from dagster._daemon.daemon import MonitoringDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster._time import get_current_datetime

from rankmill.cli import _open_instance
from rankmill.run import prepare_home
from rankmill.settings import Settings

SWITCHED_ON = ("nightly", "arrivals")
DUE_S = 61.0  # the longest interval of a sensor that starts runs
PAUSE_S = 1.0  # between turns while runs are under way
REST = 2  # turns in which nothing happens, before a night is over
UNDER_WAY = [dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
LOGGER = logging.getLogger("night")


class House:
    """An instance with its code server and its daemons."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        registry: GrpcServerRegistry,
        workspace: WorkspaceProcessContext,
        *daemons: Any,
    ) -> None:
        self.instance, self.registry, self.workspace, self.daemons = instance, registry, workspace, daemons
        self.errors: list[str] = []

    def switch_on(self) -> None:
        """Switch on what a person switches on once, in the UI."""
        request = self.workspace.create_request_context()
        for location in request.code_locations:
            for repository in location.get_repositories().values():
                for schedule in repository.get_schedules():
                    if schedule.name in SWITCHED_ON:
                        self.instance.start_schedule(schedule)
                for sensor in repository.get_sensors():
                    if sensor.name in SWITCHED_ON:
                        self.instance.start_sensor(sensor)

    def renew(self) -> None:
        """Another code server in place of the one there is, which ends when its runs have: a daemon's every minute."""
        self.registry.clear_all_grpc_endpoints()
        self.workspace.refresh_workspace()

    def turn(self) -> None:
        """What every daemon does once."""
        if not any(server.server_process.poll() is None for server in self.registry._all_processes):
            self.renew()
        scheduler = self.instance.scheduler
        ticks = launch_scheduled_runs(
            self.workspace, LOGGER, get_current_datetime(), {}, None, None, None,
            scheduler.max_catchup_runs, scheduler.max_tick_retries,
        )  # fmt: skip
        self._go_through(ticks)
        self._go_through(execute_sensor_iteration(self.workspace, LOGGER, None, None))
        for daemon in self.daemons:
            self._go_through(daemon.run_iteration(self.workspace))

    def until_rest(self, patience_s: float) -> bool:
        """Turn until nothing is under way and nothing more happens; False where no run says a word for `patience_s`."""
        quiet, before, spoke, last_word = 0, None, time.monotonic(), -1
        while quiet < REST:
            self.turn()
            state = self._state()
            if self.instance.get_runs_count(dg.RunsFilter(statuses=UNDER_WAY)):
                quiet, word = 0, self.instance.event_log_storage.get_maximum_record_id() or 0
                if word != last_word:
                    spoke, last_word = time.monotonic(), word
                if time.monotonic() - spoke > patience_s:
                    return False
                time.sleep(PAUSE_S)
            else:
                quiet = quiet + 1 if state == before else 0
                moved_clock.shift(DUE_S)
            before = state
        return True

    def told(self, since: float) -> dict[str, Any]:
        """Runs that were made and ticks that were skipped since a moment, and errors of the daemons themselves."""
        runs = [
            {"job": run.job_name, "status": run.status.value, "tags": dict(run.tags), "id": run.run_id}
            | {"why": self._why(run) if run.status == dg.DagsterRunStatus.FAILURE else ""}
            for run in reversed(self.instance.get_runs())
        ]
        ticks = [
            {
                "name": state.instigator_name,
                "skipped": tick.skip_reason,
                "at": tick.timestamp,
                "error": str(tick.error or ""),
            }
            for state in self.instance.all_instigator_state()
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since)
        ]
        return {"runs": runs, "ticks": ticks, "errors": self.errors}

    def _why(self, run: dg.DagsterRun) -> str:
        kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
        found = []
        for entry in self.instance.all_logs(run.run_id, kinds):
            event = entry.dagster_event
            if event.event_type == dg.DagsterEventType.STEP_FAILURE:
                data = event.step_failure_data
                why = data.user_failure_data.description if data.user_failure_data else data.error_display_string
                found.append(f"{event.step_key}: {why}")
            else:
                found.append(event.message or "")
        return "\n".join(found)

    def _state(self) -> Any:
        sensors = self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        cursors = [(state.instigator_name, getattr(state.instigator_data, "cursor", None)) for state in sensors]
        return [(run.run_id, run.status) for run in self.instance.get_runs(limit=50)], sorted(cursors, key=str)

    def _go_through(self, turns: Iterable[Any]) -> None:
        for error in turns:
            if hasattr(error, "message"):
                self.errors.append(error.to_string())


@contextmanager
def opened() -> Iterator[House]:
    """The house of the environment's home."""
    settings = Settings.load()
    prepare_home(settings)
    _open_instance(settings)
    target = ModuleTarget("assets.definitions", None, str(Path.cwd()), "rankmill")
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.get())
        registry = stack.enter_context(create_daemon_grpc_server_registry(instance))
        made = (QueuedRunCoordinatorDaemon(5), MonitoringDaemon(60), EventLogConsumerDaemon())
        daemons = [stack.enter_context(daemon) for daemon in made]
        workspace = stack.enter_context(WorkspaceProcessContext(instance, target, grpc_server_registry=registry))
        yield House(instance, registry, workspace, *daemons)


def main() -> None:
    """Do what stdin says, an order at a time."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what children print goes to the log
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    moved_clock.spare_grpc()
    with opened() as house:
        house.switch_on()
        house.turn()  # sensors begin where the history ends
        print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            house.errors.clear()
            if order.get("at") is not None:
                moved_clock.move_to(order["at"])
            house.renew()
            since = time.time() - 1
            at_rest = house.until_rest(order["patience_s"])
            print(json.dumps({"at_rest": at_rest, **house.told(since)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
