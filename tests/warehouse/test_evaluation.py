"""Evaluation: which queries are held out, what a reranker reads of them, and runs of all stages scored alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_lake import message

from warehouse.evaluation import (
    FIRST_STAGE,
    PROBE,
    Reranked,
    Runs,
    candidate_texts,
    collect,
    held_out,
    keep_candidates,
    score,
    student_of,
    twin_stage,
)
from warehouse.fusing import Fusion
from warehouse.lake import Lake, Replace

QUERY = {"domain": pl.String, "qid": pl.String, "text": pl.String, "split": pl.String}
QRELS = {"domain": pl.String, "qid": pl.String, "docid": pl.String, "grade": pl.Int64}


def queries(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame([(d, q, f"Text of {q}", s) for d, q, s in rows], schema=QUERY, orient="row")


def judged(*rows: tuple[str, str], grade: int = 1) -> pl.DataFrame:
    return pl.DataFrame([(d, q, "d1", grade) for d, q in rows], schema=QRELS, orient="row")


def test_the_test_split_is_held_out_where_there_is_one_and_else_dev() -> None:
    asked = queries(("a", "1", "test"), ("a", "2", "dev"), ("a", "3", "train"), ("b", "1", "dev"), ("b", "2", "train"))
    chosen = held_out(asked, judged(*asked.select("domain", "qid").rows()), None, 0)
    assert chosen.rows() == [("a", "1", "Text of 1", "test"), ("b", "1", "Text of 1", "dev")]


def test_a_query_counts_only_with_a_relevant_passage() -> None:
    asked = queries(("a", "1", "test"), ("a", "2", "test"), ("a", "3", "dev"))
    qrels = pl.concat([judged(("a", "2"), ("a", "3"), ("b", "1")), judged(("a", "1"), grade=0)])
    assert held_out(asked, qrels, None, 0)["qid"].to_list() == ["2"]
    only_dev = judged(("a", "3"))
    assert held_out(asked, only_dev, None, 0)["qid"].to_list() == ["3"]


@given(count=st.integers(1, 40), limit=st.integers(1, 50), seed=st.integers(0, 5))
def test_the_choice_is_stable_when_queries_are_added(count: int, limit: int, seed: int) -> None:
    rows = [(domain, f"q{n}", "dev") for domain in ("a", "b") for n in range(count + 10)]
    many = queries(*rows)
    few = many.filter(pl.col("qid").is_in([f"q{n}" for n in range(count)]))
    qrels = judged(*many.select("domain", "qid").rows())
    before, after = held_out(few, qrels, limit, seed), held_out(many, qrels, limit, seed)
    assert before.group_by("domain").len()["len"].to_list() == [min(limit, count)] * 2
    # An added query may push out another, and no query that was left out comes back.
    assert after.join(few, on=["domain", "qid"], how="semi").join(before, on=["domain", "qid"], how="anti").is_empty()
    shuffled = few.sample(fraction=1.0, shuffle=True, seed=1)
    assert held_out(shuffled, qrels, limit, seed).equals(before)


def test_candidates_come_with_both_texts_best_first() -> None:
    found = pl.DataFrame(
        [("a", "1", "d2", 2, 1.0), ("a", "1", "d1", 1, 2.0), ("a", "9", "d1", 1, 2.0)],
        schema=["domain", "qid", "docid", "rank", "score"], orient="row",
    )  # fmt: skip
    texts = pl.DataFrame(
        [("a", "d1", "Title", "Text."), ("a", "d2", None, "Bare."), ("b", "d1", "Wrong", "domain")],
        schema=["domain", "docid", "title", "text"], orient="row",
    )  # fmt: skip
    assert candidate_texts(queries(("a", "1", "dev")), found, texts).select(
        "query", "docid", "rank", "text"
    ).rows() == [
        ("Text of 1", "d1", 1, "Title. Text."),
        ("Text of 1", "d2", 2, "Bare."),
    ]


def test_a_query_without_a_run_scores_nothing_and_still_counts() -> None:
    run = pl.DataFrame(
        [("a", "1", "d0", 1, 2.0), ("a", "1", "d1", 2, 1.0)],
        schema=["domain", "qid", "docid", "rank", "score"], orient="row",
    )  # fmt: skip
    values = score(run, judged(("a", "1"), ("a", "2"))).filter(pl.col("measure") == "RR").sort("qid")
    assert values.select("qid", "value").rows() == [("1", 0.5), ("2", 0.0)]


def a_run(*docids: str) -> pl.DataFrame:
    rows = [("a", "1", docid, rank, float(-rank)) for rank, docid in enumerate(docids, start=1)]
    return pl.DataFrame(rows, schema=["domain", "qid", "docid", "rank", "score"], orient="row")


def test_candidates_are_kept_once_under_a_name_that_follows_from_their_content(tmp_path: Path) -> None:
    path, digest = keep_candidates(a_run("d0", "d1"), tmp_path / "runs")
    stamp = path.stat().st_mtime_ns
    assert keep_candidates(a_run("d0", "d1").reverse(), tmp_path / "runs") == (path, digest)
    assert path.stat().st_mtime_ns == stamp
    assert keep_candidates(a_run("d1", "d0"), tmp_path / "runs")[0] != path
    assert pl.read_parquet(path).equals(a_run("d0", "d1"))
    assert len(list((tmp_path / "runs").iterdir())) == 2


FOLDS = pl.DataFrame({"domain": ["a", "a"], "qid": ["1", "2"], "fold": ["half 1", "half 2"]})
SETTINGS = {
    "first_stage": "bm25 over title and text", "query_retrieved": "text", "query_reranked": "text",
    "decoder": "sliding_window", "decoding": '{"window": 2}', "window_size": 2, "passage_tokens": 64,
    "temperature": 0.0, "repeats": 1, "think": True, "template": "rank_student", "prompt_sha256": "prompt",
    "highest_score": None, "recipe_sha256": "recipe",
}  # fmt: skip


def reranked(folder: Path, *faults: str | None, **told: object) -> Reranked:
    """A reranking that has put d1 in front, with a call a fault."""
    a_run("d1", "d0").with_columns(value=pl.lit(None, dtype=pl.Float64)).write_parquet(folder / "run.parquet")
    calls = [
        {"domain": "a", "qid": "1", "round": turn, "docids": ["d0", "d1"], "completion": "[2] > [1]", "fault": fault,
         "prompt_tokens": 10, "completion_tokens": 5, "seconds": 0.5, "prompt_hash": "prompt", **told}
        for turn, fault in enumerate(faults, start=1)
    ]  # fmt: skip
    pl.DataFrame(calls, infer_schema_length=None).write_parquet(folder / "calls.parquet")
    return Reranked("sft-1", "model-1", folder, "transformers", "5.19.0", "two threads")


def test_runs_of_all_stages_are_named_and_scored_over_the_same_queries(tmp_path: Path) -> None:
    made = collect(
        "reasonrank",
        SETTINGS,
        a_run("d0", "d1"),
        {"sft": reranked(tmp_path, None)},
        judged(("a", "1"), ("a", "2")),
        FOLDS,
    )
    found = made.scores.filter(pl.col("measure") == "RR").sort("stage", "qid")
    assert found.select("stage", "model", "qid", "value").rows() == [
        (FIRST_STAGE, FIRST_STAGE, "1", 0.5), (FIRST_STAGE, FIRST_STAGE, "2", 0.0),
        ("sft", "model-1", "1", 1.0), ("sft", "model-1", "2", 0.0),
    ]  # fmt: skip
    assert made.calls.select("run", "stage", "messages_sha256").rows() == [("sft-1", "sft", "prompt")]
    assert made.runs.group_by("run").len()["len"].to_list() == [2, 2]


def test_every_score_is_one_join_away_from_what_it_was_measured_with(lake: Lake, tmp_path: Path) -> None:
    for recipe in ("one", "two"):
        answered = reranked(tmp_path, None, "tags", "list", "tags")
        made = collect(
            recipe, SETTINGS, a_run("d0", "d1"), {"sft": answered}, judged(("a", "1")), FOLDS, Fusion("rrf", 0.3)
        )
        writes = [Replace(name, rows, {"recipe": recipe}) for name, rows in made.tables.items()]
        lake.commit(writes, message("benchmark_runs"))
    everything = lake.query("SELECT * FROM scores JOIN run_settings USING (recipe, run)")
    assert everything.height == lake.read("scores").height
    told = everything.filter(recipe="two", measure="RR").select(
        "stage", "first_stage", "query_retrieved", "query_reranked", "window_size", "repeats", "prompt_sha256",
        "fusion", "fusion_weight", "engine", "engine_version", "malformed", "malformed_rate",
    )  # fmt: skip
    ours = ("bm25 over title and text", "text", "text", 2, 1, "prompt")
    faults = json.dumps({"list": 1, "tags": 2})
    assert set(told.rows()) == {
        (FIRST_STAGE, "bm25 over title and text", "text", None, None, None, None, "none", None, None, None, "{}", 0.0),
        ("sft", *ours, "none", None, "transformers", "5.19.0", faults, 0.75),
        ("sft+rrf", *ours, "rrf", 0.3, "transformers", "5.19.0", faults, 0.75),
    }


def test_a_weight_chosen_on_dev_is_kept_with_its_curve_and_spare_queries_are_not_reported(tmp_path: Path) -> None:
    qids = ("1", "2", "3")
    first = pl.concat([a_run("d0", "d1").with_columns(qid=pl.lit(qid)) for qid in qids])
    made = reranked(tmp_path, None)
    for name in ("run", "calls"):
        one = pl.read_parquet(tmp_path / f"{name}.parquet")
        every = pl.concat([one.with_columns(qid=pl.lit(qid)) for qid in qids])
        every.write_parquet(tmp_path / f"{name}.parquet")
    folds = pl.DataFrame({"domain": ["a"] * 3, "qid": qids, "fold": ["test", "test", "spare"]})
    qrels = judged(*(("a", qid) for qid in qids))
    found = collect("r", SETTINGS, first, {"sft": made}, qrels, folds, Fusion("rrf", None))
    assert set(found.runs["qid"]) == set(found.calls["qid"]) == set(found.scores["qid"]) == {"1", "2"}
    assert found.settings.filter(stage="sft+rrf").select("run", "fusion", "fusion_weight").rows() == [
        ("sft-1+rrf=dev", "rrf", None)
    ]
    # The one spare query has its relevant passage first where the student decides.
    tried = found.weights
    assert tried.filter("chosen").select("run", "stage", "fold", "weight", "value", "queries").rows() == [
        ("sft-1+rrf=dev", "sft+rrf", "test", 1.0, 1.0, 1)
    ]
    assert tried.filter(weight=0.0)["value"].to_list() != [1.0]
    set_beforehand = collect("r", SETTINGS, first, {"sft": made}, qrels, folds, Fusion("rrf", 0.5))
    assert set_beforehand.weights.is_empty()
    assert found.sha256 != set_beforehand.sha256
    # Spared queries may have been reranked by themselves, so that those reported are not asked anew for them.
    alone = tmp_path / "spare"
    alone.mkdir()
    for name in ("run", "calls"):
        every = pl.read_parquet(tmp_path / f"{name}.parquet")
        every.filter(qid="3").write_parquet(alone / f"{name}.parquet")
        every.filter(pl.col("qid") != "3").write_parquet(tmp_path / f"{name}.parquet")
    apart = collect("r", SETTINGS, first, {"sft": replace(made, spare=alone)}, qrels, folds, Fusion("rrf", None))
    assert apart.sha256 == found.sha256 and apart.calls.equals(found.calls)
    # They choose a champion, too; one that did not read them has no say there.
    assert deciding(apart) == {("bm25", "3", 0.5), ("sft", "3", 1.0)}
    assert deciding(collect("r", SETTINGS, first, {"sft": made}, qrels, folds)) == {("bm25", "3", 0.5)}


def deciding(found: Runs) -> set[tuple[object, ...]]:
    return set(found.dev_scores.filter(measure="RR").select("stage", "qid", "value").rows())


@pytest.mark.parametrize("fold", ["half 1", "test"])
def test_reported_queries_choose_a_champion_only_where_a_domain_has_no_others(fold: str, tmp_path: Path) -> None:
    made = reranked(tmp_path, None)
    folds = pl.DataFrame({"domain": ["a"], "qid": ["1"], "fold": [fold]})
    found = collect("r", SETTINGS, a_run("d0", "d1"), {"sft": made}, judged(("a", "1")), folds, Fusion("rrf", 0.5))
    assert deciding(found) == {("bm25", "1", 0.5), ("sft", "1", 1.0)}  # and none that is fused


def test_windows_asked_both_ways_round_are_kept_where_a_job_asked_so(tmp_path: Path) -> None:
    made = reranked(tmp_path, None)

    def probes() -> list[tuple[object, ...]]:
        found = collect("r", SETTINGS, a_run("d0", "d1"), {"sft": made}, judged(("a", "1")), FOLDS)
        return found.tables["position_probes"].select("run", "stage", "qid", "turned", "tau").rows()

    assert probes() == []
    row = {"domain": "a", "qid": "1", "shown": ["d0", "d1"], "ordered": ["d1", "d0"], "turned": ["d0", "d1"],
           "tau": -1.0, "fault": None}  # fmt: skip
    pl.DataFrame([row, {**row, "qid": "elsewhere"}], schema=PROBE).write_parquet(tmp_path / "probes.parquet")
    assert probes() == [("sft-1", "sft", "1", ["d0", "d1"], -1.0)]


def test_a_twin_has_settings_of_its_own_and_the_name_of_its_student(tmp_path: Path) -> None:
    made = reranked(tmp_path, None)
    other = replace(made, run="sft-2", asked={"think": False, "template": "rank_student_direct"})
    name = twin_stage("sft", "direct")
    assert [student_of(stage) for stage in (FIRST_STAGE, "sft", f"{name}+rrf", "rl+z_score")] == [
        FIRST_STAGE, "sft", "sft", "rl",
    ]  # fmt: skip
    found = collect("r", SETTINGS, a_run("d0", "d1"), {"sft": made, name: other}, judged(("a", "1")), FOLDS)
    assert found.settings.select("stage", "think", "template", "window_size").rows()[1:] == [
        ("sft", True, "rank_student", 2), ("sft~direct", False, "rank_student_direct", 2),
    ]  # fmt: skip
    assert not found.scores["fused"].any()


def test_a_local_model_costs_nothing_and_an_endpoint_says_what_it_costs(tmp_path: Path) -> None:
    def bills(made: Reranked) -> list[tuple[object, ...]]:
        found = collect("r", SETTINGS, a_run("d0", "d1"), {"sft": made}, judged(("a", "1")), FOLDS)
        return found.calls.select("round", "cached_tokens", "usd").rows()

    assert bills(reranked(tmp_path, None, None)) == [(1, None, 0.0), (2, None, 0.0)]
    assert bills(reranked(tmp_path, None, cached_tokens=7, usd=0.01)) == [(1, 7, 0.01)]
