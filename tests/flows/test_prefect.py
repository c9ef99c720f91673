"""Campaigns under a Prefect server of its own: what is tried again, what is not, and what the figures then say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CAMPAIGNS = """
import asyncio, os, signal, sys, pathlib
from prefect.client.orchestration import get_client
sys.path.insert(0, sys.argv[1])
from test_campaign import DEAR, Home, TeacherSettings, label, paid, ranking
from inference.budget import BudgetExceeded
from inference.pace import PaceSettings
from inference.standin.faults import Faults
from inference.standin.server import running_standin
folder, asked = pathlib.Path(sys.argv[2]), ranking(1000)
home = Home(folder / "x.sqlite", folder / "logs", folder / "results")
try:
    label("rank math", asked, TeacherSettings(price=DEAR, budget_usd=1.0), home)
except BudgetExceeded as error:
    print(f"STOPPED {error}")
bought = label("rank math", asked, TeacherSettings(), home)
print("BOUGHT", *paid(bought))
again = label("rank math", asked, TeacherSettings(), home)
print("AGAIN", *paid(again))


async def shown():
    # Task runs come to the server as events, a moment after they ended.
    async with get_client() as server:
        for _ in range(100):
            tasks = [run for run in await server.read_task_runs() if run.name.startswith("questions")]
            if sum(run.state_name == "Completed" for run in tasks) == 3:
                break
            await asyncio.sleep(0.1)
        print("FLOWS", sorted((run.name, run.state_name) for run in await server.read_flow_runs()))
        print("TASKS", sorted(run.name for run in tasks if run.state_name == "Completed"))


asyncio.run(shown())


def cancelled(number, frame):
    raise KeyError("as a cancelled run of Dagster's raises")


def tell(line):
    # Called within a task of the event loop, which keeps what is raised there to itself.
    if "/60 done" in line:
        os.kill(os.getpid(), signal.SIGINT)


signal.signal(signal.SIGINT, cancelled)
with running_standin(Faults(latency_s=1.0)) as server:
    slow = TeacherSettings(base_url=server.base_url, pace=PaceSettings(max_in_flight=2))
    try:
        label("rank more", ranking(60), slow, Home(folder / "more.sqlite", home.logs, home.prefect), tell)
    except KeyError:
        print("CANCELLED", 0 < server.counts["answered"] < 60)
"""
# Its endpoint answers some, then nobody for a moment: long enough that a chunk is given up, and tried again.
OUTAGE = """
import pathlib, sys, threading, time
sys.path.insert(0, sys.argv[1])
from test_campaign import Home, TeacherSettings, label, ranking
from inference.pace import PaceSettings
from inference.standin.faults import Faults
from inference.standin.server import running_standin
folder = pathlib.Path(sys.argv[2])


def moment(server):
    while server.counts["answered"] < 20:
        time.sleep(0.01)
    server.faults = Faults(rate_500=1.0)
    while server.counts["500"] < 10:
        time.sleep(0.01)
    time.sleep(3)
    server.faults = Faults()


with running_standin() as server:
    outage = threading.Thread(target=moment, args=(server,))
    outage.start()
    teacher = TeacherSettings(base_url=server.base_url, pace=PaceSettings(max_in_flight=4, max_attempts=1))
    bought = label("rank math", ranking(60), teacher, Home(folder / "x.sqlite", folder / "logs", folder / "results"))
    outage.join()
    told, figures = bought.progress, bought.figures
    print("COUNTS", told.total, told.done, told.good, told.stored, sum(told.failed.values()), bought.unanswered)
    print("FIGURES", figures["done"], figures["cache_hits"], figures["failed_500"], figures["trouble_500"] >= 10)
    print("PAID", told.answers == server.counts["answered"] == 60)
"""
# The account is empty in the midst of it: one request is refused while those of the other chunks are on their way.
REFUSED = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from test_campaign import TeacherSettings, ranking
from flows.campaign import _as_flow
from flows.teacher import engine_for
from inference.archive import keys
from inference.endpoint import QuotaSpent
from inference.pace import PaceSettings
from inference.running import run
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore
folder = pathlib.Path(sys.argv[2])
faults = Faults(latency_s=1.0, latency_sigma=0.7, quota=10)
with running_standin(faults) as server, ExchangeStore(folder / "x.sqlite") as store:
    teacher = TeacherSettings(base_url=server.base_url, pace=PaceSettings(max_in_flight=8))
    engine = engine_for(teacher, server.base_url, store, "rank math")
    try:
        run(_as_flow(engine, ranking(100), "rank math", folder / "results", lambda _: None, 10))
    except QuotaSpent:
        kept = len(keys(store))
        print("ENDED", store.presumed("all")[0], kept == server.counts["answered"], 10 <= kept < 60)
"""


def said(script: str, folder: Path, *words: str) -> tuple[list[str], str]:
    """The lines of a script that begin with one of `words`, and what it wrote beside."""
    here = str(Path(__file__).parent)
    # On a busy machine Prefect's own server takes longer to come up than the twenty seconds that it is given.
    patient = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "100"}
    quiet = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **patient}
    ended = subprocess.run(
        [sys.executable, "-c", script, here, str(folder)],
        env={**os.environ, **quiet}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [line for line in ended.stdout.splitlines() if line.split(" ")[0] in words], ended.stderr


def test_a_spent_budget_is_not_retried_stored_answers_need_no_flow_and_a_signal_ends_it(
    tmp_path: Path,
) -> None:
    lines, beside = said(CAMPAIGNS, tmp_path, "STOPPED", "BOUGHT", "AGAIN", "FLOWS", "TASKS", "CANCELLED")
    assert lines[0].startswith("STOPPED stopped at $0.00 of $1.00 after 0 of 1,000 requests")
    assert lines[1:] == [
        "BOUGHT 1000 0",
        "AGAIN 0 1000",
        # The names by which a person finds them in the UI, as the server's API has them.
        "FLOWS [('rank math', 'Completed'), ('rank math', 'Failed')]",
        "TASKS ['questions 0 to 400', 'questions 400 to 800', 'questions 800 to 1000']",
        "CANCELLED True",
    ]
    assert "Retry" not in beside
    assert "questions 0 to 400" in beside
    kept = {file.name: json.loads(file.read_text("utf-8")) for file in (tmp_path / "results").iterdir()}
    chunks = {name.rsplit("-", 1)[1]: json.loads(record["result"]) for name, record in kept.items() if "-" in name}
    assert {first: told["questions"] for first, told in chunks.items()} == {"0": 400, "400": 400, "800": 200}


def test_a_chunk_whose_endpoint_was_down_for_a_moment_is_tried_again_and_every_question_counts_once(
    tmp_path: Path,
) -> None:
    # A request is sent once for all that the engine does, so that only the chunk's next try brings its answer.
    lines, _ = said(OUTAGE, tmp_path, "COUNTS", "FIGURES", "PAID")
    assert lines == ["COUNTS 60 60 60 0 0 0", "FIGURES 60 0 0 True", "PAID True"]


def test_a_chunk_that_is_refused_lets_the_others_finish_what_is_on_its_way(tmp_path: Path) -> None:
    lines, _ = said(REFUSED, tmp_path, "ENDED")
    assert lines == ["ENDED 0 True True"]
