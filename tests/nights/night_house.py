"""A simulated house: a home with growing sources, a teacher over HTTP, and a daemon whose nights a test orders.

    with running_house(folder) as house:
        house.deliver("land", queries)
        night = house.night("2031-01-08")      # 03:00 UTC of that day, until all has come to rest
        house.bought(), house.spent(night), house.release(), house.champion()

Everything is a process of its own and can be killed: daemon, code server, runs, their steps, training.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("training", "rankmill"))

from growing_sources import CAUSES, FILLERS, LURES, Query, write
from webhooks import Webhook, webhook
from word_model import make_word_model

from assets.resources import Factory
from assets.tags import NIGHT
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore
from warehouse.lake import Lake, opened
from warehouse.promotion import standing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATIENCE_S = 300.0  # a run that says nothing for so long, on a machine that has other things to do, will never end
LR, WORSE_LR = 1e-3, 1e-9
FRAME = "Why does become after Since and turn into ? ."
# An answer of 100 tokens costs a cent; one that comes to no end would cost three.
PRICE = {"input": 0, "cached": 0, "output": 100, "source": "a cent for 100 tokens of an answer"}


@dataclass(frozen=True)
class Rest:
    """What became of an order: whether the house came to rest, all runs there are, ticks since, errors of daemons."""

    at_rest: bool
    runs: Sequence[dict[str, Any]]
    ticks: Sequence[dict[str, Any]]
    errors: Sequence[str]

    def of(self, night: str, job: str = "") -> list[dict[str, Any]]:
        """Runs of a night (its date), oldest first."""
        return [run for run in self.runs if run["tags"].get(NIGHT) == night and job in ("", run["job"])]

    def told(self, night: str) -> list[str]:
        """The runs of a night as lines."""
        return [
            f"{run['job']} {run['tags'].get('dagster/partition', '')}: {run['status']}: {run['why'][:1000]}"
            for run in self.of(night)
        ]


@dataclass
class House:
    """A home and all that runs in it."""

    folder: Path
    teacher: Standin
    alerts: Webhook
    budgets: dict[str, float]
    recipes: tuple[str, ...] = ("direct-point",)
    sources: dict[str, dict[str, Query]] = field(default_factory=dict)
    daemon: subprocess.Popen[str] | None = None
    starts: int = 0

    @property
    def home(self) -> Path:
        """The home."""
        return self.folder / "home"

    @property
    def profile(self) -> Path:
        """Its profile."""
        return self.folder / "nights.yaml"

    @property
    def clock(self) -> Path:
        """How many seconds its clock is ahead."""
        return self.folder / "clock"

    @property
    def factory(self) -> Factory:
        """The home as assets see it."""
        return Factory(profile=str(self.profile), home=str(self.home))

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the house is started with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANKMILL_", "DAGSTER_"))}
        return kept | {
            "PYTHONPATH": os.pathsep.join([str(HERE / "clock"), str(HERE), str(ROOT)]),
            "NIGHTS_CLOCK": str(self.clock),
            "RANKMILL_HOME": str(self.home),
            "RANKMILL_PROFILE": str(self.profile),
            "RANKMILL_ALERT_WEBHOOK": self.alerts.address,
            "OPENAI_API_KEY": "none",
        }

    # what people do ---------------------------------------------------------------------------------------------------

    def set_profile(self, lr: float = LR) -> None:
        """Write the profile; `lr` is the rate at which the student learns."""
        objective = {"lr": lr, "max_steps": 40, "batch": 4, "epochs": 20}
        profile = {
            "extends": "offline",
            "description": "A house that is simulated.",
            "teacher": {
                "base_url": self.teacher.base_url, "budget_usd": 1000, "max_tokens": 300, "price": PRICE,
                "breaker": {"unanswered_in_a_row": 4},
                "pace": {"max_in_flight": 8, "backoff_base_s": 0.01, "max_attempts": 4},
            },
            "labels": {"judgements": {"sea": "human"}},
            "evaluation": {"queries_per_domain": None, "resamples": 500},
            "release": {"dev_share": 0.05, "sft_share": 0.9 if self.recipes else 0.5},
            "budgets": self.budgets,
            "nightly": list(self.recipes),
            "watch": str(self.folder / "incoming"),
            "recipe": {
                "model": {"base": str(self.folder / "base")},
                "objective": {"softmax_cross_entropy": objective},
                "decoding": {"pointwise_logits": {"top": 10, "batch": 64}},
            },
        }  # fmt: skip
        part = self.profile.with_suffix(".part")
        part.write_text(json.dumps(profile), "utf-8")
        part.replace(self.profile)

    def register(self) -> None:
        """Name the first sources, as `rankmill run --sources` does."""
        registry = self.factory.registry
        registry.keep(registry.choose([str(self.place(domain)) for domain in sorted(self.sources)], None))

    def deliver(self, domain: str, queries: Iterable[Query] = (), without: Iterable[Query] = ()) -> None:
        """Add queries to a source, or put them in place of those with their ids, and take others out of it."""
        held = self.sources.setdefault(domain, {})
        held.update({query.qid: query for query in queries})
        for query in without:
            del held[query.qid]
        write(self.place(domain), held.values())

    def spoil(self, domain: str) -> None:
        """Put something into a source that the door refuses, beside queries that must never be asked."""
        held = self.sources.get(domain, {}).values()
        write(self.place(domain), [*held, *(Query(domain, 900 + n, 0, poisoned=True) for n in range(3))])
        with (self.place(domain) / "qrels.tsv").open("a") as judgements:
            judgements.write("train900 0 train900-0-1 surely\n")

    def place(self, domain: str) -> Path:
        """The folder of a source; those that come by the watched folder lie there."""
        known = self.folder / "sources" / domain
        return known if domain in ("land", "sea") else self.folder / "incoming" / domain

    # what happens -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, as systemd would, and wait until it has begun."""
        log = (self.folder / "daemon.log").open("a")
        with log:
            self.daemon = subprocess.Popen(
                [sys.executable, str(HERE / "night_daemon.py")], cwd=self.folder, env=self.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.starts += 1
        assert self._answer(lambda: None) is not None, self.log()

    def stop(self) -> None:
        """End every process of the house."""
        for process in self.processes():
            kill(process)
        if self.daemon is not None:
            self.daemon.wait()
            self.daemon = None

    def night(self, date: str, watch: Callable[[], None] = lambda: None) -> Rest:
        """A night from 03:00 UTC on. `watch` is called again and again meanwhile."""
        return self.at(f"{date}T03:00:05+00:00", watch)

    def at(self, moment: str, watch: Callable[[], None] = lambda: None) -> Rest:
        """What happens from a moment on until all has come to rest; a daemon that dies meanwhile is started again."""
        order: dict[str, Any] = {"at": datetime.fromisoformat(moment).timestamp(), "patience_s": PATIENCE_S}
        while True:
            if self.daemon is None or self.daemon.poll() is not None:
                self.start()
            assert self.daemon is not None and self.daemon.stdin is not None
            answer = None
            try:
                self.daemon.stdin.write(f"{json.dumps(order)}\n")
                self.daemon.stdin.flush()
                answer = self._answer(watch)
            except BrokenPipeError:
                pass
            if answer is not None:
                return Rest(**answer)
            order["at"] = None

    def processes(self) -> list[psutil.Process]:
        """Every process that was started with this home, the daemon among them."""
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("NIGHTS_CLOCK") == str(self.clock)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def log(self) -> str:
        """The end of what the daemon and its children have said."""
        return (self.folder / "daemon.log").read_text("utf-8", "replace")[-5000:]

    def _answer(self, watch: Callable[[], None]) -> dict[str, Any] | None:
        assert self.daemon is not None and self.daemon.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self.daemon.stdout, selectors.EVENT_READ)
            while not ready.select(0.05):
                watch()
        line = self.daemon.stdout.readline()
        return json.loads(line) if line else None

    # what there is ----------------------------------------------------------------------------------------------------

    @contextmanager
    def lake(self) -> Iterator[Lake]:
        """The lake, opened anew."""
        with opened(Lake.at(self.home / "lake")) as lake:
            yield lake

    def answers(self) -> dict[str, str]:
        """Key and content of every stored answer."""
        with closing(sqlite3.connect(self.home / "exchanges.sqlite")) as store:
            return dict(store.execute("SELECT key, content FROM exchanges").fetchall())

    def spent_between(self, first: datetime, last: datetime) -> float:
        """USD that stand in the store's books between two moments."""
        with ExchangeStore(self.home / "exchanges.sqlite") as store:
            return store.spent_before("all", last).usd - store.spent_before("all", first).usd

    def books(self) -> dict[str, list[tuple[str, int]]]:
        """Keys in the store's books and how often, by kind: answers, and what may have been charged without one."""
        with closing(sqlite3.connect(self.home / "exchanges.sqlite")) as store:
            rows = store.execute("SELECT kind, key, count(*) FROM spend GROUP BY kind, key").fetchall()
        return {kind: [(key, times) for k, key, times in rows if k == kind] for kind in {row[0] for row in rows}}

    def release(self) -> tuple[str, pl.DataFrame]:
        """Name and rows of the newest release."""
        from warehouse.ledger import latest

        with self.lake() as lake:
            made = latest(lake, "training_set")
            assert made is not None
            name = str(made.figures["release"])
            return name, lake.read("training_rows", {"release": name})

    def champion(self) -> str | None:
        """Who is to be used."""
        with self.lake() as lake:
            return standing(lake.read("promotions")).champion

    def trained(self) -> dict[str, float]:
        """Finished training and reranking work, and when it was written."""
        return {path.parent.name: path.stat().st_mtime for path in (self.home / "models").glob("*/*/result.json")}


def kill(process: psutil.Process) -> None:
    """kill -9."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def moment(text: str) -> datetime:
    """A moment of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@contextmanager
def running_house(folder: Path, *recipes: str, **budgets: float) -> Iterator[House]:
    """A house whose nights train `recipes`, for the length of a block; its clock stands before 2031-01-08."""
    with ExitStack() as stack:
        teacher = stack.enter_context(running_standin(Faults()))
        alerts = stack.enter_context(webhook())
        house = House(folder, teacher, alerts, budgets, recipes)
        (folder / "incoming").mkdir(parents=True)
        if recipes:
            make_word_model(folder / "base", [FRAME, *FILLERS, *(word for kind in (*CAUSES, *LURES) for word in kind)])
        house.set_profile()
        house.clock.write_text(repr(moment("2031-01-07T20:00:00").timestamp() - time.time()), "utf-8")
        try:
            yield house
        finally:
            house.stop()
