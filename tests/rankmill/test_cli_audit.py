"""why, retract, lake releases, diff and verify as a stranger uses them: exit codes, JSON, what is written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "warehouse"))
from later_releases import change, here, release_now
from small_lake import fill
from told_lake import OURS, tell

from rankmill.cli import app
from warehouse.files import named_files
from warehouse.lake import Lake, opened
from warehouse.pages.beside import write_beside
from warehouse.pages.facts import facts_of

ROOMS = ("RANKMILL_HOME", "RANKMILL_PROFILE", "RANKMILL_LAKE_CATALOG", "RANKMILL_LAKE_DATA", "RANKMILL_RELEASE")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ROOMS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def told_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two releases; the second lacks math/train1."""
    home = tmp_path_factory.mktemp("told")
    with opened(Lake.at(home / "lake")) as lake:
        fill(lake)
        tell(lake)
        change(lake, "consistent_rankings", keep=~here("math", "train1"))
        release_now(lake)
    return home


@pytest.fixture
def home(told_home: Path, tmp_path: Path) -> Path:
    shutil.copytree(told_home, tmp_path / "home")
    return tmp_path / "home"


def rankmill(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--home", str(home)])


def names(home: Path) -> list[str]:
    """The releases' hashes, oldest first."""
    with opened(Lake.at(home / "lake")) as lake:
        entries = lake.read("releases").sort("rows", descending=True)
    return entries["release"].to_list()


@pytest.mark.parametrize("command", ["why", "retract", "lake releases", "lake diff", "lake verify"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 8


def test_releases_are_listed_for_people_and_for_programs(home: Path) -> None:
    shown = rankmill(home, "lake", "releases")
    assert shown.exit_code == 0
    for name in names(home):
        assert name[:12] in shown.output
    told = json.loads(rankmill(home, "lake", "releases", "--json").output)
    assert {row["release"] for row in told} == set(names(home))
    assert {tuple(row["models"]) for row in told} > {()}


def test_diff_tells_rows_with_their_cause(home: Path) -> None:
    first, second = names(home)
    shown = rankmill(home, "lake", "diff", first[:8], second[:8])
    assert shown.exit_code == 0
    assert "math/train1" in shown.output
    told = json.loads(rankmill(home, "lake", "diff", first, second, "--json").output)
    assert [(row["change"], row["qid"]) for row in told["rows"]] == [("went", "train1")]
    unknown = rankmill(home, "lake", "diff", first, "zzz")
    assert (unknown.exit_code, second[:12] in unknown.output) == (1, True)
    assert "Traceback" not in unknown.output


def test_diff_compares_a_table_at_two_snapshots(home: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        before = lake.snapshot()
        change(lake, "queries", keep=~here("math", "train2"))
        after = lake.snapshot()
    words = ("lake", "diff", str(before), str(after), "--table", "queries")
    assert "train2" in rankmill(home, *words).output
    told = json.loads(rankmill(home, *words, "--json").output)
    assert [(row["change"], row["qid"]) for row in told["rows"]] == [("went", "train2")]
    wrong = rankmill(home, "lake", "diff", "one", "2", "--table", "queries")
    assert (wrong.exit_code, "snapshot numbers" in wrong.output) == (1, True)


def test_verify_ends_with_1_only_where_something_is_wrong(home: Path) -> None:
    clean = rankmill(home, "lake", "verify")
    assert (clean.exit_code, clean.output.startswith("ok")) == (0, True)
    with opened(Lake.at(home / "lake")) as lake:
        stray = Path(lake.place.data_path) / "main" / "queries" / "stray.parquet"
        stray.write_bytes(b"left behind")
        assert rankmill(home, "lake", "verify").exit_code == 0
        gone = next(file for file in named_files(lake.connection()) if file.table == "rankings")
        (Path(lake.place.data_path) / gone.path).unlink()
    broken = rankmill(home, "lake", "verify")
    assert broken.exit_code == 1
    assert f"FAIL missing {gone.path}" in broken.output
    assert "mend: " in broken.output
    told = json.loads(rankmill(home, "lake", "verify", "--json").output)
    assert [wrong["kind"] for wrong in told["errors"]] == ["missing"]


def test_why_tells_the_story_prints_json_and_writes_a_page(home: Path, tmp_path: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        row_id = lake.read("training_rows").filter(OURS)["row_id"][0]
    shown = rankmill(home, "why", row_id[:12])
    assert shown.exit_code == 0
    for text in (
        "teacher-1-0528", "temperature 0.6", "https://example.org/q7", "0.750, at least 0.4 asked", "Because 7.",
        "trained on this row", "structure: kept", "repairs first", "FAULT missing [3]", "key key7", "exchange_key mine",
        "contamination: kept (compared with 1 items of bench and 6 held-out queries)",
    ):  # fmt: skip
        assert text in shown.output
    assert json.loads(rankmill(home, "why", row_id, "--json").output)["ranking_id"] == "math-7"
    page = tmp_path / "row.html"
    assert str(page) in rankmill(home, "why", row_id, "--html", str(page)).output
    assert row_id in page.read_text("utf-8")
    unknown = rankmill(home, "why", "zzz")
    assert (unknown.exit_code, "Traceback" in unknown.output) == (1, False)


def test_retract_shows_first_and_writes_only_with_yes_and_a_reason(home: Path) -> None:
    first, second = names(home)
    with opened(Lake.at(home / "lake")) as lake:
        before = lake.snapshot()
        dry = rankmill(home, "retract", "--query", "math/train3")
        assert dry.exit_code == 0
        for text in (first[:12], second[:12], "math/train3", "first-model", "nothing was written"):
            assert text in dry.output
        assert rankmill(home, "retract", "--query", "math/train3", "--yes").exit_code == 1
        assert lake.snapshot() == before
    card = home / "releases" / second[:12] / "README.md"
    with opened(Lake.at(home / "lake")) as lake:
        write_beside(facts_of(lake, ["math", "web_search"], second), home / "releases", {})
    assert "Retracted" not in card.read_text("utf-8")
    done = rankmill(
        home, "retract", "--query", "math/train3", "--yes", "--reason", "asked to", "--who", "Ann", "--json"
    )
    told = json.loads(done.output)
    assert len(told["rows"]) == 2
    successor = told["done"]["successor"]
    shown = rankmill(home, "lake", "releases", "--json")
    marks = {row["release"]: row["retracted"] for row in json.loads(shown.output)}
    assert marks[successor] == []
    assert all(marks[name] and "by Ann" in marks[name][0] for name in (first, second))
    assert f"(query math/train3): asked to; release {successor[:12]} stands" in card.read_text("utf-8")
    lines = json.loads(rankmill(home, "lake", "diff", second, successor, "--json").output)["rows"]
    assert [(row["why"], row["qid"]) for row in lines] == [("retracted", "train3")]


def test_a_run_on_a_release_that_is_not_there_names_those_there_are_and_makes_nothing(home: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        before = lake.snapshot()
        refused = rankmill(home, "run", "--release", "zzz")
        assert (refused.exit_code, "Traceback" in refused.output) == (1, False)
        assert all(name[:12] in refused.output for name in names(home))
        assert lake.snapshot() == before
    assert not (home / "dagster").exists()


def test_a_run_on_a_retracted_release_says_so_before_anything_is_done(home: Path, tmp_path: Path) -> None:
    second = names(home)[1]
    retracted = rankmill(home, "retract", "--query", "math/train3", "--yes", "--reason", "asked to", "--json")
    successor = json.loads(retracted.output)["done"]["successor"]
    said = {}
    for name in (second, successor):
        # A source that is not there ends the run where the first step would begin.
        ended = rankmill(home, "run", "--release", name[:10], "--sources", str(tmp_path / "nothing"))
        assert (ended.exit_code, "nothing" in ended.output) == (1, True)
        said[name] = f"warning: release {name[:12]} was retracted" in ended.output and "asked to" in ended.output
    assert said == {second: True, successor: False}


@pytest.mark.parametrize("words", [(), ("--source", "a", "--query", "b"), ("--source", "nothing")])
def test_a_retraction_of_nothing_or_of_two_things_is_refused(home: Path, words: tuple[str, ...]) -> None:
    refused = rankmill(home, "retract", *words)
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output


def test_a_home_without_a_lake_is_told_how_to_make_one(tmp_path: Path) -> None:
    for words in (("lake", "releases"), ("lake", "verify"), ("why", "x"), ("retract", "--source", "x")):
        refused = rankmill(tmp_path / "nothing", *words)
        assert (refused.exit_code, "rankmill run" in refused.output) == (1, True)
    assert not (tmp_path / "nothing").exists()


def test_snapshots_name_asset_run_and_code_of_every_commit(home: Path) -> None:
    told = pl.DataFrame(json.loads(rankmill(home, "lake", "snapshots", "--json").output))
    said = told.sort("snapshot_id")["commit_message"].drop_nulls()
    assert said.str.contains(r"^asset=.+ run=.+ code=.+$").all()
    assert said.len() >= told.height - 1  # DuckLake's own first snapshot has none
