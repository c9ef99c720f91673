"""Dagster's own daemons over the project's definitions and a home of a test, a turn at a time, with the clock moved.

Code is loaded into this process, and runs are queued and never launched: what is under test is which runs are asked
for, and what is told. The nights of tests/nights have a code server and real runs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import time_machine
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.scheduler.instigation import InstigatorTick
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.asset_daemon import AssetDaemon
from dagster._daemon.freshness import FreshnessDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs
from dagster._time import get_current_datetime

from rankmill.settings import ROOT

LOGGER = logging.getLogger("turns")
CODE = """
import dagster as dg
from assets import automation, definitions
from assets.resources import Factory

defs = dg.Definitions(
    assets=definitions.assets,
    asset_checks=definitions.checks,
    jobs=definitions.jobs,
    schedules=automation.schedules,
    sensors=[sensor for sensor in automation.sensors if sensor.name in {sensors!r}],
    resources={{"factory": Factory(profile={profile!r}, home={home!r}), "pipes": definitions.defs.resources["pipes"]}},
)
"""


@dataclass
class Daemon:
    """An instance, and a clock that only `at` moves."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext

    def repository(self) -> RemoteRepository:
        """The definitions, as the daemons see them."""
        (location,) = self.workspace.create_request_context().code_locations
        return location.get_repository("__repository__")

    def switch_on(self, schedule: str) -> None:
        """Start a schedule."""
        self.instance.start_schedule(self.repository().get_schedule(schedule))

    def at(self, moment: datetime) -> None:
        """Let every daemon do once what is due at a moment."""
        with time_machine.travel(moment, tick=False):
            scheduler = self.instance.scheduler
            ticks = launch_scheduled_runs(
                self.workspace, LOGGER, get_current_datetime(), {}, None, None, None,
                scheduler.max_catchup_runs, scheduler.max_tick_retries,
            )  # fmt: skip
            list(ticks)
            list(FreshnessDaemon().run_iteration(self.workspace))
            list(execute_sensor_iteration(self.workspace, LOGGER, None, None))
            automation = AssetDaemon(self.instance.get_auto_materialize_settings(), pre_sensor_interval_seconds=30)
            automation._run_iteration_impl(self.workspace, None, {}, {})

    def every(self, step: timedelta, began: datetime, turns: int) -> None:
        """So many turns, a step apart."""
        for turn in range(turns):
            self.at(began + turn * step)

    def ended_well(self, job: str, tags: dict[str, str]) -> None:
        """A run of a job has just succeeded."""

        @dg.op
        def nothing() -> None:
            """An op, so that there is a job."""

        @dg.job(name=job)
        def made() -> None:
            nothing()

        origin = self.repository().get_full_job(job).get_remote_origin()
        started = dg.DagsterRunStatus.STARTED
        run = self.instance.create_run_for_job(made, status=started, tags=tags, remote_job_origin=origin)
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job)
        self.instance.report_dagster_event(event, run.run_id)

    def ticks(self, name: str) -> list[InstigatorTick]:
        """The ticks of a schedule or sensor, the newest first."""
        (state,) = [one for one in self.instance.all_instigator_state() if one.instigator_name == name]
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))


@contextmanager
def daemon(folder: Path, profile: str, *sensors: str) -> Iterator[Daemon]:
    """A daemon of some sensors with an instance below `folder`, whose factory has the home `folder / "home"`."""
    (folder / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text("utf-8"), "utf-8")
    code = folder / "code.py"
    code.write_text(CODE.format(profile=profile, home=str(folder / "home"), sensors=sensors), "utf-8")
    origin = LoadableTargetOrigin(executable_path=sys.executable, python_file=str(code), attribute="defs")
    target = InProcessTestWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin, location_name="mill"))
    with (
        dg.DagsterInstance.from_config(str(folder)) as instance,
        WorkspaceProcessContext(instance, target) as workspace,
    ):
        yield Daemon(instance, workspace)
