"""What every contestant of `metrics.py` shares: the measures, its task, its clock and its report.

    def prepare(run: Path, qrels: Path) -> dict[str, Callable[[], Means]]:     # read what is to be held in memory
        return {"file": ..., "memory": ...}

    if __name__ == "__main__":
        compete(prepare)

A contestant runs each of its cases once unmeasured (what compiles, compiles then) and then `--repeats` times, and
reports the quickest; CPU is that of all its threads. Only the standard library is used here: peers live in
environments of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

# By ir-measures' names: what a contestant's means are reported under.
MEASURES = ("nDCG@10", "R@10", "R@100", "RR", "AP")
Means = dict[str, float]


def compete(prepare: Callable[[Path, Path], dict[str, Callable[[], Means]]]) -> None:
    """Run a contestant on the files in the command line, and write its report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args()
    report = {}
    for name, measure in prepare(given.run, given.qrels).items():
        means = measure()
        seconds, cpu_seconds = [], []
        for _ in range(given.repeats):
            cpu, started = time.process_time(), time.perf_counter()
            measure()
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu)
        report[name] = {"seconds": min(seconds), "cpu_seconds": min(cpu_seconds), "means": means}
    given.report.write_text(json.dumps(report), encoding="utf-8")
