"""A campaign that is killed again and again ends like one that never was, and buys nothing twice without an account."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from inference.archive import everything
from inference.exchange import Exchange
from inference.purchase import AHEAD
from inference.standin.completions import prompt_key
from inference.standin.faults import ANSWERED, Draw, Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore

COUNT, KILLS, IN_FLIGHT, SEED = 2000, 20, 16, 4
# What says when and how an answer was bought, and not what it is.
OF_THE_MOMENT = {"latency_s", "attempts", "created_at", "from_store"}
LASTING = [f.name for f in fields(Exchange) if f.name not in OF_THE_MOMENT]
CAMPAIGN = """
import json, re, sys
from salt_water import DEAR, ranking_prompt
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine, ask_all
from inference.exchange import Request, Sampling
from inference.pace import PaceSettings
from inference.store import ExchangeStore

url, path, count, in_flight, lasting, outcomes_path = sys.argv[1:]
sampling = Sampling("stand-in-teacher", 0.0, 1.0, 400)
prompts = [ranking_prompt(f"Why does salt water dry out cell number {i}?") for i in range(int(count))]
requests = [Request(f"r{i}", ({"role": "user", "content": p},), sampling) for i, p in enumerate(prompts)]


def full_list(request, content):
    found = sorted(int(n) for n in re.findall(r"\\[(\\d+)\\]", content))
    return None if found == [1, 2, 3, 4] else "the list does not name every passage once"


with ExchangeStore(path) as store:
    most = int(in_flight)
    pace = PaceSettings(max_in_flight=most, start_in_flight=most, backoff_base_s=0.005, max_attempts=20)
    engine = Engine(Endpoint(base_url=url, api_key="none"), store, Budget(), DEAR, pace)
    outcomes = ask_all(engine, requests, full_list)
with open(outcomes_path, "w") as told:
    json.dump([[getattr(outcome, name) for name in json.loads(lasting)] for outcome in outcomes], told)
"""


@dataclass(frozen=True)
class Steady(Faults):
    """Faults of the wire anew with every attempt; what is written to a prompt is the same whenever it is asked again.

    So an answer that is lost in a kill, and bought again, is the same answer. `told` counts what befell each prompt.
    """

    text: Faults = field(default_factory=Faults)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)

    def draw(self, prompt: str, attempt: int) -> Draw:
        drawn = super().draw(prompt, attempt)
        if drawn.kind == "none":
            drawn = self.text.draw(prompt, 1)
        self.told[prompt, drawn.kind] += 1
        return Draw(drawn.kind, drawn.variant, self.latency_s)


def steady() -> Steady:
    text = Faults(rate_garbage=0.1, rate_cutoff=0.04, rate_empty=0.04, rate_refusal=0.06, seed=SEED)
    wire: dict[str, Any] = {
        "rate_429": 0.03,
        "rate_429_bare": 0.02,
        "rate_500": 0.04,
        "rate_reset": 0.03,
        "rate_half_body": 0.02,
    }
    return Steady(text=text, latency_s=0.006, retry_after_s=0.01, rate_wrong_json=0.01, seed=SEED, **wire)


def outcomes_of(path: Path) -> Path:
    """Where a campaign tells what came out. A pipe would not do: unbuffered, `print` fills it once and drops the rest
    when a stopped process goes on."""
    return path.with_suffix(".outcomes.json")


def campaign(server: Standin, path: Path) -> subprocess.Popen[bytes]:
    arguments = [server.base_url, str(path), str(COUNT), str(IN_FLIGHT), json.dumps(LASTING), str(outcomes_of(path))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", CAMPAIGN, *arguments]
    return subprocess.Popen(command, env=environment)


def to_the_end(server: Standin, path: Path) -> list[list[Any]]:
    assert campaign(server, path).wait(timeout=120) == 0
    rows: list[list[Any]] = json.loads(outcomes_of(path).read_text())
    return rows


def left_behind(path: Path, copy: Path) -> set[tuple[str, str]]:
    """Owners and keys of the claims in a store, read from a copy, so that the next process finds it as it was left."""
    copy.mkdir()
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists():
            shutil.copy(file, copy)
    with sqlite3.connect(copy / path.name) as con:
        return set(con.execute("SELECT owner, key FROM claims").fetchall())


def lasting_rows(path: Path) -> dict[str, tuple[Any, ...]]:
    with ExchangeStore(path) as store:
        return {
            record.exchange.key: (
                *(getattr(record.exchange, name) for name in LASTING),
                record.messages,
                tuple(sorted(record.sampling.items())),
            )
            for record in everything(store)
        }


def test_killed_at_twenty_moments_a_campaign_ends_with_the_same_rows_and_every_further_purchase_was_in_flight(
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED)
    moments = sorted(rng.sample(range(30, COUNT, 30), KILLS))
    path = tmp_path / "killed.sqlite"
    taken_over: set[tuple[str, str]] = set()
    with running_standin(steady()) as server:
        undisturbed = to_the_end(server, tmp_path / "undisturbed.sqlite")
    faults = steady()
    with running_standin(faults) as server:
        for number, moment in enumerate(moments):
            process = campaign(server, path)
            while server.counts["answered"] < moment:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(rng.random() * 0.03)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            claims = left_behind(path, tmp_path / f"copy {number}")
            assert len(claims - taken_over) <= IN_FLIGHT + math.ceil(AHEAD * IN_FLIGHT)
            taken_over |= claims
        assert to_the_end(server, path) == undisturbed
        answered = server.counts["answered"]
    rows = lasting_rows(path)
    assert rows == lasting_rows(tmp_path / "undisturbed.sqlite")

    with sqlite3.connect(path) as con:
        spend = con.execute("SELECT kind, key, count(*), sum(tokens) FROM spend GROUP BY kind, key").fetchall()
        totals = con.execute("SELECT usd, tokens, reserved_usd, reserved_tokens FROM totals").fetchall()
        assert con.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    spent = sum(row[3] for row in spend)
    assert totals == [(spent, spent, 0, 0)]
    paid, presumed = ({row[1]: row[2] for row in spend if row[0] == kind} for kind in ("answer", "presumed"))
    assert paid == dict.fromkeys(rows, 1)
    in_flight_at_a_kill = Counter(key for _, key in taken_over)
    lost = Counter[str]()
    for key, row in rows.items():
        prompt = prompt_key(list(row[len(LASTING)]))
        lost[key] = sum(faults.told[prompt, kind] for kind in ANSWERED) - 1
        unsure = sum(faults.told[prompt, kind] for kind in ("reset", "half_body", "wrong_json"))
        assert 0 <= lost[key] <= in_flight_at_a_kill[key], "only what was in flight at a kill was bought again"
        # Whatever may have been charged without an answer stands in the books, and nothing else does.
        assert lost[key] + unsure <= presumed.get(key, 0) <= in_flight_at_a_kill[key] + unsure
    assert answered == len(rows) + lost.total() and lost.total() > 0
    assert len(rows) > COUNT and presumed.keys() <= rows.keys()
