"""Where a process of a stage runs: here, or at the place that the profile names for it.

    place = Processes(profile.processes, home)
    place.run(context=context, stage="sft", command=command(job), env={…})

A process is a command that takes job files; it speaks Dagster Pipes wherever it runs, so its log lines stand in the
run's events. Each place is a module of its own (place_ray, place_kubernetes, place_slurm), imported when it is used:
their libraries take seconds. Deliberately absent: what is run (assets.processes) and what a place is called by a
profile (rankmill.places).
"""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import dagster as dg

from assets.messages import WholeLines
from assets.tasks import ProcessFailed, ProcessKilled, Task
from rankmill.places import Kubernetes, Local, Places, Ray, Stage

# Network file systems tell of another machine's files when what they remember of a folder has expired.
LAG_S = 60.0


class Place(Protocol):
    """Whoever has processes done."""

    def run(
        self, *, context: dg.AssetExecutionContext, stage: Stage, command: Sequence[str], env: Mapping[str, str]
    ) -> float:
        """Have a command of this Python's done to its end; gives how many seconds its files may take to be seen here.

        Raises ProcessFailed, and dg.Failure where the place cannot be used at all.
        """


class Processes:
    """Processes at the places that a profile names for their stages."""

    def __init__(self, chosen: Places, home: Path) -> None:
        self.chosen = chosen
        self.home = home

    def elsewhere(self, stage: Stage) -> bool:
        """Whether a stage runs at another place than this machine."""
        return not isinstance(self.chosen, Local) and stage in self.chosen.stages

    def run(
        self, *, context: dg.AssetExecutionContext, stage: Stage, command: Sequence[str], env: Mapping[str, str]
    ) -> float:
        """See Place."""
        place = self.chosen
        if isinstance(place, Local) or stage not in place.stages:
            _run_here(context, command, env)
            return 0.0
        task = Task(context, stage, tuple(command[1:]), env, self.home)
        try:
            if isinstance(place, Ray):
                from assets.place_ray import run_on_ray

                run_on_ray(place, place.stages[stage], task)
            elif isinstance(place, Kubernetes):
                from assets.place_kubernetes import run_in_pod

                run_in_pod(place, place.stages[stage], task)
            else:
                from assets.place_slurm import run_under_slurm

                run_under_slurm(place, place.stages[stage], task)
        except ModuleNotFoundError as missing:
            remedy = f"pip install -c constraints.txt -e '.[{place.where}]'"
            raise dg.Failure(
                f"processes.where is {place.where}, and {missing.name} is not installed here: {remedy}",
                allow_retries=False,
            ) from missing
        return LAG_S


def _run_here(context: dg.AssetExecutionContext, command: Sequence[str], env: Mapping[str, str]) -> None:
    try:
        dg.PipesSubprocessClient(message_reader=WholeLines()).run(command=command, context=context, env=env)
    except Exception as error:
        if type(error).__name__ != "DagsterPipesExecutionError":  # Dagster does not export it
            raise
        # Dagster tells the exit status in words alone.
        failed = ProcessKilled if str(error).endswith(f" {-signal.SIGKILL}") else ProcessFailed
        raise failed(str(error)) from error
