"""The main job on a few queries, for real: HTTP, training, evaluation; killed once, run again, run thrice."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "assets"))

from column_values import COPIED, strangers, values

from warehouse.lake import Lake, opened

ROOT = Path(__file__).resolve().parents[2]
TINY = """
extends: offline
description: A few queries, one step of everything.
evaluation: {queries_per_domain: 2, resamples: 200, teacher: true}
recipe:
  objective: {cross_entropy: {batch: 2, max_steps: 1}}
  sampling: {grpo: {prompts: 1, rollouts: 2, batch: 2, updates: 1, max_completion_tokens: 12, max_steps: 1}}
  decoding: {sliding_window: {window: 4, step: 2, top: 4, max_new_tokens: 12}}
"""


def rankmill(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankmill.cli", *words, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=home.parent)


def answers(home: Path) -> int:
    store = home / "exchanges.sqlite"
    if not store.is_file():
        return 0
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM exchanges").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose first run was killed with -9 while it labelled, and whose second ran to the end."""
    folder = tmp_path_factory.mktemp("mill")
    profile = folder / "tiny.yaml"
    profile.write_text(TINY, "utf-8")
    home = folder / "home"
    words = ["run", "--profile", str(profile), "--limit", "24", "--home", str(home)]
    first = subprocess.Popen(
        [sys.executable, "-m", "rankmill.cli", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while answers(home) < 40 and first.poll() is None:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (folder / "killed_at").write_text(str(answers(home)), "utf-8")
    second = subprocess.run(
        [sys.executable, "-m", "rankmill.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    (folder / "second.txt").write_text(second.stdout + second.stderr, "utf-8")
    assert second.returncode == 0, second.stdout[-2000:] + second.stderr[-4000:]
    yield home
    shutil.rmtree(home / "models")


def query(home: Path, sql: str) -> list[dict]:
    result = rankmill(home, "lake", "query", sql, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_teacher_stands_on_the_board_with_what_its_calls_took(home: Path) -> None:
    calls = query(
        home,
        "SELECT model, count(*) AS calls, sum(usd) AS usd, CAST(sum(prompt_tokens) AS BIGINT) AS tokens "
        "FROM rerank_calls WHERE stage = 'teacher' GROUP BY model",
    )
    assert [row["model"] for row in calls] == ["stand-in-teacher"]
    assert calls[0]["calls"] > 0 and calls[0]["tokens"] > 0 == calls[0]["usd"]
    told = query(home, "SELECT DISTINCT engine, engine_version, template FROM run_settings WHERE stage = 'teacher'")
    assert [(row["engine"], row["template"]) for row in told] == [("stand-in", "rank_student")]
    assert "stand-in-lexical" in told[0]["engine_version"]
    assert query(home, "SELECT model FROM promotions WHERE model = 'stand-in-teacher'") == []
    page = (home / "reports" / "leaderboard.html").read_text("utf-8")
    assert "<code>stand-in-teacher</code>" in page


def test_a_killed_label_campaign_goes_on_and_pays_for_nothing_twice(home: Path) -> None:
    assert int((home.parent / "killed_at").read_text("utf-8")) >= 40
    with sqlite3.connect(home / "exchanges.sqlite") as connection:
        bought = connection.execute("SELECT count(*), count(DISTINCT key) FROM spend WHERE kind = 'answer'").fetchone()
        stored = connection.execute("SELECT count(*) FROM exchanges").fetchone()
    assert bought[0] == bought[1] == stored[0]


def test_the_run_ends_with_leaderboard_report_and_the_way_to_the_ui(home: Path) -> None:
    told = (home.parent / "second.txt").read_text("utf-8")
    assert "leaderboard" in told
    assert "rankmill ui" in told
    for name in ("leaderboard.html", "data_quality.html"):
        assert str(home / "reports" / name) in told
        assert "</html>" in (home / "reports" / name).read_text("utf-8")
    board = (home / "reports" / "leaderboard.html").read_text("utf-8")
    assert board.count("<summary><b>vLLM</b></summary><pre>vllm serve ") == 2  # of the sft and of the rl model


def test_every_stage_of_every_domain_stands_on_the_leaderboard(home: Path) -> None:
    rows = json.loads(rankmill(home, "leaderboard", "--json").stdout)
    assert {(row["domain"], row["stage"]) for row in rows} == {
        (domain, stage)
        for domain in ("coding", "complex_qa", "math", "web_search", "all")
        for stage in ("bm25", "teacher", "base", "sft", "rl")
    }
    for row in rows:
        assert {"recipe", "fused", "nDCG@10", "R@10", "R@100", "RR", "AP", "malformed_rate"} <= row.keys()
        assert 0 <= row["low"] <= row["nDCG@10"] <= row["high"] <= 1


def test_from_a_leaderboard_row_one_gets_to_prompt_and_licence(home: Path) -> None:
    row = next(r for r in json.loads(rankmill(home, "leaderboard", "--json").stdout) if r["stage"] == "rl")
    model = query(home, f"SELECT * FROM models WHERE model = '{row['model']}'")[0]
    assert Path(home, model["path"], "model.safetensors").is_file()
    trained = query(home, f"SELECT * FROM training_rows WHERE release = '{model['release']}' AND split = 'rl'")[0]
    asked = query(home, f"SELECT * FROM exchanges WHERE key = '{trained['exchange_key']}'")[0]
    assert asked["served_model"] == trained["judge"] == "stand-in-teacher"
    assert asked["prompt_sha256"] == trained["prompt_sha256"]
    assert asked["reasoning"] == trained["reasoning"]
    assert trained["license"] in ("MIT", "CC0-1.0")


def test_no_column_holds_a_value_that_its_lineage_does_not_explain(home: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        assert {copied: found for copied in COPIED if (found := strangers(lake, *copied))} == {}
        empty = {copied for copied in COPIED if not values(lake, *copied)}
    assert empty == {("training_set", "agreement"), ("training_set", "url")}  # one sample a list, and no addresses


def test_no_check_failed_and_every_asset_was_checked(home: Path) -> None:
    rows = query(home, "SELECT asset, rows_in, rows_out, rows_rejected FROM materializations")
    assert len({row["asset"] for row in rows}) == 17
    assert all(row["rows_in"] == row["rows_out"] + row["rows_rejected"] for row in rows)
    assert "FAILED" not in (home.parent / "second.txt").read_text("utf-8")


def test_a_run_with_nothing_changed_makes_nothing(home: Path) -> None:
    before = query(home, "SELECT asset, partition_key, run_id, created_at FROM materializations ORDER BY ALL")
    snapshots = rankmill(home, "lake", "snapshots", "--json").stdout
    again = rankmill(home, "run", "--profile", str(home.parent / "tiny.yaml"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert query(home, "SELECT asset, partition_key, run_id, created_at FROM materializations ORDER BY ALL") == before
    assert rankmill(home, "lake", "snapshots", "--json").stdout == snapshots


def test_a_trained_model_reranks_files_with_the_command_line(home: Path) -> None:
    domain = ROOT / "seed" / "web_search"
    qid = json.loads((domain / "queries.jsonl").read_text("utf-8").splitlines()[0])["qid"]
    docids = [json.loads(line)["docid"] for line in (domain / "passages.jsonl").read_text("utf-8").splitlines()[:6]]
    run, out = home.parent / "in.trec", home.parent / "out.trec"
    run.write_text("".join(f"{qid} Q0 {d} {r} {10 - r} bm25\n" for r, d in enumerate(docids, 1)), "utf-8")
    files = (
        "--run",
        str(run),
        "--queries",
        str(domain / "queries.jsonl"),
        "--passages",
        str(domain / "passages.jsonl"),
    )
    result = rankmill(
        home,
        "rerank",
        "--model",
        "reasonrank/rl",
        *files,
        "--out",
        str(out),
        "--profile",
        str(home.parent / "tiny.yaml"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    written = [line.split() for line in out.read_text("utf-8").splitlines()]
    assert sorted(fields[2] for fields in written) == sorted(docids)
    assert [int(fields[3]) for fields in written] == list(range(1, 7))
