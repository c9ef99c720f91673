"""The leaderboard: every number can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from ranking.statistics import holm
from warehouse.evaluation import Runs
from warehouse.intake.sources import ALL_DOMAINS
from warehouse.leaderboard import STAGES, leaderboard, with_measures
from warehouse.pages.leaderboard import picture

CALL = {
    "recipe": pl.String, "run": pl.String, "stage": pl.String, "domain": pl.String, "qid": pl.String,
    "round": pl.Int64, "docids": pl.List(pl.String), "fault": pl.String, "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64, "cached_tokens": pl.Int64, "seconds": pl.Float64, "usd": pl.Float64,
}  # fmt: skip
RUN = {
    "recipe": pl.String, "run": pl.String, "stage": pl.String, "domain": pl.String, "qid": pl.String,
    "docid": pl.String, "value": pl.Float64,
}  # fmt: skip
SETTING = {"recipe": pl.String, "run": pl.String, "highest_score": pl.Float64}
PROBE = {"recipe": pl.String, "stage": pl.String, "domain": pl.String, "tau": pl.Float64}
QRELS = {"domain": pl.String, "qid": pl.String, "docid": pl.String, "grade": pl.Int64}
Call = tuple[str, str, str, int, list[str], str | None, int, int, float]


def scores(recipe: str, stage: str, values: Mapping[tuple[str, str], float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (recipe, stage, f"{recipe}-{stage}", domain, qid, measure, value)
            for (domain, qid), value in values.items()
            for measure in ("nDCG@10", "R@10", "R@100", "RR", "AP")
        ],
        schema=["recipe", "stage", "model", "domain", "qid", "measure", "value"],
        orient="row",
    )


def asked(calls: Sequence[Call], recipe: str = "r", usd: float | None = 0.0, cached: int | None = None) -> pl.DataFrame:
    """Rows of calls from (stage, domain, qid, round, docids, fault, prompt tokens, completion tokens, seconds)."""
    rows = [
        (recipe, f"{recipe}-{stage}", stage, domain, qid, turn, docids, fault, given, written, cached, seconds, usd)
        for stage, domain, qid, turn, docids, fault, given, written, seconds in calls
    ]
    return pl.DataFrame(rows, schema=CALL, orient="row")


def board_of(
    scored: Sequence[pl.DataFrame],
    calls: pl.DataFrame | None = None,
    runs: Sequence[tuple[Any, ...]] = (),
    settings: Sequence[tuple[str, str, float | None]] = (),
    qrels: Sequence[tuple[str, str, str, int]] = (),
    probes: Sequence[tuple[str, str, str, float | None]] = (),
) -> pl.DataFrame:
    made = Runs(
        runs=pl.DataFrame(runs, schema=RUN, orient="row"),
        calls=asked([]) if calls is None else calls,
        scores=pl.concat(scored),
        dev_scores=pl.DataFrame(),
        settings=pl.DataFrame(settings, schema=SETTING, orient="row"),
        weights=pl.DataFrame(),
        probes=pl.DataFrame(probes, schema=PROBE, orient="row"),
    )
    return leaderboard(
        made,
        pl.DataFrame(qrels, schema=QRELS, orient="row"),
        {"a": "test", "b": "dev"},
        pl.DataFrame({"model": ["r-sft"], "release": ["release-1"]}),
        resamples=2000,
        seed=0,
    )


@pytest.fixture
def board() -> pl.DataFrame:
    first = {("a", "1"): 0.2, ("a", "2"): 0.4, ("b", "1"): 0.9}
    better = {("a", "1"): 0.5, ("a", "2"): 0.7, ("b", "1"): 0.3}
    calls: list[Call] = [
        ("sft", "a", "1", 1, ["d1", "d2"], None, 100, 20, 1.5),
        ("sft", "a", "1", 2, ["d1", "d2"], "list", 100, 30, 0.5),
        ("sft", "b", "1", 1, ["d1", "d2"], "tags", 7, 3, 2.0),
    ]  # fmt: skip
    return board_of([scores("r", "sft", better), scores("r", "bm25", first)], asked(calls))


def row_of(board: pl.DataFrame, domain: str, stage: str) -> dict[str, Any]:
    found = board.filter((pl.col("domain") == domain) & (pl.col("stage") == stage))
    assert found.height == 1
    row = found.row(0, named=True)
    return {**row, "measures": json.loads(row["measures"])}


def test_the_leaderboard_has_a_row_a_domain_and_stage_and_one_for_all(board: pl.DataFrame) -> None:
    assert board.select("domain", "stage").rows() == [(d, s) for d in ("a", "b", ALL_DOMAINS) for s in ("bm25", "sft")]
    assert set(board["stage"]) <= set(STAGES)
    assert row_of(board, "a", "bm25")["measures"]["nDCG@10"] == pytest.approx(0.3)
    assert row_of(board, "a", "sft")["measures"]["AP"] == pytest.approx(0.6)
    assert row_of(board, ALL_DOMAINS, "sft")["measures"]["nDCG@10"] == pytest.approx(0.5)
    assert [row_of(board, domain, "sft")["queries"] for domain in ("a", "b", ALL_DOMAINS)] == [2, 1, 3]
    assert [row_of(board, domain, "sft")["split"] for domain in ("a", "b", ALL_DOMAINS)] == ["test", "dev", "held-out"]
    assert (row_of(board, "a", "sft")["release"], row_of(board, "a", "bm25")["release"]) == ("release-1", "")


def test_intervals_hold_the_mean_and_the_difference_is_paired(board: pl.DataFrame) -> None:
    for row in board.iter_rows(named=True):
        mean = json.loads(row["measures"])["nDCG@10"]
        assert row["low"] - 1e-9 <= mean <= row["high"] + 1e-9
        assert row["versus_low"] - 1e-9 <= row["versus_bm25"] <= row["versus_high"] + 1e-9
    ahead = row_of(board, "a", "sft")
    # Every query gains 0.3, so a paired bootstrap knows the gain exactly.
    assert (ahead["versus_bm25"], ahead["versus_low"], ahead["versus_high"]) == pytest.approx((0.3, 0.3, 0.3))
    assert row_of(board, ALL_DOMAINS, "sft")["versus_bm25"] == pytest.approx(0.0)
    still = row_of(board, "b", "bm25")
    assert (still["versus_bm25"], still["versus_low"], still["versus_high"]) == (0, 0, 0)


def test_cost_is_counted_a_query_and_malformed_answers_a_call(board: pl.DataFrame) -> None:
    row = row_of(board, "a", "sft")
    got = [row[name] for name in ("malformed_rate", "calls_per_query", "tokens_per_query", "seconds_per_query")]
    assert got == [0.5, 1.0, 125.0, 1.0]
    assert row_of(board, ALL_DOMAINS, "sft")["malformed_rate"] == pytest.approx(2 / 3)
    free = row_of(board, "a", "bm25")
    assert [free[name] for name in ("malformed_rate", "calls_per_query", "seconds_per_query")] == [0, 0, 0]


def test_the_page_marks_the_best_stage_of_each_domain(board: pl.DataFrame) -> None:
    best = {row["domain"]: row["stage"] for row in with_measures(board) if row["best"]}
    assert (best["a"], best["b"]) == ("sft", "bm25")
    assert {row["value"] for row in with_measures(board)} == {
        json.loads(measures)["nDCG@10"] for measures in board["measures"]
    }
    assert picture(board).startswith(b"\x89PNG")


def test_p_is_exact_and_corrected_over_every_comparison_that_the_board_shows() -> None:
    eight = {("a", str(n)): 0.1 * n for n in range(8)}
    up = {key: value + 0.05 for key, value in eight.items()}
    mixed = {key: value + (0.05 if int(key[1]) % 2 else -0.05) for key, value in eight.items()}
    board = board_of([
        scores("r", "bm25", eight), scores("r", "sft", up), scores("r", "sft+rrf", mixed),
        scores("s", "bm25", eight), scores("s", "base", mixed), scores("s", "sft", mixed),
    ])  # fmt: skip
    told = {(row["recipe"], row["domain"], row["stage"]): row for row in board.iter_rows(named=True)}
    ahead = told["r", "a", "sft"]
    # Of 2^8 signs two have a sum as far from 0; the board shows eight comparisons, and the least p is held against all.
    assert ahead["p"] == 2 / 2**8
    assert ahead["p_holm"] == pytest.approx(8 * 2 / 2**8)
    assert (ahead["wins"], ahead["ties"], ahead["losses"]) == (8, 0, 0)
    even = told["s", "all", "base"]
    assert (even["p"], even["p_holm"], even["wins"], even["losses"]) == (1.0, 1.0, 4, 4)
    assert board["p_holm"].drop_nulls().to_list() == holm(board["p"].drop_nulls().to_list())
    first = told["r", "a", "bm25"]
    assert [first[name] for name in ("p", "p_holm", "wins", "ties", "losses")] == [None] * 5


def test_calls_that_wait_for_one_another_are_told_apart_from_those_that_do_not() -> None:
    values = {("a", "1"): 0.5, ("a", "2"): 0.5}
    # Two windows one after the other, and three passages at once.
    calls: list[Call] = [
        ("sft", "a", "1", 1, ["d1", "d2"], None, 60, 10, 2.0), ("sft", "a", "1", 2, ["d1", "d2"], "list", 40, 30, 3.0),
        *(("sft", "a", "2", 1, [f"d{n}"], None, 10, 0, 0.5) for n in range(3)),
    ]  # fmt: skip
    board = board_of(
        [scores("r", "bm25", values), scores("r", "sft", values), scores("r", "sft+rrf", values)], asked(calls)
    )
    row = row_of(board, "a", "sft")
    assert (row["calls_per_query"], row["depth_per_query"]) == (2.5, 1.5)
    assert (row["input_tokens_per_query"], row["output_tokens_per_query"], row["tokens_per_query"]) == (65, 20, 85)
    assert (row["seconds_per_query"], row["seconds_p50"]) == (3.25, 3.25)
    assert row["seconds_p95"] == pytest.approx(1.5 + 0.95 * 3.5)
    assert json.loads(row["malformed"]) == {"list": 1}
    # What was fused was asked once.
    costs = ("calls_per_query", "depth_per_query", "tokens_per_query", "seconds_p95", "malformed", "usd_per_query")
    assert [row[name] for name in costs] == [row_of(board, "a", "sft+rrf")[name] for name in costs]


def test_a_query_that_nobody_asked_about_counts_with_nothing() -> None:
    values = {("a", str(n)): 0.5 for n in range(4)}
    board = board_of([scores("r", "bm25", values), scores("r", "sft", values)],
                     asked([("sft", "a", "0", 1, ["d1"], None, 8, 4, 2.0)]))  # fmt: skip
    row = row_of(board, "a", "sft")
    assert (row["depth_per_query"], row["seconds_per_query"], row["seconds_p50"]) == (0.25, 0.5, 0.0)


def test_money_and_cache_stand_there_where_they_are_told_and_are_absent_where_they_are_not() -> None:
    values = {("a", "1"): 0.5}
    scored = [scores("r", "bm25", values), scores("r", "sft", values)]
    calls: list[Call] = [("sft", "a", "1", turn, ["d1", "d2"], None, 100, 10, 1.0) for turn in (1, 2)]
    told = row_of(board_of(scored, asked(calls, usd=0.002, cached=64)), "a", "sft")
    assert (told["usd_per_query"], told["cached_tokens_per_query"]) == (pytest.approx(0.004), 128)
    local = row_of(board_of(scored, asked(calls)), "a", "sft")
    assert (local["usd_per_query"], local["cached_tokens_per_query"]) == (0.0, None)
    # Calls of a lake whose columns came later.
    older = asked(calls, usd=None).with_columns(round=pl.lit(None, dtype=pl.Int64))
    old = row_of(board_of(scored, older), "a", "sft")
    assert (old["usd_per_query"], old["depth_per_query"], old["calls_per_query"]) == (None, None, 2.0)


def test_a_teacher_behind_an_endpoint_stands_behind_the_first_stage_with_its_own_bill() -> None:
    values = {("a", "1"): 0.5}
    stages = ("sft", "teacher+rrf", "bm25", "teacher", "base")
    bill = asked([("teacher", "a", "1", 1, ["d1"], None, 100, 10, 1.0)], usd=0.003, cached=16)
    board = board_of([scores("r", stage, values) for stage in stages], bill)
    assert board.filter(domain="a")["stage"].to_list() == ["bm25", "teacher", "teacher+rrf", "base", "sft"]
    costs = [(row_of(board, "a", one)["usd_per_query"], row_of(board, "a", one)["cached_tokens_per_query"])
             for one in ("teacher", "teacher+rrf", "sft")]  # fmt: skip
    assert costs == [(0.003, 16), (0.003, 16), (0.0, None)]


def test_scores_of_a_pointwise_model_are_held_against_the_judgements() -> None:
    values = {("a", "1"): 0.5, ("b", "1"): 0.5}
    passages = [("a", "d1", 9.0, 2), ("a", "d2", 8.0, 0), ("a", "d3", 1.0, None), ("b", "d1", 2.0, 1)]
    calls: list[Call] = [
        *(("sft", domain, "1", 1, [docid], None, 10, 5, 0.5) for domain, docid, _, _ in passages),
        ("sft", "a", "1", 1, ["d4"], "no_score", 10, 5, 0.5),
    ]
    runs = [("r", "r-sft", "sft", domain, "1", docid, value) for domain, docid, value, _ in passages]
    # d4 was malformed and d5 not asked about: what stands beside them is no score of theirs.
    runs += [("r", "r-sft", "sft", "a", "1", docid, 1.0) for docid in ("d4", "d5")]
    qrels = [(domain, "1", docid, grade) for domain, docid, _, grade in passages if grade is not None]
    board = board_of([scores("r", stage, values) for stage in ("bm25", "sft", "sft+rrf")], asked(calls), runs,
                     [("r", "r-sft", 10.0)], [*qrels, ("a", "1", "d5", 2)])  # fmt: skip
    row = row_of(board, "a", "sft")
    # Bins of 0.9, 0.8 and 0.1 hold a passage each: |1 - 0.9|, |0 - 0.8|, |0 - 0.1|.
    assert row["ece"] == pytest.approx((0.1 + 0.8 + 0.1) / 3)
    assert (row["tpr"], row["tnr"]) == (1.0, 0.5)
    everything = row_of(board, ALL_DOMAINS, "sft")
    assert everything["ece"] == pytest.approx((0.1 + 0.8 + 0.1 + 0.8) / 4)
    assert (everything["tpr"], everything["tnr"]) == (0.5, 0.5)
    told = json.loads(everything["calibration"])
    assert (told["passages"], told["relevant"], sum(part["count"] for part in told["bins"])) == (4, 2, 4)
    # An order is no score: neither the first stage nor what is fused with it is calibrated.
    assert [row_of(board, "a", stage)["ece"] for stage in ("bm25", "sft+rrf")] == [None, None]


def test_a_student_asked_the_other_way_is_a_row_of_its_own_with_costs_of_its_own() -> None:
    values = {("a", "1"): 0.5}
    stages = ["bm25", "base", "sft", "sft+rrf", "sft~direct", "sft~direct+rrf", "rl"]
    calls: list[Call] = [
        ("sft", "a", "1", 1, ["d1", "d2"], None, 100, 400, 9.0),
        ("sft~direct", "a", "1", 1, ["d1", "d2"], None, 90, 10, 1.0),
    ]
    board = board_of([scores("r", stage, values) for stage in reversed(stages)], asked(calls))
    assert board.filter(domain="a")["stage"].to_list() == stages
    written = {stage: row_of(board, "a", stage)["output_tokens_per_query"] for stage in stages}
    assert (written["sft"], written["sft+rrf"]) == (400, 400)
    assert (written["sft~direct"], written["sft~direct+rrf"]) == (10, 10)


def test_windows_turned_round_are_told_as_mean_tau_of_those_with_two_orders() -> None:
    values = {("a", "1"): 0.5, ("b", "1"): 0.5}
    probes = [("r", "sft", "a", 1.0), ("r", "sft", "a", 0.5), ("r", "sft", "a", None), ("r", "sft", "b", -1.0)]
    board = board_of([scores("r", stage, values) for stage in ("bm25", "base", "sft")], probes=probes)
    told = [row_of(board, domain, "sft") for domain in ("a", "b", ALL_DOMAINS)]
    assert [(row["position_tau"], row["position_probes"]) for row in told] == [
        (0.75, 2), (-1.0, 1), (pytest.approx(0.5 / 3), 3),
    ]  # fmt: skip
    assert row_of(board, "a", "base")["position_tau"] is None
