"""`rankmill benchmark` as it is used: a first stage and a toy model on a folder, kept in the lake, beside others."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from pathlib import Path

import pytest
import yaml
from toy_checkpoint import PROFILE, make_checkpoint, write_lists, write_profile
from typer.testing import CliRunner, Result

from rankmill.cli import app
from warehouse.benchmarks.registry import load_benchmark

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
    assert first["system"] == "given run in.trec (first stage)" and first["model"] == ""
    assert (model["queries"], model["setting"]["not_reranked"]) == (QUERIES, 0)
    assert model["setting"]["depth"] == first["setting"]["depth"] == 6
    assert model["run_sha256"] != first["run_sha256"]
    for row in (first, model):
        scored = CliRunner().invoke(
            app, ["score", "--run", str(tmp_path / row["run"]), "--qrels", str(toy / "small" / "qrels.tsv"), "--json"]
        )
        assert json.loads(scored.stdout)["nDCG@10"] == pytest.approx(row["measures"]["nDCG@10"], abs=1e-12)
    assert first["versus"] is first["costs"] is None
    beside, took = model["versus"], model["costs"]
    assert beside["difference"] == pytest.approx(model["measures"]["nDCG@10"] - first["measures"]["nDCG@10"])
    assert beside["wins"] + beside["ties"] + beside["losses"] == QUERIES and 0 < beside["p"] == beside["p_holm"] <= 1
    assert (took["calls_per_query"], took["depth_per_query"]) == (3, 3)  # six passages in windows of three by two
    assert took["input_tokens_per_query"] > took["output_tokens_per_query"] > 0 < took["seconds_p50"]
    assert took["usd_per_query"] is took["cached_tokens_per_query"] is None
    told = model["setting"]
    assert (told["window"], told["repeats"], told["think"], told["fusion"]) == (3, 1, False, "none")
    assert told["engine_version"] and len(told["prompt_sha256"]) == len(told["recipe_sha256"]) == 64
    again = json.loads(benchmark(tmp_path, *words).stdout)
    assert [row["run_sha256"] for row in again] == [first["run_sha256"], model["run_sha256"]]
    kept = json.loads(benchmark(tmp_path, "scores", "--json").stdout)
    assert sorted(row["model"] for row in kept) == sorted(["", model["model"]])
    assert {row["model"]: row["measures"] for row in kept}[model["model"]] == model["measures"]
    assert "given run in.trec" in benchmark(tmp_path, "scores").stdout


def test_another_run_is_another_first_stage_and_keeps_a_row_of_its_own(toy: Path, tmp_path: Path) -> None:
    lines = (toy / "small" / "in.trec").read_text("utf-8").splitlines()
    other = tmp_path / "other" / "in.trec"
    other.parent.mkdir()
    turned = [line.split() for line in lines]
    other.write_text("".join(f"{q} Q0 {d} {7 - int(r)} {r} turned\n" for q, _, d, r, *_ in turned), "utf-8")
    registry = tmp_path / "small.yaml"
    words = {"name": "small", "description": "A toy.", "license": "CC0-1.0", "bring": "the folder", "passage_tokens": 8}
    registry.write_text(yaml.safe_dump(words | {"first_stage": "other/in.trec"}), "utf-8")
    (ours,) = json.loads(benchmark(tmp_path / "home", "run", str(toy / "small"), "--json").stdout)
    (theirs,) = json.loads(
        benchmark(tmp_path / "home", "run", str(toy / "small"), "--run", str(other), "--json").stdout
    )
    assert ours["system"] == theirs["system"] and ours["setting"]["first_stage"] != theirs["setting"]["first_stage"]
    kept = json.loads(benchmark(tmp_path / "home", "scores", "--json").stdout)
    assert [row["setting"]["first_stage"] for row in kept] == [one["setting"]["first_stage"] for one in (ours, theirs)]
    for row in kept:
        assert hashlib.sha256((tmp_path / "home" / row["run"]).read_bytes()).hexdigest() == row["run_sha256"]
    # The registry may name the run, from its own folder.
    assert load_benchmark(registry).run_of("small") == other


@pytest.fixture(scope="module")
def fused(toy: Path) -> Path:
    """The toy's profile with a recipe that fuses."""
    return fusing(toy / "fused.yaml", 0.25)


