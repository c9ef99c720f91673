"""The leaderboard: every number can be worked out by hand, and the page shows what the rows hold."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from warehouse.leaderboard import ALL_DOMAINS, STAGES, bars, leaderboard, page_rows

QUERY = {"domain": pl.String, "qid": pl.String, "text": pl.String, "split": pl.String}
CALLS = ("recipe", "stage", "domain", "fault", "prompt_tokens", "completion_tokens", "seconds")


def queries(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame([(d, q, f"Text of {q}", s) for d, q, s in rows], schema=QUERY, orient="row")


def scores(recipe: str, stage: str, values: dict[tuple[str, str], float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (recipe, stage, f"{recipe}-{stage}", domain, qid, measure, value)
            for (domain, qid), value in values.items()
            for measure in ("nDCG@10", "R@10", "R@100", "RR", "AP")
        ],
        schema=["recipe", "stage", "model", "domain", "qid", "measure", "value"],
        orient="row",
    )


@pytest.fixture
def board() -> pl.DataFrame:
    first = {("a", "1"): 0.2, ("a", "2"): 0.4, ("b", "1"): 0.9}
    better = {("a", "1"): 0.5, ("a", "2"): 0.7, ("b", "1"): 0.3}
    calls = pl.DataFrame(
        [
            ("r", "sft", "a", None, 100, 20, 1.5), ("r", "sft", "a", "list", 100, 30, 0.5),
            ("r", "sft", "b", "tags", 7, 3, 2.0),
        ],
        schema=CALLS, orient="row",
    )  # fmt: skip
    return leaderboard(
        pl.concat([scores("r", "sft", better), scores("r", "bm25", first)]),
        calls,
        {"a": "test", "b": "dev"},
        pl.DataFrame({"model": ["r-sft"], "release": ["release-1"]}),
        resamples=500,
        seed=0,
    )


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
    best = {row["domain"]: row["stage"] for row in page_rows(board) if row["best"]}
    assert (best["a"], best["b"]) == ("sft", "bm25")
    assert {row["value"] for row in page_rows(board)} == {
        json.loads(measures)["nDCG@10"] for measures in board["measures"]
    }
    assert bars(board).startswith(b"\x89PNG")
