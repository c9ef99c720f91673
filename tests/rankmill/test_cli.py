"""The command line as a stranger uses it: real processes' output, exit codes, errors that say what to do."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rankmill.cli import app

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
COMMANDS = ("run", "ui", "leaderboard", "score", "rerank", "doctor", "lake snapshots", "lake query")


def rankmill(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options become variables of this process; every test starts and ends without them."""
    for name in (
        "RANKMILL_HOME",
        "RANKMILL_PROFILE",
        "RANKMILL_BENCHMARK_FOLDERS",
        "RANKMILL_BUDGET_USD",
        "DAGSTER_HOME",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = rankmill(*command.split(), "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_score_prints_one_object_with_the_names_of_ir_measures(tmp_path: Path) -> None:
    (tmp_path / "run").write_text('q1 Q0 a/"b" 1 2.0 t\nq1 Q0 c 2 1.0 t\n', "utf-8")
    (tmp_path / "qrels").write_text('q1 0 a/"b" 1\nq2 0 x 1\n', "utf-8")
    result = rankmill("score", "--run", str(tmp_path / "run"), "--qrels", str(tmp_path / "qrels"), "--json")
    assert json.loads(result.output) == {"nDCG@10": 0.5, "R@10": 0.5, "R@100": 0.5, "RR": 0.5, "AP": 0.5, "queries": 2}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside this checkout")
@pytest.mark.parametrize(
    ("name", "run", "expected"),
    [
        ("bright_runs/biology", "reasonir_gpt4cot_top50.trec", 0.4349),
        ("bright_runs/economics", "reasonir_gpt4cot_top50.trec", 0.3265),
        ("bright_runs/robotics", "reasonir_gpt4cot_top50.trec", 0.2082),
        ("bright_runs/sustainable_living", "reasonir_gpt4cot_top50.trec", 0.2734),
        ("bright_runs/leetcode", "reasonir_gpt4cot_top50.trec", 0.3168),
        ("bright_runs/theoremqa_theorems", "reasonir_gpt4cot_top50.trec", 0.3668),
        ("trec_dl19", "bm25_top100.trec", 0.5058),
        ("noveleval", "google_top20.trec", 0.6503),
    ],
)
def test_score_gives_the_published_value_of_a_public_run(name: str, run: str, expected: float) -> None:
    folder = SHARED / name
    result = rankmill("score", "--run", str(folder / run), "--qrels", str(folder / "qrels.tsv"), "--json")
    assert json.loads(result.output)["nDCG@10"] == pytest.approx(expected, abs=5e-5)


def test_a_broken_run_file_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q1 Q0 a 1 2.0 t\nq1 Q0 b one 1.0 t\n", "utf-8")
    (tmp_path / "qrels").write_text("q1 0 a 1\n", "utf-8")
    result = rankmill("score", "--run", str(tmp_path / "run"), "--qrels", str(tmp_path / "qrels"))
    assert result.exit_code == 1
    assert "run:2" in result.output
    assert "Traceback" not in result.output


def test_a_run_of_another_collection_is_doubted_when_its_query_ids_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("1 Q0 a 1 2.0 t\n", "utf-8")
    for judged, doubted in (("b", True), ("a", False)):
        (tmp_path / "qrels").write_text(f"1 0 {judged} 1\n", "utf-8")
        result = rankmill("score", "--run", str(tmp_path / "run"), "--qrels", str(tmp_path / "qrels"))
        assert result.exit_code == 0
        assert ("no passage of" in result.stderr) == doubted


def test_an_unknown_measure_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q1 Q0 a 1 2.0 t\n", "utf-8")
    (tmp_path / "qrels").write_text("q1 0 a 1\n", "utf-8")
    paths = ("--run", str(tmp_path / "run"), "--qrels", str(tmp_path / "qrels"))
    result = rankmill("score", *paths, "--measures", "nDCG10")
    assert result.exit_code == 1
    assert "nDCG@k" in result.output


def test_an_empty_home_says_how_to_fill_it(tmp_path: Path) -> None:
    for words in (("leaderboard",), ("lake", "snapshots"), ("lake", "query", "SELECT 1")):
        result = rankmill(*words, "--home", str(tmp_path / "home"))
        assert result.exit_code == 1
        assert "rankmill run" in result.output
    assert not (tmp_path / "home").exists()


def test_the_leaderboard_of_an_empty_home_is_an_empty_list_for_a_program(tmp_path: Path) -> None:
    assert json.loads(rankmill("leaderboard", "--json", "--home", str(tmp_path)).output) == []


def test_doctor_finds_this_machine_ready_and_speaks_json(tmp_path: Path) -> None:
    result = rankmill("doctor", "--json", "--home", str(tmp_path))
    findings = json.loads(result.output)
    assert {"what", "ok", "detail", "remedy"} == set(findings[0])
    assert [finding for finding in findings if not finding["ok"]] == []


def test_doctor_names_the_mend_for_a_source_that_is_gone(tmp_path: Path) -> None:
    lines = "sources:\n- {domain: gone, kind: folder, location: /nowhere/gone, limit: null}\n"
    (tmp_path / "sources.yaml").write_text(lines, "utf-8")
    result = rankmill("doctor", "--home", str(tmp_path))
    assert result.exit_code == 1
    assert "FAIL source gone" in result.output
    assert "rankmill run --sources" in result.output


@pytest.mark.parametrize("folder", sorted(path.name for path in (ROOT / "tests" / "bad_folders").iterdir()))
def test_a_bad_source_folder_stops_a_run_with_a_clear_error_and_leaves_no_row(folder: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    result = rankmill("run", "--sources", str(ROOT / "tests" / "bad_folders" / folder), "--home", str(home))
    assert result.exit_code == 1
    assert "SourceError" in result.output
    for line in (ROOT / "tests" / "bad_folders" / folder / "expected.txt").read_text("utf-8").splitlines():
        assert line in result.output
    assert "Traceback" not in result.output
    assert not (home / "lake").exists()
    assert not (home / "sources.yaml").exists()


def test_a_refused_source_leaves_the_active_ones_as_they_were(tmp_path: Path) -> None:
    kept = "benchmarks: []\nsources:\n- {domain: gone, kind: folder, location: /nowhere/gone, limit: null}\n"
    (tmp_path / "sources.yaml").write_text(kept, "utf-8")
    result = rankmill("run", "--sources", str(ROOT / "tests" / "bad_folders" / "wrong_type"), "--home", str(tmp_path))
    assert result.exit_code == 1
    assert (tmp_path / "sources.yaml").read_text("utf-8") == kept


def test_a_source_without_held_out_queries_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "all_train"
    folder.mkdir()
    (folder / "queries.jsonl").write_text('{"qid": "q1", "text": "why is the sky blue", "split": "train"}\n', "utf-8")
    (folder / "passages.jsonl").write_text('{"docid": "d1", "text": "scattering of light"}\n', "utf-8")
    (folder / "qrels.tsv").write_text("q1 0 d1 1\n", "utf-8")
    result = rankmill("run", "--sources", str(folder), "--home", str(tmp_path / "home"))
    assert result.exit_code == 1
    assert "split dev or test" in result.output


def test_a_source_that_is_not_there_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    result = rankmill("run", "--sources", str(tmp_path / "nothing"), "--home", str(tmp_path / "home"))
    assert result.exit_code == 1
    assert "there is no such folder" in result.output
    assert not (tmp_path / "home" / "lake").exists()


def test_an_unknown_recipe_names_those_there_are(tmp_path: Path) -> None:
    result = rankmill("run", "--recipe", "reasonrang", "--home", str(tmp_path / "home"))
    assert result.exit_code == 1
    assert "Recipes: direct-point, erank, first, rank-r1, reasonrank, reasonrank-direct" in result.output


def test_a_run_with_a_real_teacher_is_refused_without_a_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    result = rankmill("run", "--profile", "api", "--home", str(tmp_path / "home"))
    assert result.exit_code == 1
    assert "--budget-usd" in result.output
    assert not (tmp_path / "home").exists()


def test_what_a_real_teacher_would_cost_is_told_for_a_new_source_without_key_or_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = tmp_path / "sky"
    folder.mkdir()
    queries = [{"qid": f"q{i}", "text": f"why is the sky blue {i}", "split": "test" if i else "train"} for i in (0, 1)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries), "utf-8")
    passages = [{"docid": f"d{i}", "text": f"scattering of light {i}"} for i in range(4)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages), "utf-8")
    (folder / "qrels.tsv").write_text("q0 0 d1 1\nq1 0 d2 1\n", "utf-8")
    told = rankmill("estimate", "--profile", "api", "--sources", str(folder), "--home", str(tmp_path / "home"))
    assert told.exit_code == 0, told.output
    assert "USD" in told.output and "no model is called sky" not in told.output


def test_the_lake_cannot_be_written_from_the_command_line(tmp_path: Path) -> None:
    from warehouse.lake import Lake

    Lake.at(tmp_path / "lake").snapshot()
    for sql in ("DELETE FROM queries", "SELECT 1; SELECT 2", "CREATE TABLE mine (a INT)", "COPY queries TO 'x.csv'"):
        result = rankmill("lake", "query", sql, "--home", str(tmp_path))
        assert result.exit_code == 1
        assert "only one SELECT" in result.output