def fusing(path: Path, weight: float | str) -> Path:
    profile = PROFILE | {"recipe": PROFILE["recipe"] | {"fusion": {"name": "rrf", "weight": weight}}}  # type: ignore[operator]
    path.write_text(yaml.safe_dump(profile), "utf-8")
    return path


def test_a_recipe_that_fuses_is_reported_as_it_is_and_fused(toy: Path, fused: Path, tmp_path: Path) -> None:
    model = ("run", str(toy / "small"), "--model", str(toy / "checkpoint"), "--json", "--profile")
    first, alone, both = json.loads(benchmark(tmp_path, *model, str(fused)).stdout)
    assert (alone["setting"]["fusion"], both["setting"]["fusion"]) == ("none", "rrf, 0.25 of it the model's")
    assert both["system"] == f"{alone['system']} + rrf" and both["costs"] == alone["costs"]
    places = [ranks(tmp_path / row["run"]) for row in (first, alone, both)]
    for qid, ours in places[1].items():
        worth = {docid: 0.25 / (60 + ours[docid]) + 0.75 / (60 + place) for docid, place in places[0][qid].items()}
        expected = sorted(worth, key=lambda docid: (-worth[docid], ours[docid]))
        assert sorted(places[2][qid], key=places[2][qid].__getitem__) == expected
    # A weight that is chosen on dev is never chosen on what it is reported on.
    undecided = benchmark(tmp_path, *model, str(fusing(tmp_path / "dev.yaml", "dev")))
    assert len(json.loads(undecided.stdout)) == 2 and "no leaderboard of this home chose one" in undecided.stderr


def ranks(run: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for line in run.read_text("utf-8").splitlines():
        qid, _, docid, rank, *_ = line.split()
        found.setdefault(qid, {})[docid] = int(rank)
    return found


def test_a_cascade_is_one_model_after_the_other_and_stands_there_as_one(toy: Path, tmp_path: Path) -> None:
    small, profile = str(toy / "checkpoint"), str(tmp_path / "six.yaml")
    deeper = PROFILE["recipe"] | {"decoding": PROFILE["recipe"]["decoding"] | {"top": 6}}  # type: ignore[operator,index]
    Path(profile).write_text(yaml.safe_dump(PROFILE | {"recipe": deeper}), "utf-8")
    done = benchmark(tmp_path, "run", str(toy / "small"), "--model", small, "--then", small, "--keep", "3",
                     "--profile", profile, "--passage-tokens", "8", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    first, cascade = json.loads(done.stdout)
    assert cascade["setting"]["then"]["keep"] == 3 and ", then " in cascade["system"]
    assert cascade["costs"]["calls_per_query"] == 4  # three windows, and one over the front
    # By hand: the first model over everything, the second over the three that it has put in front.
    texts = ("--queries", str(toy / "small" / "queries.jsonl"), "--passages", str(toy / "small" / "passages.jsonl"))
    asked = ("rerank", "--model", small, "--profile", profile, "--home", str(tmp_path), *texts)
    runs = [tmp_path / f"{name}.trec" for name in ("one", "front", "two")]
    assert (
        CliRunner().invoke(app, [*asked, "--run", str(tmp_path / first["run"]), "--out", str(runs[0])]).exit_code == 0
    )
    front = [line for line in runs[0].read_text("utf-8").splitlines() if int(line.split()[3]) <= 3]
    runs[1].write_text("\n".join(front) + "\n", "utf-8")
    assert CliRunner().invoke(app, [*asked, "--run", str(runs[1]), "--out", str(runs[2])]).exit_code == 0
    one, two, made = ranks(runs[0]), ranks(runs[2]), ranks(tmp_path / cascade["run"])
    assert made == {qid: {docid: two[qid].get(docid, place) for docid, place in one[qid].items()} for qid in one}
    assert made != one
    # The command over files is the same, and asks nothing anew.
    out = tmp_path / "cascade.trec"
    by_files = CliRunner().invoke(
        app, [*asked, "--then", small, "--keep", "3", "--run", str(tmp_path / first["run"]), "--out", str(out)]
    )
    assert f"{QUERIES} queries, {QUERIES} of them kept from before, {4 * QUERIES} calls" in by_files.stdout
    assert ranks(out) == made


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
