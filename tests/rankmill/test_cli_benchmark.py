"""`rankmill benchmark` as it is used: a first stage and a toy model on a folder, kept in the lake, beside others."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path

import pytest
from toy_checkpoint import make_checkpoint, write_lists, write_profile
from typer.testing import CliRunner, Result

from rankmill.cli import app

QUERIES = 6


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, the profile that fits it, and a benchmark of six queries whose relevant passage is drawn."""
    folder = tmp_path_factory.mktemp("toy")
    make_checkpoint(folder / "checkpoint")
    write_profile(folder / "toy.yaml")
    bench = folder / "small"
    bench.mkdir()
    write_lists(bench, QUERIES)
    draw = random.Random(1)
    judged = [f"q{n} 0 d{n}-{draw.randint(1, 6)} 1\n" for n in range(QUERIES)]
    (bench / "qrels.tsv").write_text("".join(judged))
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANKMILL_HOME", "RANKMILL_PROFILE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def benchmark(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["benchmark", *words, "--home", str(home)])


def test_a_model_stands_beside_its_first_stage_and_is_scored_as_its_run_file_is(toy: Path, tmp_path: Path) -> None:
    words = (
        "run",
        str(toy / "small"),
        "--model",
        str(toy / "checkpoint"),
        "--profile",
        str(toy / "toy.yaml"),
        "--json",
    )
    done = benchmark(tmp_path, *words)
    assert done.exit_code == 0, done.output
    first, model = json.loads(done.stdout)
    assert first["system"] == "given run (first stage)" and first["model"] == ""
    assert (model["queries"], model["setting"]["not_reranked"]) == (QUERIES, 0)
    assert model["setting"]["depth"] == first["setting"]["depth"] == 6
    assert model["run_sha256"] != first["run_sha256"]
    for row in (first, model):
        scored = CliRunner().invoke(
            app, ["score", "--run", str(tmp_path / row["run"]), "--qrels", str(toy / "small" / "qrels.tsv"), "--json"]
        )
        assert json.loads(scored.stdout)["nDCG@10"] == pytest.approx(row["measures"]["nDCG@10"], abs=1e-12)
    again = json.loads(benchmark(tmp_path, *words).stdout)
    assert [row["run_sha256"] for row in again] == [first["run_sha256"], model["run_sha256"]]
    kept = json.loads(benchmark(tmp_path, "scores", "--json").stdout)
    assert sorted(row["model"] for row in kept) == sorted(["", model["model"]])
    assert {row["model"]: row["measures"] for row in kept}[model["model"]] == model["measures"]
    assert "given run (first stage)" in benchmark(tmp_path, "scores").stdout


def test_without_a_run_bm25_ranks_and_what_a_query_excludes_is_no_candidate(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "passages.jsonl").write_text(
        "".join(f'{{"docid": "d{n}", "text": "cells divide {n}"}}\n' for n in range(3))
        + '{"docid": "x", "text": "stars"}\n'
    )
    (folder / "queries.jsonl").write_text(
        '{"qid": "q", "text": "nothing here", "retrieval_text": "how cells divide", "excluded_docids": ["d0"]}\n'
    )
    (folder / "qrels.tsv").write_text("q 0 d1 1\nq 0 x 1\n")
    done = benchmark(tmp_path / "home", "run", str(folder), "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["system"] == "bm25 (first stage)" and row["setting"]["query_retrieved"] == "retrieval_text"
    ranked = [line.split()[2] for line in (tmp_path / "home" / row["run"]).read_text().splitlines()]
    assert sorted(ranked) == ["d1", "d2"]


def test_a_folder_that_holds_a_registered_part_stands_beside_what_was_published(toy: Path, tmp_path: Path) -> None:
    done = benchmark(tmp_path, "run", str(toy / "small"), "--as", "BRIGHT/biology")
    assert done.exit_code == 0, done.output
    assert "ReasonRank 32B" in done.stdout and "0.5817" in done.stdout and "published (ReasonRank" in done.stdout
    listed = CliRunner().invoke(app, ["benchmark", "list", "--json"])
    assert "BRIGHT" in [one["name"] for one in json.loads(listed.stdout)]


def test_what_cannot_be_measured_is_refused_with_what_can(tmp_path: Path) -> None:
    unknown = benchmark(tmp_path, "run", "NoSuch")
    assert (unknown.exit_code, "Known: BEIR/" in unknown.output, "Traceback" in unknown.output) == (1, True, False)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "qrels.tsv").write_text("q 0 d 1\n")
    bare = benchmark(tmp_path, "run", str(tmp_path / "bare"))
    assert (bare.exit_code, "Give a run with --run" in bare.output) == (1, True)


def test_the_teacher_is_measured_over_its_endpoint_and_costs_nothing_the_second_time(toy: Path, tmp_path: Path) -> None:
    profile = tmp_path / "short.yaml"
    decoders = "{sliding_window: {window: 3, step: 2, top: 6, max_new_tokens: 60}, pointwise_logits: {top: 6}}"
    profile.write_text(f"extends: offline\ndescription: Short lists.\nrecipe: {{decoding: {decoders}}}\n")
    words = ("run", str(toy / "small"), "--model", "teacher", "--profile", str(profile), "--json",
             "--recipe", "reasonrank-direct", "--passage-tokens", "12")  # fmt: skip
    done = benchmark(tmp_path, *words)
    assert done.exit_code == 0, done.output
    first, teacher = json.loads(done.stdout)
    assert teacher["system"] == "reasonrank-direct: teacher stand-in-teacher"
    assert teacher["model"] == "endpoint:stand-in-teacher" and teacher["queries"] == QUERIES
    assert (teacher["setting"]["engine"], teacher["setting"]["malformed"]) == ("stand-in", {})
    with sqlite3.connect(tmp_path / "exchanges.sqlite") as store:
        bought = store.execute("SELECT count(*) FROM spend").fetchone()[0]
    # By files, and by another decoder that reads log-probabilities.
    out = tmp_path / "again.trec"
    files = ("--run", str(tmp_path / first["run"]), "--queries", str(toy / "small" / "queries.jsonl"),
             "--passages", str(toy / "small" / "passages.jsonl"), "--out", str(out))  # fmt: skip
    asked = ("rerank", "--model", "teacher", "--profile", str(profile), "--home", str(tmp_path), *files)
    by_words = CliRunner().invoke(app, [*asked, "--recipe", "direct-point"])
    assert by_words.exit_code == 0, by_words.output
    assert "0.0 % malformed" in by_words.stdout and "the answers cost $0.0000" in by_words.stdout
    assert len(out.read_text().splitlines()) == QUERIES * 6
    again = json.loads(benchmark(tmp_path, *words).stdout)
    assert again[1]["run_sha256"] == teacher["run_sha256"]
    with sqlite3.connect(tmp_path / "exchanges.sqlite") as store:
        assert store.execute("SELECT count(*) FROM spend").fetchone()[0] == bought + QUERIES * 6
    served = CliRunner().invoke(app, ["serve", "--model", "teacher", "--home", str(tmp_path)])
    assert served.exit_code == 1 and "served by its own endpoint" in served.output
