"""Fusion with a weight that is chosen on dev: never on a query that it is reported on, or else refused."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.metrics import evaluate
from warehouse.evaluation import spare
from warehouse.fusing import (
    HALVES,
    KEYS,
    SPARE,
    TEST,
    Fusion,
    NothingToChooseOn,
    folds_of,
    fused,
    may_be_chosen,
    weights_in_words,
)

CHOSEN = Fusion("min_max", None)
DEPTH = 12
ROW = ["domain", "qid", "docid", "rank", "score"]


def reported(splits: Mapping[str, str], count: int = 12) -> pl.DataFrame:
    """`count` queries a domain, of the split that `splits` gives it."""
    rows = [(domain, f"q{n:02}", split) for domain, split in splits.items() for n in range(count)]
    return pl.DataFrame(rows, schema=["domain", "qid", "split"], orient="row")


NONE = reported({}).cast({"domain": pl.String, "qid": pl.String})


def runs_of(folds: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The reranker has the order of the first stage turned round."""
    keys = folds.select(KEYS).rows()
    first = [(d, q, f"d{n:02}", n, float(DEPTH - n)) for d, q in keys for n in range(1, DEPTH + 1)]
    ours = [(d, q, f"d{DEPTH + 1 - n:02}", n, float(DEPTH - n)) for d, q in keys for n in range(1, DEPTH + 1)]
    return (pl.DataFrame(rows, schema=ROW, orient="row") for rows in (ours, first))  # type: ignore[return-value]


def qrels_of(folds: pl.DataFrame, right: Mapping[str, str]) -> pl.DataFrame:
    """By fold, whether the reranker's first passage is the relevant one or the first stage's."""
    best = {"reranker": f"d{DEPTH:02}", "first": "d01"}
    rows = [(d, q, best[right[fold]], 1) for d, q, fold in folds.iter_rows()]
    return pl.DataFrame(rows, schema=["domain", "qid", "docid", "grade"], orient="row")


def chosen(weights: pl.DataFrame) -> dict[str, float]:
    return dict(weights.filter("chosen").select("fold", "weight").iter_rows())


def test_test_queries_are_one_fold_and_reported_dev_queries_two_halves_that_stay() -> None:
    asked = reported({"a": "test", "b": "dev"}, 40)
    extra = reported({"a": "dev"}, 5).with_columns(qid="x" + pl.col("qid"))
    folds = folds_of(asked, extra.select(KEYS), seed=0)
    assert folds.height == 85
    counted = dict(
        folds.group_by("domain", "fold").len().select(pl.concat_str("domain", "fold", separator=" "), "len").iter_rows()
    )
    assert counted.keys() == {"a test", "a spare", "b half 1", "b half 2"}
    assert (counted["a test"], counted["a spare"]) == (40, 5)
    assert min(counted["b half 1"], counted["b half 2"]) >= 10
    fewer = folds_of(asked.filter(pl.col("qid") < "q20"), extra.select(KEYS).clear(), seed=0)
    assert fewer.join(folds, on=[*KEYS, "fold"], how="anti").is_empty()


def test_each_half_has_the_weight_that_the_other_half_is_best_with() -> None:
    folds = folds_of(reported({"a": "dev"}), NONE.select(KEYS), seed=0)
    run, first = runs_of(folds)
    qrels = qrels_of(folds, {HALVES[0]: "reranker", HALVES[1]: "first"})
    made = fused(run, first, qrels, folds, CHOSEN)
    weights = chosen(made.weights)
    # What half 1 is judged by says nothing about half 1: it is given the first stage, which is wrong for it.
    assert weights[HALVES[0]] < 0.5 < weights[HALVES[1]]
    assert evaluate(made.run, qrels, ["RR"], KEYS)["RR"].max() < 0.2
    # The curve holds every weight that was tried, each with its mean over the other half.
    for fold, other in (HALVES, HALVES[::-1]):
        curve = made.weights.filter(pl.col("fold") == fold)
        assert curve["weight"].to_list() == [n / 10 for n in range(11)]
        best = curve.sort("value", "weight").row(-1, named=True)
        assert best["weight"] == weights[fold] and best["value"] == 1.0
        assert best["queries"] == folds.filter(pl.col("fold") == other).height


