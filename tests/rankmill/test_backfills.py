"""Backfills as the web UI starts, cancels and re-executes them: by domain and by recipe, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("flows", "training"))

from mills import write_folder
from pages import Pages
from ui_visitor import running_ui
from word_model import make_word_model

from assets.resources import Factory
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore
from warehouse.lake import Lake, opened

DOMAINS, RECIPES = ("land", "moor", "sea"), ("direct-point", "first")
LABELS = (
    "queries", "passages", "human_judgements", "candidates", "mined_judgements", "teacher_rankings",
    "consistent_rankings",
)  # fmt: skip
TRAINED = ("sft_model", "rl_model", "benchmark_runs")
IN_FLIGHT, PATIENCE_S = 4, 400
PROFILE = """
extends: offline
description: A teacher that takes its time, and students of a few thousand weights.
teacher: {{base_url: "{url}", budget_usd: 5, max_tokens: 400, price: {{input: 0, cached: 0, output: 1, source: test}},
  pace: {{max_in_flight: {in_flight}}}}}
evaluation: {{queries_per_domain: 2, resamples: 200}}
training: {{checkpoint_steps: 2}}
recipe:
  objective:
    softmax_cross_entropy: {{batch: 2, epochs: 20, max_steps: 80}}
    first_token_ranknet: {{batch: 2, epochs: 20, max_steps: 80}}
  decoding: {{pointwise_logits: {{top: 4}}, first_token_window: {{window: 4, step: 2, top: 4}}}}
  model: {{base: {base}}}
"""


@dataclass
class Ui(Pages):
    """The UI of a home."""

    home: Path
    teacher: Standin

    def launch(self, assets: tuple[str, ...], partitions: tuple[str, ...]) -> str:
        """*Materialize* for several partitions; gives the backfill's id."""
        wanted = {"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": list(partitions)}
        return self._launched(
            self.ask(
                "mutation($wanted: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $wanted) "
                "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
                wanted=wanted,
            )
        )

    def release(self) -> None:
        """*Materialize all* on the page of `release_training_set`, until it has."""
        run = self.start("release_training_set")
        self.until(lambda: self.status_of_run(run) in ("SUCCESS", "FAILURE"), "the release is made")
        assert self.status_of_run(run) == "SUCCESS"

    def cancel(self, backfill: str) -> None:
        """*Cancel*, and *Terminate* its runs, until all have ended: the daemon alone would leave them half a minute."""
        self.ask("mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }", id=backfill)
        query = "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
        runs = self.ask(f"{query} {{ ... on PartitionBackfill {{ runs(limit: 100) {{ runId }} }} }} }}", id=backfill)
        self.ask(
            "mutation($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }",
            ids=[run["runId"] for run in runs["runs"]],
        )
        self.until(lambda: self.status(backfill) == "CANCELED", "it is cancelled")

    def execute_again(self, backfill: str) -> str:
        """*Re-execute from failure*: what was not materialized."""
        again = {"parentRunId": backfill, "strategy": "FROM_FAILURE"}
        return self._launched(
            self.ask(
                "mutation($again: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $again) "
                "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
                again=again,
            )
        )

    def status(self, backfill: str) -> str:
        """What the page of a backfill says of it."""
        told = self.ask(
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
            "{ __typename ... on PartitionBackfill { status } } }",
            id=backfill,
        )
        return str(told["status"])

    def ended(self, backfill: str) -> str:
        """How a backfill ends."""
        self.until(lambda: self.status(backfill) not in ("REQUESTED", "CANCELING", "FAILING"), "it ends")
        return self.status(backfill)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE_S} s"
            time.sleep(0.2)

    def _launched(self, answer: dict[str, Any]) -> str:
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    folder = tmp_path_factory.mktemp("backfills")
    make_word_model(folder / "base", [])
    with pytest.MonkeyPatch.context() as patched, running_standin(Faults(latency_s=0.3)) as teacher:
        patched.setenv("OPENAI_API_KEY", "none")
        profile, home = folder / "slow.yaml", folder / "home"
        profile.write_text(PROFILE.format(url=teacher.base_url, base=folder / "base", in_flight=IN_FLIGHT), "utf-8")
        registry = Factory(profile=str(profile), home=str(home)).registry
        registry.keep(registry.choose([str(write_folder(folder / domain, 32)) for domain in DOMAINS], None))
        with running_ui(home, profile, folder / "ui.log") as address:
            yield Ui(address, home, teacher)


def test_a_backfill_by_domain_that_was_cancelled_and_executed_again_has_bought_every_answer_once(
    ui: Ui, tmp_path: Path
) -> None:
    first = ui.launch(LABELS, DOMAINS)
    ui.until(lambda: ui.teacher.counts["answered"] >= 20, "the teacher is asked")
    ui.cancel(first)
    asked = ui.teacher.counts["answered"]
    assert ui.ended(ui.execute_again(first)) == "COMPLETED_SUCCESS"
    with ExchangeStore(ui.home / "exchanges.sqlite") as store:
        answers, presumed = store.clerk.submit(_answers, writes=False).result(), store.presumed("all")[0]
    assert asked < len(answers)
    assert {times for _, times in answers} == {1}
    # What was in flight as its run was ended is the most that can be asked twice.
    assert len(answers) <= ui.teacher.counts["answered"] <= len(answers) + IN_FLIGHT
    assert presumed <= IN_FLIGHT
    clean = labelled_at_once(ui, tmp_path)
    for table in ("candidates", "judgements", "rankings", "consistent_rankings"):
        assert rows(ui.home, table) == rows(clean, table) != [], table


def test_a_backfill_by_recipe_that_was_cancelled_in_training_ends_with_every_model(ui: Ui) -> None:
    ui.release()
    first = ui.launch(TRAINED, RECIPES)

    def in_training() -> bool:
        assert ui.status(first) == "REQUESTED", (ui.home.parent / "ui.log").read_text("utf-8")[-6000:]
        return any(ui.home.glob("models/*/**/checkpoint-*"))

    ui.until(in_training, "a checkpoint is kept")
    ui.cancel(first)
    assert ui.ended(ui.execute_again(first)) == "COMPLETED_SUCCESS"
    models = rows(ui.home, "models", "recipe", "stage")
    assert sorted(models) == [(recipe, "sft") for recipe in RECIPES]
    assert {recipe for (recipe,) in rows(ui.home, "scores", "recipe")} >= set(RECIPES)


def labelled_at_once(ui: Ui, folder: Path) -> Path:
    """A home of the same sources that nobody disturbed."""
    home = folder / "clean"
    ui.teacher.faults = Faults()
    sources = [word for domain in DOMAINS for word in ("--sources", str(ui.home.parent / domain))]
    options = ["--profile", str(ui.home.parent / "slow.yaml"), "--home", str(home), *sources]
    done = subprocess.run(
        [sys.executable, "-m", "rankmill.cli", "label", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home


def rows(home: Path, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """The rows of a table, in a fixed order."""
    with opened(Lake.at(home / "lake")) as lake:
        frame = lake.read(table, columns=columns)
    return frame.sort(frame.columns).rows()


def _answers(con: Any) -> list[tuple[str, int]]:
    counted: list[tuple[str, int]] = con.execute(
        "SELECT key, count(*) FROM spend WHERE kind = 'answer' GROUP BY key"
    ).fetchall()
    return counted
