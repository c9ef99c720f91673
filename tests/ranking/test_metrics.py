"""The measures: equal to trec_eval on anything, and the published figures of real runs to the last digit given."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import SHARED, Grades, Scores, needs_shared, trec_eval

from ranking.metrics import MeasureError, bootstrap_mean, cohen_kappa, evaluate
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


def test_the_bootstrap_interval_holds_the_mean_narrows_with_more_queries_and_is_the_same_every_time() -> None:
    few, many = np.random.default_rng(1).random(30), np.random.default_rng(1).random(3_000)
    mean, low, high = bootstrap_mean(few)
    assert mean == pytest.approx(few.mean())
    assert low < mean < high
    assert bootstrap_mean(few) == (mean, low, high)
    _, low_of_many, high_of_many = bootstrap_mean(many)
    assert (high_of_many - low_of_many) < (high - low) / 5
    # The normal approximation is an outside witness at this size.
    half = 1.96 * many.std() / np.sqrt(many.size)
    assert (high_of_many - low_of_many) / 2 == pytest.approx(half, rel=0.05)


def test_the_bootstrap_of_one_value_is_that_value_and_of_none_an_error() -> None:
    assert bootstrap_mean([0.25, 0.25]) == (0.25, 0.25, 0.25)
    with pytest.raises(MeasureError, match="at least one query"):
        bootstrap_mean([])


def test_cohens_kappa_knows_full_agreement_chance_and_full_disagreement() -> None:
    left = np.array([True, True, False, False])
    assert cohen_kappa(left, left) == 1.0
    assert cohen_kappa(left, ~left) == -1.0
    assert cohen_kappa(left, np.array([True, False, True, False])) == 0.0
    assert cohen_kappa(np.ones(3, dtype=bool), np.ones(3, dtype=bool)) == 1.0
    # The worked example of Cohen's measure: 20 both yes, 5 and 10 apart, 15 both no.
    first = np.repeat([True, True, False, False], [20, 5, 10, 15])
    second = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert cohen_kappa(first, second) == pytest.approx(0.4)
