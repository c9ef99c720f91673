"""A teacher of one's own, started for a campaign: once, not for answers that are stored, and gone afterwards.

What stands for vLLM's interpreter serves the stand-in where it is told to serve a model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mills import mill

from flows.campaign import Home, label
from flows.resynthesis import Mill, label_all, plan_all
from flows.steps import mining_questions
from flows.teacher import TeacherSettings
from inference.budget import BudgetExceeded
from inference.prices import Price
from inference.standin.server import MODEL
from inference.vllm import VllmSettings
from warehouse.production import Shop

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")

DEAR = Price(input=1e6, cached=1e6, output=1e6, source="a dollar a token makes budgets easy to read")
FAKE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from aiohttp import web
from inference.standin.server import Standin
told = sys.argv[2:]
with open(os.path.join(told[told.index("--model") + 1], "started"), "a") as log:
    log.write(f"{os.getpid()}\\n")


async def healthy(_):
    return web.Response()


app = Standin().app()
app.router.add_get("/health", healthy)
web.run_app(app, host="127.0.0.1", port=int(told[told.index("--port") + 1]), print=None)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder to serve, in which every start of a server is noted, and the interpreter that serves it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE, "utf-8")
    root = Path(__file__).resolve().parents[2]
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/fake.py {root} "$@"\n', "utf-8")
    (folder / "python").chmod(0o755)
    return folder


def served(folder: Path) -> VllmSettings:
    return VllmSettings(model=str(folder), served_name=MODEL, python=str(folder / "python"), start_timeout_s=60)


def started(folder: Path) -> list[int]:
    """The processes that were started as servers."""
    log = folder / "started"
    return [int(line) for line in log.read_text("utf-8").split()] if log.exists() else []


def running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").is_file()


def silent(_: str) -> None:
    """Hears nothing."""


def label_both(made: Mill) -> None:
    label_all(made, plan_all(made, False, silent), silent, silent)


def test_a_server_is_started_once_for_all_domains_and_not_for_answers_that_are_stored(
    tmp_path: Path, model: Path
) -> None:
    made = mill(tmp_path, {"land": 8, "sea": 8}, "vllm", vllm=served(model))
    label_both(made)
    (server,) = started(model)
    assert not running(server) and (made.home.logs / "vllm.log").is_file()
    ranked = made.lake.read("rankings")
    assert set(ranked["domain"]) == {"land", "sea"} and ranked["judge"].unique().to_list() == [MODEL]
    label_both(made)
    assert started(model) == [server]


def test_a_campaign_alone_starts_a_server_for_what_it_must_buy_and_ends_it_also_after_an_error(
    tmp_path: Path, model: Path
) -> None:
    made = mill(tmp_path, {"land": 8}, "vllm", vllm=served(model))
    plan_all(made, False, silent)
    asked = mining_questions(Shop(made.lake, "land", made.lake.snapshot(), ["land"]), made.campaign("land", silent))
    home = Home(tmp_path / "alone.sqlite", tmp_path / "logs")
    poor = made.teacher.model_copy(update={"price": DEAR, "budget_usd": 3000.0})
    with pytest.raises(BudgetExceeded):
        label("mine", asked, poor, home)
    assert len(started(model)) == 1
    assert label("mine", asked, made.teacher, home).unanswered == 0
    assert label("mine", asked, made.teacher, home).progress.stored == len(asked)
    assert label("mine", [], made.teacher, home).outcomes == ()
    servers = started(model)
    assert len(servers) == 2 and not any(running(server) for server in servers)


def test_the_server_serves_the_model_that_is_asked() -> None:
    with pytest.raises(ValueError, match=r"model is 'mine', and vllm.served_name 'theirs': give both alike"):
        TeacherSettings(base_url="vllm", model="mine", vllm=VllmSettings(model="m", served_name="theirs"))
