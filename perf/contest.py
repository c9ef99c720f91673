"""What every contestant of the benchmark shares: its task, its clock and its report.

    from contest import Task, compete

    def prepare(task: Task) -> Callable[[], list[str]]:     # build clients; nothing is sent yet
        return lambda: ...                                  # ask everything, give the contents

    if __name__ == "__main__":
        compete(prepare)

A contestant is a module that `engine.py` runs with `-m` from this folder, each in a process (and often an environment)
of its own; so only the standard library is used here. The clock starts when everything is imported and built, and
stops when the contents of all answers are in a list; then the server is asked what it saw. Absent on purpose: any
import of a client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import ProxyHandler, Request, build_opener

T = TypeVar("T")
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Contestant:
    """Who is measured: `module` is run from this folder by `python`; `package` is what its version is asked of."""

    name: str
    module: str
    package: str
    python: Path
    pip: str

    def version(self) -> str | None:
        """The installed version; None where there is none."""
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        if not self.python.exists():
            return None
        asked = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        return asked.stdout.strip() if asked.returncode == 0 else None


@dataclass(frozen=True)
class Task:
    """What to ask and where; `folder` is fresh and empty."""

    base_url: str
    model: str
    prompts: list[str]
    in_flight: int
    folder: Path


@dataclass(frozen=True)
class Report:
    """What one run of a contestant took, and what the server saw of it.

    `answered` counts the rankings in hand. CPU is that of the contestant with its child
    processes, memory that of the largest of them.
    `served`, `served_seconds` (first request in to last answer out) and `most_in_flight` are the server's.
    """

    answered: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    served: int
    served_seconds: float
    most_in_flight: int


def compete(prepare: Callable[[Task], Callable[[], Sequence[str]]]) -> None:
    """Run a contestant on the task in the command line, and write its report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=Path, required=True, help='JSONL of {"prompt": ...}')
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args()
    with given.prompts.open(encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    ask = prepare(Task(given.base_url, given.model, prompts, given.in_flight, given.folder))
    # Some ask the endpoint something while they are built; that is not counted.
    count(given.base_url, anew=True)
    cpu, started = _cpu_seconds(), time.perf_counter()
    contents = ask()
    seconds = time.perf_counter() - started
    answered = sum(content.lstrip().startswith("[") for content in contents)
    cpu = _cpu_seconds() - cpu
    seen = count(given.base_url)
    report = Report(
        answered, seconds, cpu, peak_rss_mb(), int(seen["served"]), seen["seconds"], int(seen["most_in_flight"])
    )
    given.report.write_text(json.dumps(asdict(report)), encoding="utf-8")


def count(base_url: str, anew: bool = False) -> dict[str, float]:
    """What the loopback server has seen, and whether it begins to count anew."""
    request = Request(base_url.removesuffix("/v1") + "/count", method="POST" if anew else "GET")
    with build_opener(ProxyHandler({})).open(request) as response:
        seen: dict[str, float] = json.load(response)
    return seen


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on uvloop where it is installed, as the engine does it: the bare clients must not be slowed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_rss_mb() -> float:
    """The peak of this process, or that of its largest child where that is more."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status")
    if status.exists():
        # Linux keeps in ru_maxrss what the parent had when it started this process.
        own = int(status.read_text().split("VmHWM:")[1].split()[0])
    return max(own, child) / unit
