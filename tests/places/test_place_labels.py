"""Label campaigns whose paid half is a process of another place: the same rows, the same ends, no key on the way."""

import json
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest
from label_runs import TOLD, home_of, label, made

from flows import asking
from flows.campaign import Home
from flows.teacher import TeacherSettings
from inference.clerk import StoreUnusable

SLURM = {"where": "slurm", "python": sys.executable, "stages": {"label": {}}}
CENTS = {"input": 0, "cached": 0, "output": 100, "source": "an answer of 100 tokens costs a cent"}


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANKMILL_HOME", "RANKMILL_PROFILE", "RANKMILL_LAKE_CATALOG"):
        monkeypatch.delenv(name, raising=False)


def failure(run: dg.ExecuteInProcessResult) -> str:
    (event, *_) = run.get_step_failure_events()
    data = event.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def test_questions_that_are_asked_elsewhere_make_the_rows_of_those_asked_here(toy: Path, tmp_path: Path) -> None:
    here, there = home_of(tmp_path / "here"), home_of(tmp_path / "there", SLURM)
    (local, _), (sent, log) = label(here), label(there)
    assert local.success and sent.success
    assert made(there) == made(here)
    mine, theirs = (factory.lake.read("exchanges").drop(TOLD) for factory in (here, there))
    assert theirs.height > 0 and theirs.sort("key").equals(mine.sort("key"))
    submitted = [json.loads(line) for line in (toy / "calls.jsonl").read_text("utf-8").splitlines()]
    assert [call["name"] for call in submitted] == ["sbatch", "sbatch"]
    assert any("mined_judgements land: " in line and "done" in line for line in log)
    assert list((tmp_path / "there" / "home" / "work" / "label").iterdir()) == []


def test_answers_that_are_stored_send_nothing_anywhere(toy: Path, tmp_path: Path) -> None:
    bought, again = home_of(tmp_path / "bought"), home_of(tmp_path / "again", SLURM)
    assert label(bought)[0].success
    shutil.copy(bought.settings.store_path, again.settings.store_path)
    assert label(again)[0].success and made(again) == made(bought)
    assert not (toy / "calls.jsonl").exists()


def test_a_budget_that_ends_there_is_the_budgets_end_here(toy: Path, tmp_path: Path) -> None:
    factory = home_of(tmp_path / "mill", SLURM, price=CENTS, budget_usd=0.0004)
    told = failure(label(factory)[0])
    assert "BudgetExceeded" in told and "budget_usd" in told


def test_a_process_that_ends_without_a_word_is_named(toy: Path, tmp_path: Path) -> None:
    told = failure(label(home_of(tmp_path / "mill", {**SLURM, "setup": "kill -9 $$"}))[0])
    assert "mined_judgements land: the process that asks ended without a word" in told
    assert "OUT_OF_MEMORY" in told and "answers that came are stored" in told


def test_what_is_written_for_the_process_holds_no_key(tmp_path: Path) -> None:
    teacher = TeacherSettings(base_url="http://127.0.0.1:9/v1", api_key="sk-secret-of-a-test")
    path = asking.write(tmp_path, "name", [], teacher, Home(tmp_path / "s.sqlite", tmp_path))
    assert "sk-secret" not in path.read_text("utf-8") and "127.0.0.1:9" in path.read_text("utf-8")


def test_a_store_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_mounts", lambda: iter([("/", "ext4"), (str(tmp_path), "nfs4")]))
    path = asking.write(tmp_path, "name", [], TeacherSettings(), Home(tmp_path / "s.sqlite", tmp_path))
    with pytest.raises(StoreUnusable, match=r"\(nfs4\), which other machines share"):
        asking.answer(path, None, print)
    with pytest.raises(StoreUnusable, match="nfs4"):
        asking.answered(path)
