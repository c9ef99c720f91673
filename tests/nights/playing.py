"""Plays the nights of the plan in a house, and holds each against the ledger."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from growing_sources import POISON
from night_house import LR, WORSE_LR, House, Rest, moment
from night_plan import MONTH_USD, NIGHT_USD, NOTHING, Ledger, Night, date_of

from inference.standin.faults import Faults
from warehouse.lake import Lake, opened
from warehouse.leaderboard import TIMINGS
from warehouse.ledger import latest
from warehouse.promotion import CHALLENGER, PROMOTED, standing

LABELS = (
    "queries", "passages", "judgements", "candidates", "rankings", "consistent_rankings", "scores", "dev_scores",
)  # fmt: skip
OUTAGE = Faults(rate_500=1.0)
ROUGH = Faults(rate_429=0.1, retry_after_s=0.05, rate_500=0.1, rate_reset=0.05, rate_half_body=0.05)
CHAIN = ("label_domain", "release_training_set", "train_and_evaluate", "rank_models")


def nobody() -> None:
    """Watches nothing."""


@dataclass
class State:
    """What a house had come to when a night was over."""

    answers: dict[str, str] = field(default_factory=dict)
    snapshot: int = 0
    release: str | None = None
    champion: str | None = None
    trained: dict[str, float] = field(default_factory=dict)
    lr: float = LR


@dataclass
class Play:
    """A house, what is owed to it, and what every night of it was like."""

    house: House
    ledger: Ledger = field(default_factory=Ledger)
    bad: set[str] = field(default_factory=set)
    before: State = field(default_factory=State)
    partly: int = 0  # answers bought of what is owed, in nights that could not pay for all of it
    told: list[str] = field(default_factory=list)
    spoilt: set[str] = field(default_factory=set)  # recipes whose models are the worse ones

    def prepare(self, night: Night, number: int, watch: Callable[[], None] = nobody) -> None:
        """What people deliver and what breaks before a night, and the day before it where something arrives."""
        house = self.house
        changed = self.ledger.deliver(night)
        for domain in self.bad - set(night.bad):
            house.deliver(domain)
        for domain, (came, taken) in changed.items():
            house.deliver(domain, came, taken)
        for domain in night.broken:
            house.place(domain).mkdir()
            (house.place(domain) / "queries.jsonl").write_text(f'{{"qid": "q1", "text": "{POISON}"}}\n', "utf-8")
        if number == 0:
            house.register()
            house.start()
        if night.arrives:
            house.teacher.faults = OUTAGE if night.outage_by_day else Faults()
            house.at(f"{date_of(number - 1)}T14:00:00+00:00", watch)
        for domain in set(night.bad) - self.bad:
            house.spoil(domain)
        self.bad = set(night.bad)
        house.set_profile(WORSE_LR if night.worse else LR)
        if night.worse:
            self.spoilt.add(house.factory.settings.recipe("direct-point").sha256)
        house.teacher.faults = OUTAGE if night.outage else ROUGH if night.rough else Faults()

    def night(self, number: int, night: Night) -> None:
        """A night that nothing disturbs but what the plan names; asserts what must hold after it."""
        house, date, began = self.house, date_of(number), time.monotonic()
        answered = house.teacher.counts["answered"]
        self.prepare(night, number)
        rest = house.night(date)
        where = f"night {number + 1}, {night.about}:\n" + "\n".join(rest.told(date)) + f"\n{rest.ticks}\n{house.log()}"
        assert rest.at_rest and not rest.errors, f"{where}\n{rest.errors}"
        assert [tick for tick in rest.ticks if tick["error"]] == [], where
        assert house.teacher.counts["answered"] - answered == len(house.answers()) - len(self.before.answers), where
        failed = self._bought(night, rest, date, where)
        assert spent_in(house, date) <= NIGHT_USD and spent_in_month(house, date) <= MONTH_USD, where
        assert through(rest, date, house.recipes) == (not failed), where
        state = State(house.answers(), self._snapshot(), lr=WORSE_LR if night.worse else LR)
        if failed:
            state = replace(self.before, answers=state.answers, snapshot=state.snapshot, lr=state.lr)
        else:
            state = self._made(night, state, where)
        self._tell(number, night, state, len(failed), time.monotonic() - began)
        self.before = state

    def disturbed(self, number: int, night: Night, watch: Callable[[], None]) -> Rest:
        """A night in which `watch` may kill: what must hold even then; gives what became of it."""
        house, date, began = self.house, date_of(number), time.monotonic()
        self.prepare(night, number, watch)
        rest = house.night(date, watch)
        where = f"night {number + 1}, {night.about}:\n" + "\n".join(rest.told(date)) + f"\n{house.log()}"
        assert rest.at_rest, where
        assert spent_in(house, date) <= NIGHT_USD and spent_in_month(house, date) <= MONTH_USD, where
        assert not poisoned(house), where
        self.never_the_worse()
        answers = house.answers()
        self.partly += len(answers) - len(self.before.answers)
        self.before = replace(self.before, answers=answers, snapshot=self._snapshot())
        bad = [line for line in rest.told(date) if "SUCCESS" not in line]
        self.told.append(f"{number + 1:2} {date} {night.about}: {len(rest.of(date))} runs, {len(bad)} failed")
        print(f"{self.told[-1]} ({time.monotonic() - began:.0f} s)", *bad, sep="\n     ", flush=True)
        return rest

    def settle(self, number: int) -> None:
        """Nights in which nothing is delivered and nobody is killed, until one finds nothing to do."""
        for further in range(number, number + 5):
            before = self._snapshot(), self.house.answers(), self.house.trained()
            self.prepare(NOTHING, further)
            rest = self.house.night(date_of(further))
            if through(rest, date_of(further), self.house.recipes) and before == (
                self._snapshot(),
                self.house.answers(),
                self.house.trained(),
            ):
                return
        raise AssertionError(f"five nights later it has not settled: {rest.told(date_of(further))}")

    def never_the_worse(self) -> None:
        """No model was ever promoted that was trained as in a spoilt night."""
        with self.house.lake() as lake:
            models = lake.read("models", columns=["model", "recipe_sha256"]).filter(
                pl.col("recipe_sha256").is_in(list(self.spoilt))
            )
            promoted = lake.read("promotions").filter(pl.col("decision") == PROMOTED)
            assert promoted.join(models, on="model").is_empty(), promoted

    def _bought(self, night: Night, rest: Rest, date: str, where: str) -> list[dict[str, Any]]:
        """Only what is new or changed is bought, each answer once; gives the runs that failed to label."""
        answers, before = self.house.answers(), self.before.answers
        assert before.items() <= answers.items(), where
        assert [times for _, times in self.house.books().get("answer", [])] == [1] * len(answers), where
        bought = len(answers) - len(before)
        owed = self.ledger.owed(sorted(set(self.ledger.delivered) - self.bad))
        failed = [run for run in rest.of(date, "label_domain") if run["status"] == "FAILURE"]
        if night.outage:
            # A few questions without an answer are asked again in the next night; many in a row end the run.
            assert bought == 0 and all("EndpointDown" in run["why"] for run in failed), where
        elif failed:
            assert bought > 0 and all("is used up" in run["why"] for run in failed), where
            self.partly += bought
        else:
            assert self.partly + bought == self.ledger.calls(owed), where
            self.ledger.bought(owed)
            self.partly = 0
        return failed

    def _made(self, night: Night, state: State, where: str) -> State:
        """A night that went through has a release of all that is good and of nothing else, and its model is judged."""
        house, before = self.house, self.before
        release, rows = house.release()
        released = set(rows.select("domain", "qid").rows())
        good = {key for key in self.ledger.answered() if key[0] not in self.bad}
        assert {key for key in released if key[0] not in self.bad} == good, where
        assert not poisoned(house), where
        state = replace(state, release=release, champion=house.champion(), trained=house.trained())
        fresh = [name for name, at in state.trained.items() if at != before.trained.get(name)]
        changed = release != before.release or state.lr != before.lr
        wanted = int(changed and bool(house.recipes))
        assert len([name for name in fresh if name.startswith("sft-")]) == wanted, f"{fresh} {where}"
        if state.answers == before.answers and not changed and not night.delivers:
            assert fresh == [] and state.snapshot == before.snapshot, f"{fresh} {where}"
        if night.worse:
            assert state.champion == before.champion, where
        self.never_the_worse()
        return state

    def _snapshot(self) -> int:
        with self.house.lake() as lake:
            return lake.snapshot()

    def _tell(self, number: int, night: Night, state: State, failed: int, seconds: float) -> None:
        bought = len(state.answers) - len(self.before.answers)
        made = f"{failed} failed" if failed else f"release {str(state.release)[:8]}, champion {str(state.champion)[:8]}"
        mark = "" if state.champion == self.before.champion else ", which is new"
        date = date_of(number)
        self.told.append(
            f"{number + 1:2} {date} {night.about}: {bought} calls, ${spent_in(self.house, date):.2f}, {made}{mark} "
            f"({seconds:.0f} s)"
        )
        print(self.told[-1], flush=True)


def through(rest: Rest, date: str, recipes: Sequence[str]) -> bool:
    """Whether the whole chain of a night has succeeded; without a recipe it ends with the release."""
    chain = CHAIN if recipes else CHAIN[:2]
    return all(any(run["status"] == "SUCCESS" for run in rest.of(date, job)) for job in chain)


def spent_in(house: House, date: str) -> float:
    """USD that a night has spent."""
    began = moment(f"{date}T03:00:00")
    return house.spent_between(began, began + timedelta(days=1))


def spent_in_month(house: House, date: str) -> float:
    """USD of a night's month until its end."""
    first = datetime.fromisoformat(date).replace(day=1)
    return house.spent_between(moment(f"{first.date()}T03:00:00"), moment(f"{date}T03:00:00") + timedelta(days=1))


