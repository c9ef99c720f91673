"""Requests a second through a loopback server, side by side: the engine, a bare loop, the SDK, and peers.

    python perf/engine.py [--requests 2000] [--rounds 3] [--cases 50x64,50x256,0x64] [--peers .venv-peers]
                          [--only ours,curator] [--time-limit 300] [--json FILE]

A case is the server's latency in ms and the requests in flight. In every round each contestant asks the same prompts,
one contestant after the other, each in a process of its own against a fresh server of its own; interpreter start and
imports are not counted. Every figure is a median over the rounds; a ratio is the median of the ratios within a round,
so that a slow minute of the machine hits both sides. A contestant that is not installed is listed with the pip line
that installs it; one that fails, or does not ask for every answer, is listed with what it said.

Absent on purpose: failing, slow or rate-limiting endpoints (the tests of `inference` hold those), and tuning of the
machine. Stores and caches go to the system's temporary folder: TMPDIR must be on a real disk, or fsync is free.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from contest import Contestant, Report
from loopback import MODEL, loopback
from prompts import write_prompts

PERF = Path(__file__).resolve().parent
DEFAULT_PEERS = PERF.parent / ".venv-peers"
OURS, BASELINE = "ours", "raw aiohttp"
# Caches in the run's own folder or off, nothing sent anywhere but to the server.
QUIET = {
    "CURATOR_DISABLE_CACHE": "true",
    "DATA_DESIGNER_SKIP_MODEL_HEALTH_CHECKS": "1",
    "DISTILABEL_LOG_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NEMO_TELEMETRY_ENABLED": "false",
    "NO_PROXY": "127.0.0.1",
    "TELEMETRY_ENABLED": "false",
}


@dataclass(frozen=True)
class Case:
    """A latency of the server and a number of requests in flight."""

    latency_ms: float
    in_flight: int

    @staticmethod
    def parse(text: str) -> Case:
        latency, in_flight = text.split("x")
        return Case(float(latency), int(in_flight))

    @property
    def ideal(self) -> float | None:
        """Requests/s if a client took no time at all; None where that has no bound."""
        return 1000 * self.in_flight / self.latency_ms if self.latency_ms else None


@dataclass(frozen=True)
class Heat:
    """One run of one contestant: its report, or what went wrong."""

    contestant: str
    case: Case
    round: int
    report: Report | None
    trouble: str | None

    @property
    def rate(self) -> float:
        """Answers in hand a second."""
        assert self.report is not None
        return self.report.answered / self.report.seconds


def field_of(peers: Path) -> list[Contestant]:
    """Everybody, installed or not, in the order in which they run."""
    here = Path(sys.executable)

    def peer(name: str, folder: str, package: str, *requirements: str) -> Contestant:
        home = peers / folder
        pip = f"python3 -m venv {home} && {home}/bin/pip install {shlex.join(requirements)}"
        return Contestant(name, f"peers.{folder}", package, home / "bin" / "python", pip)

    return [
        Contestant(OURS, "ours", "rankmill", here, "pip install -e ."),
        Contestant(BASELINE, "peers.aiohttp", "aiohttp", here, "pip install aiohttp"),
        Contestant("openai", "peers.openai", "openai", here, "pip install 'openai[aiohttp]'"),
        peer("curator", "curator", "bespokelabs-curator", "bespokelabs-curator==0.1.31"),
        peer("data-designer", "data_designer", "data-designer", "data-designer==0.9.6"),
        peer("distilabel", "distilabel", "distilabel", "distilabel[openai]==1.5.3", "requests"),
    ]


def tokenizers(peers: Path) -> dict[str, str]:
    """Where curator and data-designer find the table for counting tokens that they would else fetch from the internet.

    It comes with litellm, which comes with curator. Without it, and offline, data-designer tries to fetch it for every
    answer and takes many times as long.
    """
    found = sorted(peers.glob("*/lib/python*/site-packages/litellm/litellm_core_utils/tokenizers"))
    return {"TIKTOKEN_CACHE_DIR": str(found[0])} if found else {}


def compete(
    contestant: Contestant,
    case: Case,
    number: int,
    prompts: Path,
    requests: int,
    environment: dict[str, str],
    time_limit: float,
) -> Heat:
    """One run of one contestant against a server of its own."""
    with TemporaryDirectory(prefix="perf-") as folder, loopback(case.latency_ms) as base_url:
        home, report = Path(folder) / "home", Path(folder) / "report.json"
        home.mkdir()
        command = [
            *(str(contestant.python), "-m", contestant.module, "--base-url", base_url, "--model", MODEL),
            *("--prompts", str(prompts), "--in-flight", str(case.in_flight)),
            *("--folder", str(home), "--report", str(report)),
        ]
        # A home of its own: several peers keep caches below it, whatever they are told.
        own = {"HOME": str(home), "DATA_DESIGNER_HOME": str(home), "DISTILABEL_CACHE_DIR": str(home)}
        status, said = _run(command, {**environment, **own}, Path(folder) / "said.txt", time_limit)
        if status is None:
            return Heat(contestant.name, case, number, None, f"not done within {time_limit:g} s: {said}")
        if status != 0 or not report.exists():
            return Heat(contestant.name, case, number, None, f"exit status {status}: {said}")
        seen = Report(**json.loads(report.read_text(encoding="utf-8")))
    if seen.answered != requests or seen.served < requests:
        trouble = f"{seen.answered} answers in hand and {seen.served} served of {requests}"
        return Heat(contestant.name, case, number, None, trouble)
    return Heat(contestant.name, case, number, seen, None)


def _run(command: list[str], environment: dict[str, str], log: Path, time_limit: float) -> tuple[int | None, str]:
    """Run a contestant; gives its exit status (None: it took too long) and the last line that it said."""
    with log.open("w") as said:
        # A session of its own: some start processes that would outlive them.
        process = subprocess.Popen(
            command, cwd=PERF, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status: int | None = process.wait(time_limit)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(stopped, KeyboardInterrupt):
                raise
            status = None
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return status, next((line.strip() for line in reversed(lines) if line.strip()), "nothing")[:200]


def table(case: Case, heats: list[Heat], everybody: list[str]) -> str:
    """The heats of one case as a Markdown table."""
    ideal = f", ideal {case.ideal:,.0f} requests/s" if case.ideal else ""
    title = f"### {case.latency_ms:g} ms, {case.in_flight} in flight{ideal}"
    columns = ["contestant", "requests/s", "min to max", "of ideal", f"to {BASELINE}", f"{OURS} to it"]
    columns += ["at the server", "most in flight", "CPU ms/request", "peak MB"]
    lines = [_row(columns), _row(["---", *["---:"] * (len(columns) - 1)])]
    for name in everybody:
        mine = [heat for heat in heats if heat.contestant == name]
        if not mine:
            lines.append(_row([name, "not installed", *[""] * (len(columns) - 2)]))
        good = [heat for heat in mine if heat.report is not None]
        if troubles := [heat.trouble for heat in mine if heat.trouble]:
            failed = f"failed {len(troubles)} of {len(mine)}: {troubles[0].replace('|', '/')}"
            lines.append(_row([name, failed, *[""] * (len(columns) - 2)]))
        if not good:
            continue
        rates, reports = [heat.rate for heat in good], [heat.report for heat in good if heat.report is not None]
        rate = median(rates)
        cells = [
            name,
            f"{rate:,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"{rate / case.ideal:.0%}" if case.ideal else "-",
            _ratio(heats, name, BASELINE),
            _ratio(heats, OURS, name),
            f"{median(r.served / r.served_seconds for r in reports):,.0f}",
            f"{median(r.most_in_flight for r in reports):,.0f}" if case.latency_ms else "-",
            f"{median(1000 * r.cpu_seconds / r.answered for r in reports):.2f}",
            f"{median(r.peak_rss_mb for r in reports):,.0f}",
        ]
        lines.append(_row(cells))
    return "\n".join([title, "", *lines])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(heats: list[Heat], of: str, to: str) -> str:
    """The median over the rounds of the ratio within a round."""
    rates = {(heat.contestant, heat.round): heat.rate for heat in heats if heat.report is not None}
    rounds = {heat.round for heat in heats}
    ratios = [rates[of, n] / rates[to, n] for n in rounds if (of, n) in rates and (to, n) in rates]
    return f"{median(ratios):.2f}" if ratios else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description="Requests a second, side by side with peers.")
    parser.add_argument("--requests", type=int, default=2000, help="prompts that each contestant asks in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="50x64,50x256,0x64", help="latency in ms x requests in flight, and so on")
    parser.add_argument("--peers", type=Path, default=DEFAULT_PEERS, help="folder with an environment per peer")
    parser.add_argument("--only", help="names of contestants, with commas; all by default")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds for one run of one contestant")
    parser.add_argument("--json", type=Path, help="also write every run there")
    given = parser.parse_args()

    wanted = given.only.split(",") if given.only else None
    everybody = [c for c in field_of(given.peers.absolute()) if wanted is None or c.name in wanted]
    versions = {contestant.name: contestant.version() for contestant in everybody}
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    print(f"{given.requests} requests, {given.rounds} rounds; {machine}, load {os.getloadavg()[0]:.1f} at the start.\n")
    for contestant in everybody:
        version = versions[contestant.name]
        print(f"- {contestant.name}: {f'{contestant.package} {version}' if version else 'not installed;'}", end="")
        print("" if version else f" `{contestant.pip}`")

    environment = {**os.environ, **QUIET, **tokenizers(given.peers.absolute())}
    present = [contestant for contestant in everybody if versions[contestant.name]]
    heats: list[Heat] = []
    with TemporaryDirectory(prefix="perf-") as folder:
        prompts = Path(folder) / "prompts.jsonl"
        write_prompts(prompts, given.requests)
        for case in [Case.parse(text) for text in given.cases.split(",")]:
            for number in range(1, given.rounds + 1):
                for contestant in present:
                    heat = compete(contestant, case, number, prompts, given.requests, environment, given.time_limit)
                    heats.append(heat)
                    said = heat.trouble or f"{heat.rate:,.0f} requests/s"
                    place = f"{case.latency_ms:g}x{case.in_flight}, round {number}"
                    print(f"{place}, {contestant.name}: {said}", file=sys.stderr)
            print("\n" + table(case, [h for h in heats if h.case == case], list(versions)), flush=True)
    if given.json:
        kept = {"machine": machine, "requests": given.requests, "versions": versions}
        given.json.write_text(json.dumps({**kept, "heats": [asdict(heat) for heat in heats]}, indent=1))


if __name__ == "__main__":
    main()
