"""Measuring runs, side by side: ranking.metrics, pytrec_eval and ranx, in memory and from TREC files on disk.

    python perf/metrics.py [--queries 5000] [--depth 100] [--judged 10] [--rounds 3] [--repeats 5]
                           [--peers .venv-peers] [--json FILE]

NDCG@10, Recall@10 and @100, MRR and MAP of a random run whose lines stand in no order of score. In every round each
contestant measures the same files, in a process of its own, and reports the quickest of its repeats; a figure is the
median over the rounds, a ratio the median of the ratios within a round. `memory` is what each holds a run in: arrays,
dictionaries, a Run. "pytrec_eval's" is its time over the contestant's; CPU is that of all threads. A contestant whose
means are not those of pytrec_eval to 1e-9 is listed with the difference.

Absent on purpose: ties (every program breaks them in its own way; the tests compare ours with trec_eval's) and
significance tests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from contest import Contestant

PERF = Path(__file__).resolve().parent
JUDGE = "pytrec_eval"


@dataclass(frozen=True)
class Time:
    """The quickest of a contestant's repeats of a case in one round."""

    contestant: str
    case: str
    round: int
    seconds: float
    cpu_seconds: float
    means: dict[str, float]


def entries(peers: Path) -> list[Contestant]:
    """Everybody, installed or not, in the order in which they run."""
    here, ranx = Path(sys.executable), peers / "ranx"
    pip = f"python3 -m venv {ranx} && {ranx}/bin/pip install ranx==0.3.21"
    return [
        Contestant("ours", "our_metrics", "rankmill", here, "pip install -e ."),
        Contestant(JUDGE, "peers.pytrec_eval", "pytrec-eval-terrier", here, "pip install pytrec-eval-terrier"),
        Contestant("ranx", "peers.ranx", "ranx", ranx / "bin" / "python", pip),
    ]


def write_files(folder: Path, queries: int, depth: int, judged: int, seed: int = 0) -> tuple[Path, Path]:
    """A run of `queries` x `depth` lines without ties, and `judged` grades from 0 to 3 a query."""
    dice = random.Random(seed)
    run, qrels = folder / "run.trec", folder / "qrels.tsv"
    with run.open("w") as lines, qrels.open("w") as grades:
        for query in range(queries):
            docids = dice.sample(range(1_000_000), depth + judged)
            scores = dice.sample(range(10 * depth), depth)
            lines.writelines(
                f"q{query} Q0 d{docid} {rank} {score / 8} perf\n"
                for rank, (docid, score) in enumerate(zip(docids, scores, strict=False), start=1)
            )
            grades.writelines(f"q{query} 0 d{docid} {dice.randrange(4)}\n" for docid in dice.sample(docids, judged))
    return run, qrels


def compete(entry: Contestant, run: Path, qrels: Path, repeats: int, number: int) -> list[Time]:
    """One round of one contestant; raises CalledProcessError where it fails."""
    report = run.with_name("report.json")
    command = [str(entry.python), "-m", entry.module, "--run", str(run), "--qrels", str(qrels)]
    subprocess.run([*command, "--repeats", str(repeats), "--report", str(report)], cwd=PERF, check=True)
    found = json.loads(report.read_text(encoding="utf-8"))
    return [
        Time(entry.name, case, number, one["seconds"], one["cpu_seconds"], one["means"]) for case, one in found.items()
    ]


def table(times: list[Time], names: list[str]) -> str:
    """Milliseconds, ratios and agreement, a row a contestant and case."""
    by_round = {(t.contestant, t.case, t.round): t for t in times}
    columns = ["contestant", "from", "ms", "pytrec_eval's", "CPU ms", "pytrec_eval's", "agrees to 1e-9"]
    lines = [f"| {' | '.join(columns)} |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for name in names:
        for case in ("memory", "frames", "file"):
            mine = [t for t in times if (t.contestant, t.case) == (name, case)]
            if not mine:
                continue
            theirs = [by_round[JUDGE, "file" if case == "file" else "memory", t.round] for t in mine]
            pairs = list(zip(mine, theirs, strict=True))
            ratio, cpu = (median(getattr(o, n) / getattr(t, n) for t, o in pairs) for n in ("seconds", "cpu_seconds"))
            gap = max(abs(t.means[m] - o.means[m]) for t, o in pairs for m in t.means)
            agrees = "yes" if gap <= 1e-9 else f"no, by {gap:.1e}"
            ms, cpu_ms = 1000 * median(t.seconds for t in mine), 1000 * median(t.cpu_seconds for t in mine)
            cells = [name, case, f"{ms:,.1f}", f"{ratio:.1f} times", f"{cpu_ms:,.1f}", f"{cpu:.1f} times", agrees]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measuring runs, side by side with peers.")
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--depth", type=int, default=100, help="documents a query")
    parser.add_argument("--judged", type=int, default=10, help="judgements a query")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="in one process; the quickest counts")
    parser.add_argument("--peers", type=Path, default=PERF.parent / ".venv-peers")
    parser.add_argument("--json", type=Path, help="also write every time there")
    given = parser.parse_args()

    everybody = entries(given.peers.absolute())
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    print(f"{given.queries} queries x {given.depth}; {machine}, load {os.getloadavg()[0]:.1f} at the start.\n")
    present = []
    for entry in everybody:
        version = entry.version()
        print(f"- {entry.name}: {f'{entry.package} {version}' if version else f'not installed; `{entry.pip}`'}")
        present += [entry] if version else []
    times: list[Time] = []
    with TemporaryDirectory(prefix="perf-") as folder:
        run, qrels = write_files(Path(folder), given.queries, given.depth, given.judged)
        for number in range(1, given.rounds + 1):
            for entry in present:
                times += compete(entry, run, qrels, given.repeats, number)
    print("\n" + table(times, [entry.name for entry in present]))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "times": [asdict(t) for t in times]}, indent=1))


if __name__ == "__main__":
    main()
