"""The measures: equal to trec_eval on anything, and the published figures of real runs to the last digit given."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import SHARED, Grades, Scores, needs_shared, trec_eval

from ranking.metrics import MeasureError, evaluate, evaluate_arrays
from ranking.trec import read_qrels, read_run

MEASURES = ["nDCG@1", "nDCG@3", "nDCG@10", "nDCG", "R@1", "R@5", "P@5", "RR", "AP"]

# Any characters but NUL, which no C string can hold, and surrogates, which are no characters.
odd_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=4)
queries_of = st.sampled_from(["q1", "q2", "Q 3", "ä%20🙂", ""])
grades = st.integers(-2, 4)
# Few values make ties; the neighbours of 1.0 are one number to a 32-bit float and three to a 64-bit one.
scores = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12, 1.0 - 1e-12, 2.5, -3.0]) | st.floats(-1e6, 1e6)


@st.composite
def runs_and_qrels(draw: st.DrawFn) -> tuple[Scores, Grades]:
    """A run and qrels over one small pool of ids, so that they meet often: judged, unjudged, missing on either side."""
    docids = draw(st.lists(odd_text, min_size=1, max_size=14, unique=True))
    pool = st.sampled_from(docids)
    run = draw(st.dictionaries(queries_of, st.dictionaries(pool, scores, min_size=1, max_size=14), max_size=3))
    qrels = draw(
        st.dictionaries(queries_of, st.dictionaries(pool, grades, min_size=1, max_size=14), min_size=1, max_size=3)
    )
    return run, qrels


def run_frame(run: Scores) -> pl.DataFrame:
    rows = [(qid, docid, score) for qid, hits in run.items() for docid, score in hits.items()]
    return pl.DataFrame(rows, schema={"qid": pl.String, "docid": pl.String, "score": pl.Float64}, orient="row")


def qrels_frame(qrels: Grades) -> pl.DataFrame:
    rows = [(qid, docid, grade) for qid, judged in qrels.items() for docid, grade in judged.items()]
    return pl.DataFrame(rows, schema={"qid": pl.String, "docid": pl.String, "grade": pl.Int64}, orient="row")


@settings(max_examples=120, deadline=None)
@given(runs_and_qrels())
def test_every_measure_equals_trec_evals_and_a_query_missing_from_the_run_scores_zero(
    case: tuple[Scores, Grades],
) -> None:
    run, qrels = case
    expected = trec_eval(run, qrels, MEASURES)
    ours = evaluate(run_frame(run), qrels_frame(qrels), MEASURES)
    assert sorted(ours["qid"]) == sorted(qrels)
    for row in ours.iter_rows(named=True):
        theirs = expected.get(row["qid"], dict.fromkeys(MEASURES, 0.0))
        assert {m: row[m] for m in MEASURES} == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(runs_and_qrels())
def test_arrays_give_what_frames_give(case: tuple[Scores, Grades]) -> None:
    run, qrels = case
    docids = sorted({docid for hits in (*run.values(), *qrels.values()) for docid in hits}, key=str.encode)
    qids = sorted(qrels)
    width = max((len(run.get(qid, {})) for qid in qids), default=0)
    depth = max(len(judged) for judged in qrels.values())
    scores = np.full((len(qids), width), np.nan)
    grades, docs = np.zeros((len(qids), width), int), np.zeros((len(qids), width), int)
    judged = np.zeros((len(qids), depth), int)
    for row, qid in enumerate(qids):
        judged[row, : len(qrels[qid])] = list(qrels[qid].values())
        for column, (docid, score) in enumerate(run.get(qid, {}).items()):
            scores[row, column] = score
            grades[row, column], docs[row, column] = qrels[qid].get(docid, 0), docids.index(docid)
    values = evaluate_arrays(scores, grades, judged, MEASURES, docs)
    frame = evaluate(run_frame(run), qrels_frame(qrels), MEASURES)
    assert {name: list(column) for name, column in values.items()} == {
        name: pytest.approx(frame.sort("qid")[name].to_list(), abs=1e-12) for name in MEASURES
    }


def test_arrays_with_ties_and_no_way_to_decide_them_are_refused() -> None:
    with pytest.raises(MeasureError, match="query number 1 has ties"):
        evaluate_arrays([[2.0, 1.0], [1.0, 1.0]], [[1, 0], [1, 0]], [[1], [1]])


@pytest.mark.parametrize(
    ("scores", "grades", "judged"), [([[1.0]], [[1, 0]], [[1]]), ([1.0], [1], [[1]]), ([[1.0]], [[1]], [[1], [2]])]
)
def test_arrays_that_do_not_fit_are_refused_with_their_shapes(scores: Any, grades: Any, judged: Any) -> None:
    with pytest.raises(MeasureError, match=r"scores \(.*\), grades \(.*\) and judged \(.*\) do not fit"):
        evaluate_arrays(scores, grades, judged)


def test_one_very_long_list_among_thousands_of_short_ones_is_evaluated_like_the_others() -> None:
    # Padded to the longest, these 7,000 lines would be 12 million cells: they are cut into blocks.
    run: Scores = {f"q{n}": {"b": 1.0} for n in range(6_000)}
    run["q7"] = {f"d{n:04}": -float(n) for n in range(2_000)}
    qrels: Grades = {qid: {"b": 1} for qid in run} | {"q7": {"d1999": 2, "d0003": 1}, "q8": {"z": 1}}
    ours = evaluate(run_frame(run), qrels_frame(qrels), ["RR", "AP"]).sort("qid")
    expected = dict.fromkeys(run, (1.0, 1.0)) | {"q7": (1 / 4, (1 / 4 + 2 / 2_000) / 2), "q8": (0.0, 0.0)}
    assert {qid: (rr, ap) for qid, rr, ap in ours.iter_rows()} == expected


def test_lines_of_two_queries_may_stand_in_any_order() -> None:
    run = pl.DataFrame({"qid": ["b", "a", "b", "a"], "docid": ["x", "x", "y", "y"], "score": [1.0, 2.0, 2.0, 1.0]})
    qrels = pl.DataFrame({"qid": ["a", "b"], "docid": ["x", "x"], "grade": [1, 1]})
    assert evaluate(run, qrels, ["RR"]).rows() == [("a", 1.0), ("b", 0.5)]


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_score_that_is_no_number_is_refused_by_name(score: float | None) -> None:
    run = pl.DataFrame({"qid": ["q"], "docid": ["a"], "score": [score]}, schema_overrides={"score": pl.Float64})
    with pytest.raises(MeasureError, match="no score for 'a' of query 'q'"):
        evaluate(run, qrels_frame({"q": {"a": 1}}))


def test_ties_go_to_the_docid_that_sorts_last_in_bytes() -> None:
    run = run_frame({"q": {"a": 1.0, "Z": 1.0, "é": 1.0, "🙂": 1.0, "\uffff": 1.0}})
    first = {
        docid: evaluate(run, qrels_frame({"q": {docid: 1}}), ["RR"])["RR"][0]
        for docid in ["🙂", "\uffff", "é", "a", "Z"]
    }
    assert first == {"🙂": 1.0, "\uffff": 1 / 2, "é": 1 / 3, "a": 1 / 4, "Z": 1 / 5}


def test_neither_the_order_of_the_lines_nor_that_of_the_judgements_matters() -> None:
    run = run_frame({"q1": {"a": 3.0, "b": 3.0, "c": 1.0}, "q2": {"a": 0.5, "d": 0.25}})
    qrels = qrels_frame({"q1": {"b": 2, "c": 1, "x": 3}, "q2": {"d": 1, "a": -1}})
    once = evaluate(run, qrels, MEASURES)
    again = evaluate(run.reverse(), qrels.sample(fraction=1.0, shuffle=True, seed=3), MEASURES)
    assert once.equals(again)


def test_two_keys_hold_queries_of_one_name_apart() -> None:
    run = run_frame({"q": {"a": 2.0, "b": 1.0}})
    both = pl.concat([run.with_columns(domain=pl.lit("x")), run.with_columns(domain=pl.lit("y"))])
    qrels = pl.DataFrame({"domain": ["x", "y"], "qid": ["q", "q"], "docid": ["a", "b"], "grade": [1, 1]})
    assert evaluate(both, qrels, ["RR"], by=["domain", "qid"]).rows() == [("x", "q", 1.0), ("y", "q", 0.5)]


def test_a_document_twice_in_a_query_is_refused_by_name() -> None:
    good = {"q": {"a": 1.0}}
    twice = pl.concat([run_frame(good), run_frame(good)])
    with pytest.raises(MeasureError, match="the run lists 'a' more than once for query 'q'"):
        evaluate(twice, qrels_frame({"q": {"a": 1}}))
    judged = qrels_frame({"q": {"a": 1}})
    with pytest.raises(MeasureError, match="the qrels lists 'a' more than once for query 'q'"):
        evaluate(run_frame(good), pl.concat([judged, judged]))


@pytest.mark.parametrize("name", ["ndcg@10", "nDCG@0", "nDCG@", "R", "P", "MAP", "RR@10", "nDCG@1.5", " AP"])
def test_an_unknown_measure_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(MeasureError, match=r"unknown measure .* Known: nDCG@k"):
        evaluate(run_frame({"q": {"a": 1.0}}), qrels_frame({"q": {"a": 1}}), [name])


# As the SOURCE.md of each set states it: the run, the figure and the digits that are printed there.
@needs_shared
@pytest.mark.parametrize(
    ("folder", "run", "printed"),
    [
        ("bright_runs/biology", "reasonir_gpt4cot_top50.trec", "0.4349"),
        ("bright_runs/economics", "reasonir_gpt4cot_top50.trec", "0.3265"),
        ("bright_runs/robotics", "reasonir_gpt4cot_top50.trec", "0.2082"),
        ("bright_runs/sustainable_living", "reasonir_gpt4cot_top50.trec", "0.2734"),
        ("bright_runs/leetcode", "reasonir_gpt4cot_top50.trec", "0.3168"),
        ("bright_runs/theoremqa_theorems", "reasonir_gpt4cot_top50.trec", "0.3668"),
        ("trec_dl19", "bm25_top100.trec", "0.5058"),
        ("noveleval", "google_top20.trec", "0.6503"),
    ],
)
def test_real_runs_have_the_ndcg_of_their_source(folder: str, run: str, printed: str) -> None:
    per_query = evaluate(read_run(SHARED / folder / run), read_qrels(SHARED / folder / "qrels.tsv"), ["nDCG@10"])
    assert f"{per_query['nDCG@10'].to_numpy().mean():.4f}" == printed


@needs_shared
@pytest.mark.parametrize("folder", ["bright_runs/robotics", "trec_dl19"])
def test_real_runs_agree_with_trec_eval_query_by_query(folder: str) -> None:
    run = read_run(next((SHARED / folder).glob("*.trec")))
    qrels = read_qrels(SHARED / folder / "qrels.tsv")
    ranked: Scores = {}
    for qid, docid, score in run.select("qid", "docid", "score").iter_rows():
        ranked.setdefault(qid, {})[docid] = score
    judged: Grades = {}
    for qid, docid, grade in qrels.iter_rows():
        judged.setdefault(qid, {})[docid] = grade
    expected = trec_eval(ranked, judged, MEASURES)
    ours = evaluate(run, qrels, MEASURES)
    assert ours.height == len(expected)
    for row in ours.iter_rows(named=True):
        assert {m: row[m] for m in MEASURES} == pytest.approx(expected[row["qid"]], abs=1e-9)
