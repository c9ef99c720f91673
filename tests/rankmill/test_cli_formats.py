"""`rankmill export` and `rankmill audit` as a stranger uses them: output, exit codes, errors that say what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rankmill.cli import app
from warehouse.lake import Lake, opened

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))

import small_lake
from outside_sets import reasonrank_rows, write_reasonrank


def rankmill(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options become variables of this process; every test starts and ends without them."""
    for name in ("RANKMILL_HOME", "RANKMILL_PROFILE", "RANKMILL_BUDGET_USD", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base_models: Path) -> Path:
    folder = tmp_path_factory.mktemp("home")
    base_models.mkdir(exist_ok=True)
    (folder / "models").mkdir()
    (folder / "models" / "base").symlink_to(base_models)
    with opened(Lake.at(folder / "lake")) as lake:
        small_lake.fill(lake)
        small_lake.release(lake)
    return folder


@pytest.mark.parametrize("command", ["export", "audit"])
def test_the_commands_explain_themselves(command: str) -> None:
    result = rankmill(command, "--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("reasonrank", "verl", "trl", "hub"))


def test_a_release_is_exported_and_what_is_not_held_is_said(home: Path, tmp_path: Path) -> None:
    words = ("export", "newest", "--format", "reasonrank", "--out", str(tmp_path / "out"), "--home", str(home))
    result = rankmill(*words)
    assert result.exit_code == 0, result.output
    assert "40 lists" in result.output and "not held by this format: split; teacher" in result.output
    lines = (tmp_path / "out" / "training_data_all.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 40
    again = rankmill(*words)
    assert again.exit_code == 1 and "--overwrite" in again.output
    told = json.loads(rankmill(*words, "--overwrite", "--json").output)
    assert told["written"] == {"lists": 40} and len(told["release"]) == 64


def test_the_prompts_of_an_export_are_the_recipes(home: Path, tmp_path: Path) -> None:
    from ranking.prompts import load_template
    from training.recipes import load_recipe

    out = tmp_path / "out"
    result = rankmill(
        "export", "newest", "--format", "llamafactory", "--split", "sft", "--out", str(out), "--home", str(home)
    )
    assert result.exit_code == 0, result.output
    recipe = load_recipe(Path(__file__).resolve().parents[2] / "recipes" / "reasonrank.yaml")
    (row, *_) = json.loads((out / "rankmill_sft.json").read_text("utf-8"))
    assert row["system"] == load_template(recipe.contract.template).system_message
    assert [path.name for path in sorted(out.iterdir())] == ["dataset_info.json", "export.json", "rankmill_sft.json"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export", "newest", "--format", "csv"), "there is no format 'csv'. Formats: reasonrank"),
        (("export", "ffff", "--format", "hub"), "names 0 releases. Releases:"),
        (("export", "newest", "--format", "hub", "--split", "test"), "there is no split 'test'. Splits: sft, rl, dev"),
        (("export", "newest", "--format", "trl", "--recipe", "x"), "there is no recipe 'x'. Recipes:"),
        (
            ("export", "newest", "--format", "trl", "--recipe", "first"),
            "first asks about lists with the contract letters",
        ),
        (
            ("export", "newest", "--format", "trl", "--recipe", "erank"),
            "asks about pairs with the contract score_think",
        ),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(
    words: tuple[str, ...], told: str, home: Path, tmp_path: Path
) -> None:
    result = rankmill(*words, "--out", str(tmp_path / "out"), "--home", str(home))
    assert result.exit_code == 1
    assert told in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_rows_and_tokens_of_the_release_and_starts_nothing(home: Path, tmp_path: Path) -> None:
    words = ("plan", "--recipe", "reasonrank", "--profile", "offline", "--home", str(home))
    told = rankmill(*words)
    assert told.exit_code == 0, told.output
    assert "reasonrank (smollm2) on release" in told.output and "a device (fits)" in told.output
    (supervised, reinforced) = json.loads(rankmill(*words, "--json").output)["stages"]
    assert supervised["rows"] + supervised["left_out"] > 0 and supervised["tokens"] > supervised["longest"] > 0
    assert reinforced["stage"] == "rl" and reinforced["steps"] == 3
    # The paper's student, which is to draw more prompts together than the toy release has.
    wide = tmp_path / "wide.yaml"
    wide.write_text("extends: gpu\ndescription: Wide.\nrecipe: {sampling: {grpo: {prompts: 400}}}\n")
    large = rankmill("plan", "--recipe", "reasonrank", "--profile", str(wide), "--home", str(home))
    assert "reasonrank (Qwen/Qwen2.5-7B-Instruct) on release" in large.output, large.output
    assert "not one step: fewer than sampling.prompts draws together" in large.output
    assert "8 x H100 SXM, weights sharded" in large.output and "1 x H100 SXM\n" in told.output
    wide.write_text("extends: gpu\ndescription: Whole.\ntraining: {launch: ddp}\n")
    whole = rankmill("plan", "--recipe", "reasonrank", "--profile", str(wide), "--count", "4", "--home", str(home))
    assert "4 x H100 SXM, all weights on each" in whole.output and "DOES NOT FIT" in whole.output
    wide.write_text("extends: gpu\ndescription: Odd.\nrecipe: {sampling: {grpo: {prompts: 12}}}\n")
    odd = rankmill("plan", "--recipe", "reasonrank", "--profile", str(wide), "--home", str(home))
    assert (
        odd.exit_code == 1
        and "prompts is 12; 8 processes with 1 prompts of a query each want a multiple of 8" in odd.output
    )
    wrong = rankmill(*words, "--device", "abacus")
    assert wrong.exit_code == 1 and "Devices: a100, h100, h200" in wrong.output


def test_an_empty_home_has_nothing_to_export(tmp_path: Path) -> None:
    result = rankmill(
        "export", "newest", "--format", "hub", "--out", str(tmp_path / "o"), "--home", str(tmp_path / "h")
    )
    assert result.exit_code == 1 and "rankmill run" in result.output


def test_an_audit_prints_faults_with_their_places_and_writes_page_and_lake(tmp_path: Path) -> None:
    rows, queries, passages = reasonrank_rows()
    rows[4]["relevant_docids"] = rows[4]["initial_list"]
    marked = tmp_path / "bench" / "own"
    marked.mkdir(parents=True)
    (marked / "queries.jsonl").write_text(json.dumps({"qid": "b7", "text": queries[rows[7]["qid"]]}) + "\n", "utf-8")
    folder = write_reasonrank(tmp_path / "theirs", rows, queries, passages)
    home, page = tmp_path / "home", tmp_path / "page.html"
    words = ("audit", str(folder), "--home", str(home), "--benchmarks", str(tmp_path / "bench"), "--out", str(page))
    result = rankmill(*words)
    assert result.exit_code == 0, result.output
    assert "32 lists, 30 of them without a fault" in result.output
    assert "training_data_all.jsonl:5 measured 8, bound 8" in result.output and "all_relevant" in result.output
    assert "training_data_all.jsonl:8" in result.output and "contaminated" in result.output
    assert "training_data_all.jsonl:8" in page.read_text("utf-8")
    told = json.loads(rankmill(*words, "--json").output)
    assert {(fault["ranking_id"], fault["reason"]) for fault in told["faults"]} == {
        ("training_data_all.jsonl:5", "all_relevant"),
        ("training_data_all.jsonl:8", "contaminated"),
    }
    asked = "SELECT count(*) AS n FROM decisions WHERE outcome = 'rejected'"
    kept = rankmill("lake", "query", asked, "--home", str(home / "audits" / "theirs"), "--json")
    assert json.loads(kept.output) == [{"n": 2}]
    # Another folder of the same name takes nothing from the first; the same one again takes its own place.
    other = write_reasonrank(tmp_path / "other" / "theirs", *reasonrank_rows())
    for _ in range(2):
        assert rankmill("audit", str(other), "--home", str(home)).exit_code == 0
    assert sorted(place.name for place in (home / "audits").iterdir()) == ["theirs", "theirs-2"]
    kept = rankmill("lake", "query", asked, "--home", str(home / "audits" / "theirs"), "--json")
    assert json.loads(kept.output) == [{"n": 2}]


def test_an_audit_without_benchmarks_says_what_it_was_not_compared_with(tmp_path: Path) -> None:
    folder = write_reasonrank(tmp_path / "theirs", *reasonrank_rows())
    result = rankmill("audit", str(folder), "--home", str(tmp_path / "home"))
    assert result.exit_code == 0, result.output
    assert "compared with 0 benchmark items" in result.output and "not compared with" in result.output


def test_a_folder_that_is_no_set_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        result = rankmill("audit", str(tmp_path / folder), "--home", str(tmp_path / "home"))
        assert result.exit_code == 1 and "Traceback" not in result.output
    assert not (tmp_path / "home").exists()
