"""Processes as batch jobs of a Slurm cluster: `sbatch --wait`, with Pipes through files on the shared disk.

A job is a script in a folder of its own below the home; its log stays in `logs/slurm/`. Of this process's environment
it gets what sbatch needs and nothing else, so no secret is kept by Slurm; what a stage needs there (a key for `label`)
comes from the profile's `setup` lines. Deliberately absent: SSH to a login node, environments that are packed and sent,
and jobs over several nodes; dagster-slurm has all three.
"""

import os
import secrets
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from assets.messages import WholeLines
from assets.tasks import ProcessFailed, Task
from rankmill.places import Slurm, SlurmNeeds

PASSED_ON = ("HOME", "LANG", "LOGNAME", "PATH", "SLURM_CONF", "TZ", "USER")
LAST_LINES = 20
STATES = ("JobState", "Reason", "ExitCode")


def run_under_slurm(place: Slurm, needs: SlurmNeeds, task: Task) -> None:
    """Do a task as a batch job. Raises ProcessFailed: Slurm's word for its end, and the last lines of its log."""
    name = f"{task.name}-{secrets.token_hex(4)}"
    folder, logs = task.home / "work" / "slurm" / name, task.home / "logs" / "slurm"
    folder.mkdir(parents=True)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    try:
        with dg.open_pipes_session(
            context=task.context,
            context_injector=dg.PipesFileContextInjector(str(folder / "context.json")),
            message_reader=WholeLines(folder / "messages.jsonl"),
        ) as session:
            script = folder / "job.sh"
            script.write_text(script_of(place, task, session.get_bootstrap_env_vars()), "utf-8")
            _submit(["sbatch", "--wait", "--parsable", *asked_for(place, needs, name, log), str(script)], task, log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def asked_for(place: Slurm, needs: SlurmNeeds, name: str, log: Path) -> list[str]:
    """The options of sbatch."""
    share = [f"--cpus-per-task={needs.cpus}"]
    if needs.gpus:
        share.append(f"--gpus={needs.gpus}")
    if needs.memory_gb is not None:
        share.append(f"--mem={int(needs.memory_gb * 1000)}M")
    return ["--nodes=1", "--ntasks=1", *share, f"--job-name={name}", f"--output={log}", *place.options, *needs.options]


def script_of(place: Slurm, task: Task, pipes: Mapping[str, str]) -> str:
    """The batch script: the environment, the profile's lines, the command; a login shell, which knows `module`."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in {**task.env, **pipes}.items()]
    command = f"exec {shlex.join([place.python, *task.command])}"
    return "\n".join(["#!/bin/bash -l", "set -e", *exports, place.setup, command, ""])


def _submit(command: list[str], task: Task, log: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=task.home
        )
    except FileNotFoundError:
        raise ProcessFailed("there is no sbatch on this machine's PATH; run Dagster on a login node") from None
    job = ""
    try:
        assert process.stdout is not None  # a pipe
        job = process.stdout.readline().strip().partition(";")[0]
        if job:
            task.context.log.info(f"Slurm job {job}; its output: {log}")
        _, said = process.communicate()
    except BaseException:  # cancelled
        if job:
            subprocess.run(["scancel", job], check=False, env=environment)
        process.kill()
        process.wait()
        raise
    if not job:
        raise ProcessFailed(f"sbatch refused the job: {said.strip() or f'exit code {process.returncode}'}")
    if process.returncode:
        raise ProcessFailed(
            f"Slurm job {job} ended with exit code {process.returncode}{_state(job, environment)}. "
            f"The end of {log}:\n{_end_of(log)}"
        )


def _state(job: str, environment: dict[str, str]) -> str:
    """What Slurm says of a job that ended; nothing where it has forgotten it."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    values = dict(word.split("=", 1) for word in told.stdout.split() if "=" in word)
    found = [f"{name} {values[name]}" for name in STATES if name in values]
    return f" ({', '.join(found)})" if found else ""


def _end_of(log: Path) -> str:
    if not log.is_file():
        return "(there is none)"
    with log.open(encoding="utf-8", errors="replace") as lines:
        return "".join(deque(lines, LAST_LINES)).rstrip() or "(it is empty)"
