"""Fusion: the ends of the weight, worked examples of each scale, and a weight that dev alone decides."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.fusion import METHODS, FusionError, Method, choose_weight, fuse
from ranking.metrics import evaluate

FUSING: list[Method] = ["min_max", "z_score", "rrf"]


def run_of(scores: dict[str, dict[str, float]]) -> pl.DataFrame:
    rows = []
    for qid, hits in scores.items():
        ranked = sorted(hits.items(), key=lambda hit: -hit[1])
        rows += [(qid, docid, rank, score) for rank, (docid, score) in enumerate(ranked, start=1)]
    schema = {"qid": pl.String, "docid": pl.String, "rank": pl.Int64, "score": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def order(run: pl.DataFrame, qid: str = "q") -> list[str]:
    return run.filter(pl.col("qid") == qid).sort("rank")["docid"].to_list()


RERANKED = run_of({"q": {"a": 9.0, "b": 5.0, "c": 1.0}})
FIRST = run_of({"q": {"c": 30.0, "b": 29.0, "a": 10.0}})


@st.composite
def two_runs(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    docids = [f"d{number}" for number in range(draw(st.integers(1, 8)))]
    scores = st.lists(st.floats(-50, 50), min_size=len(docids), max_size=len(docids), unique=True)
    made = [{qid: dict(zip(docids, draw(scores), strict=True)) for qid in ("q", "r")} for _ in range(2)]
    return run_of(made[0]), run_of(made[1])


@settings(deadline=None, max_examples=40)
@given(two_runs(), st.sampled_from(METHODS), st.floats(0, 1))
def test_documents_stay_ranks_run_from_one_and_scores_fall_strictly(
    runs: tuple[pl.DataFrame, pl.DataFrame], method: Method, weight: float
) -> None:
    fused = fuse(*runs, method, weight)
    for qid in ("q", "r"):
        mine = fused.filter(pl.col("qid") == qid).sort("rank")
        assert mine["rank"].to_list() == list(range(1, mine.height + 1))
        assert sorted(mine["docid"]) == sorted(order(runs[0], qid))
        assert mine["score"].is_sorted(descending=True) and mine["score"].n_unique() == mine.height
        assert mine["fused"].is_sorted(descending=True)


@settings(deadline=None, max_examples=40)
@given(two_runs(), st.sampled_from(FUSING))
def test_a_weight_of_one_is_the_reranker_and_of_nothing_the_first_stage(
    runs: tuple[pl.DataFrame, pl.DataFrame], method: Method
) -> None:
    for qid in ("q", "r"):
        assert order(fuse(*runs, method, 1.0), qid) == order(runs[0], qid)
        if method == "rrf":  # scores that differ in their last digits may be one on another scale
            assert order(fuse(*runs, method, 0.0), qid) == order(runs[1], qid)


@pytest.mark.parametrize(
    ("method", "fused"),
    [
        # Half of (1, .5, 0) and half of (0, .95, 1): b has the most.
        ("min_max", {"b": 0.725, "a": 0.5, "c": 0.5}),
        # (9, 5, 1) lie 1.2247, 0 and -1.2247 deviations from their mean; (30, 29, 10) .7608, .6521 and -1.4128.
        ("z_score", {"b": 0.6521 / 2, "a": (1.2247 - 1.4128) / 2, "c": (0.7608 - 1.2247) / 2}),
        ("rrf", {"a": (1 / 61 + 1 / 63) / 2, "c": (1 / 61 + 1 / 63) / 2, "b": 1 / 62}),
    ],
)
def test_the_three_scales_on_a_list_worked_by_hand(method: Method, fused: dict[str, float]) -> None:
    made = fuse(RERANKED, FIRST, method, 0.5)
    assert dict(made.select("docid", "fused").iter_rows()) == pytest.approx(fused, abs=1e-4)
    assert order(made) == list(fused)


def test_no_fusion_is_the_reranker_and_scores_all_alike_say_nothing() -> None:
    assert order(fuse(RERANKED, FIRST, "none", 0.0)) == ["a", "b", "c"]
    flat = run_of({"q": {"a": 2.0, "b": 2.0, "c": 2.0}})
    for method in ("min_max", "z_score"):
        assert order(fuse(RERANKED, flat, method, 0.1)) == ["a", "b", "c"]
        assert order(fuse(flat, FIRST, method, 0.9)) == ["c", "b", "a"]


def test_the_weight_comes_from_dev_and_is_that_with_the_best_mean() -> None:
    # The reranker is right about q and wrong about r, by less than the first stage is wrong about q.
    reranked = run_of({"q": {"a": 3.0, "b": 0.0, "c": -1.0}, "r": {"x": 1.0, "y": 0.9, "z": 0.0}})
    first = run_of({"q": {"b": 1.0, "a": 0.9, "c": 0.0}, "r": {"y": 3.0, "x": 0.0, "z": -1.0}})
    dev = pl.DataFrame({"qid": ["q", "r"], "docid": ["a", "y"], "grade": [1, 1]})
    chosen = choose_weight(reranked, first, dev, "min_max", "RR")
    assert chosen.value == 1.0 and 0.0 < chosen.weight < 1.0
    assert evaluate(fuse(reranked, first, "min_max", chosen.weight), dev, ["RR"])["RR"].to_list() == [1.0, 1.0]
    assert chosen.tried["weight"].to_list() == [number / 10 for number in range(11)]
    ends = dict(chosen.tried.iter_rows())
    assert ends[0.0] == ends[1.0] == 0.75


def test_of_weights_that_are_equally_good_the_one_nearer_to_the_reranker_is_chosen() -> None:
    dev = pl.DataFrame({"qid": ["q"], "docid": ["nowhere"], "grade": [1]})
    assert choose_weight(RERANKED, FIRST, dev, "rrf").weight == 1.0


def test_a_document_that_stands_in_one_run_only_is_refused_by_name() -> None:
    with pytest.raises(FusionError, match="document 'a' of query 'q' does not stand once"):
        fuse(RERANKED, FIRST.filter(pl.col("docid") != "a"), "rrf")
    with pytest.raises(FusionError, match="document 'c' of query 'q'"):
        fuse(RERANKED.filter(pl.col("docid") != "c"), FIRST, "min_max")
    with pytest.raises(FusionError, match="does not stand once"):
        fuse(RERANKED, pl.concat([FIRST, FIRST]), "min_max")


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_its_range_and_an_unknown_method_are_refused(weight: float) -> None:
    with pytest.raises(FusionError, match=r"between 0 .* and 1"):
        fuse(RERANKED, FIRST, "rrf", weight)
    with pytest.raises(FusionError, match=r"unknown fusion 'sum'. Known: none, min_max, z_score, rrf"):
        fuse(RERANKED, FIRST, "sum")  # type: ignore[arg-type]