def poisoned(house: House) -> bool:
    """Whether anything of a bad source has reached the lake."""
    with house.lake() as lake:
        texts = [lake.read("training_rows")["query"], lake.read("queries")["text"], lake.read("exchanges")["messages"]]
    return any(bool(column.str.contains(POISON).any()) for column in texts)


def end_state(home: Path) -> dict[str, Any]:
    """What a home has come to: labels, rows of the newest release, scores and leaderboard, without times."""
    with opened(Lake.at(home / "lake")) as lake:
        made = latest(lake, "training_set")
        assert made is not None
        release = str(made.figures["release"])
        frames = {table: lake.read(table) for table in LABELS}
        frames["training_rows"] = lake.read("training_rows", {"release": release})
        frames["leaderboard"] = lake.read("leaderboard").drop(TIMINGS)
        state: dict[str, Any] = {table: frame.sort(frame.columns).rows() for table, frame in frames.items()}
        return state | {"release": release}


def clean_run(house: House, home: Path) -> None:
    """One run of `rankmill run` in a new home, over the sources as they are in the end."""
    folders = [word for domain in sorted(house.sources) for word in ("--sources", str(house.place(domain)))]
    words = ["run", *folders, "--recipe", "direct-point", "--profile", str(house.profile), "--home", str(home)]
    kept = {name: value for name, value in house.environment.items() if name in os.environ or name == "OPENAI_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-m", "rankmill.cli", *words], cwd=house.folder, env=kept, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def differences(home: Path, clean: Path) -> list[str]:
    """What the end of many nights and that of one clean run over their final sources differ in, and may not.

    The clean run judges its one model against the first stage; here it has to beat the champion of an earlier night.
    """
    ours, theirs = end_state(home), end_state(clean)
    found = [
        f"{part}: {sorted(map(str, set(map(str, ours[part])) ^ set(map(str, theirs[part]))))[:4]}"
        if isinstance(ours[part], list)
        else f"{part}: {ours[part]} and {theirs[part]}"
        for part in ours
        if ours[part] != theirs[part]
    ]
    decided, alone = promotions(home), promotions(clean)
    holder, best = standing(decided).champion, standing(alone).champion
    judged = decided.filter(pl.col("model") == best).sort("number").select("decision", "against").rows()
    if holder != best and judged[-1:] != [(CHALLENGER, holder)]:
        found.append(f"champion: {holder}, and {best}, which was judged so: {judged}")
    return found


def promotions(home: Path) -> pl.DataFrame:
    """Every decision on a champion."""
    with opened(Lake.at(home / "lake")) as lake:
        return lake.read("promotions")