MIXED = folds_of(reported({"a": "dev", "b": "test"}), pl.DataFrame({"domain": ["b"] * 2, "qid": ["x1", "x2"]}), seed=1)
BEFORE = qrels_of(MIXED, {HALVES[0]: "reranker", HALVES[1]: "first", SPARE: "first", TEST: "reranker"})
RUNS = tuple(runs_of(MIXED))
WEIGHTS = chosen(fused(*RUNS, BEFORE, MIXED, CHOSEN).weights)


@settings(max_examples=12, deadline=None)
@given(
    fold=st.sampled_from([*HALVES, TEST]),
    judged=st.lists(st.tuples(st.integers(1, DEPTH), st.integers(0, 3)), min_size=12, max_size=12),
)
def test_the_judgements_of_a_fold_never_move_its_own_weight(fold: str, judged: list[tuple[int, int]]) -> None:
    own = MIXED.filter(pl.col("fold") == fold).select(KEYS)
    drawn = pl.DataFrame(
        [(*key, f"d{place:02}", grade) for key, (place, grade) in zip(own.rows(), judged, strict=False)],
        schema=["domain", "qid", "docid", "grade"], orient="row",
    )  # fmt: skip
    after = pl.concat([BEFORE.join(own, on=KEYS, how="anti"), drawn])
    assert chosen(fused(*RUNS, after, MIXED, CHOSEN).weights)[fold] == WEIGHTS[fold]


def test_a_test_split_is_weighed_on_dev_queries_that_are_not_reported() -> None:
    extra = reported({"a": "dev"}, 4).with_columns(qid="x" + pl.col("qid"))
    folds = folds_of(reported({"a": "test"}), extra.select(KEYS), seed=0)
    run, first = runs_of(folds)
    made = fused(run, first, qrels_of(folds, {TEST: "first", SPARE: "reranker"}), folds, CHOSEN)
    assert chosen(made.weights)[TEST] > 0.5
    assert made.weights["queries"].unique().to_list() == [4]
    assert made.run.join(extra, on=KEYS, how="semi").is_empty()
    assert made.run.select(KEYS).n_unique() == 12


@pytest.mark.parametrize(("splits", "count"), [({"a": "test"}, 12), ({"a": "dev"}, 1)])
def test_without_other_dev_queries_a_weight_is_refused_before_a_model_runs(splits: dict[str, str], count: int) -> None:
    folds = folds_of(reported(splits, count), NONE.select(KEYS), seed=0)
    with pytest.raises(NothingToChooseOn, match=r"no other dev query is left.*set fusion\.weight to a number"):
        may_be_chosen(folds, CHOSEN)
    may_be_chosen(folds, Fusion("min_max", 0.5))
    may_be_chosen(folds, None)


def test_a_set_weight_is_tried_nowhere_and_told_as_it_is() -> None:
    folds = folds_of(reported({"a": "test"}), NONE.select(KEYS), seed=0)
    run, first = runs_of(folds)
    made = fused(run, first, qrels_of(folds, {TEST: "first"}), folds, Fusion("min_max", 0.0))
    assert made.weights.is_empty()
    assert made.run.select(*KEYS, "docid").equals(first.select(*KEYS, "docid"))
    assert weights_in_words(Fusion("rrf", 0.3), made.weights) == "rrf, 0.3 of it the student's"
    tried = pl.DataFrame(
        [("sft+rrf", "half 1", 0.4, True), ("sft+rrf", "half 1", 0.5, False), ("sft+rrf", "half 2", 0.6, True),
         ("base+rrf", "half 1", 0.1, True), ("base+rrf", "half 2", 0.1, True)],
        schema=["stage", "fold", "weight", "chosen"], orient="row",
    )  # fmt: skip
    assert weights_in_words(Fusion("rrf", None), tried).endswith("other dev queries: base+rrf 0.1; sft+rrf 0.4 and 0.6")


def test_dev_queries_are_spared_for_the_choice_only_where_a_test_split_is_reported() -> None:
    queries = pl.DataFrame(
        [("a", "1", "t", "test"), ("a", "2", "t", "dev"), ("a", "3", "t", "dev"), ("a", "4", "t", "train"),
         ("b", "5", "t", "dev")],
        schema=["domain", "qid", "text", "split"], orient="row",
    )  # fmt: skip
    judged = queries.filter(pl.col("qid") != "3").select(*KEYS, docid=pl.lit("d"), grade=pl.lit(1))
    asked = queries.filter(pl.col("qid").is_in(["1", "5"]))
    assert spare(queries, judged, asked, None, 0).rows() == [("a", "2", "t", "dev")]
    assert spare(queries, judged, asked.filter(domain="b"), None, 0).is_empty()
