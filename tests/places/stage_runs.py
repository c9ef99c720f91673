"""A stage's job done through Dagster at some place: what came of it, and what the run's events say.

ran(place, job)                # in this process; one run at a time, Dagster's logging knows no two
started(place, job)            # in a process of its own, as runs are; `failure_of` waits for it
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from pydantic import TypeAdapter

from assets.places import Place, Processes
from assets.processes import run_jobs
from rankmill.places import Places
from training.jobs import RlJob, SftJob, TrainResult, finished, write_job


@dataclass(frozen=True)
class Ran:
    """The stored result (None where there is none), every line of the run's log, and why it failed."""

    result: TrainResult | None
    log: list[str]
    failure: str

    @property
    def told(self) -> list[str]:
        """The lines that name a step."""
        return [line for line in self.log if line.startswith(("sft ", "rl "))]


def ran(place: Place, *jobs: Any) -> Ran:
    """Have `place` do jobs of one stage in a run of its own; the result is that of the first."""

    @dg.asset(name="stage")
    def stage(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        run_jobs(context, place, *jobs)
        yield dg.MaterializeResult()

    with dg.instance_for_test() as instance:
        run = dg.materialize([stage], instance=instance, raise_on_error=False)
        log = [entry.user_message for entry in instance.all_logs(run.run_id)]
    failed = [event.step_failure_data for event in run.get_step_failure_events()]
    failure = "\n".join(str(data.user_failure_data.description if data.user_failure_data else data) for data in failed)
    return Ran(finished(jobs[0]), log, failure)


def started(place: Processes, job: Any) -> "subprocess.Popen[str]":
    """The same in a process of its own."""
    given = [place.chosen.model_dump_json(), str(place.home), job.stage, str(write_job(job))]
    return subprocess.Popen([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True)


def failure_of(run: "subprocess.Popen[str]") -> str:
    """Why it failed, when it has ended."""
    said, _ = run.communicate()
    return str(json.loads(said.splitlines()[-1]))


def process_of(job: Any) -> psutil.Process | None:
    """The process that does a job, wherever on this machine it was started."""
    path = str(job.output / "jobs" / f"{job.folder.name}.json")
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:2] == ["-m"] and words[2].startswith("training.") and words[-1] == path:
            return process
    return None


def soon(look: Callable[[], Any], patience_s: float = 120) -> Any:
    """What `look` finds as soon as it finds something."""
    until = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    chosen, home, stage, path = sys.argv[1:]
    place = Processes(TypeAdapter(Places).validate_json(chosen), Path(home))
    kind = {"sft": SftJob, "rl": RlJob}[stage]
    print(json.dumps(ran(place, kind.model_validate_json(Path(path).read_bytes())).failure))
