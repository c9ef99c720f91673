"""Benchmarks measured here beside what others published: every row with its setting, and published ones marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from warehouse.benchmarks.boards import Board, boards_of, shown_sha256
from warehouse.benchmarks.registry import registered
from warehouse.pages.published import benchmark_tables

REGISTRY = registered(Path(__file__).resolve().parents[2] / "benchmarks")
FIRST = {"first_stage": "bm25(k1=0.9, b=0.4)", "query_retrieved": "retrieval_text", "depth": 100}
RERANKED = {
    **FIRST, "query_reranked": "text", "passage_tokens": 512, "fusion": "none", "engine": "transformers 5",
    "decoding": {"name": "sliding_window", "window": 20, "step": 10, "passage_tokens": None}, "not_reranked": 3,
}  # fmt: skip


def scored(part: str, system: str, value: float, setting: dict[str, Any], created_at: str = "2026-01-01") -> dict:
    return {
        "part": part, "system": system, "model": "", "queries": 103, "measures": json.dumps({"nDCG@10": value}),
        "low": value - 0.05, "high": value + 0.05, "malformed_rate": None if setting is FIRST else 0.021,
        "setting": json.dumps(setting), "setting_sha256": system, "run": "r", "run_sha256": "s",
        "created_at": created_at, "versus": None, "costs": None,
    }  # fmt: skip


def kept(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema_overrides={"malformed_rate": pl.Float64, "versus": pl.String, "costs": pl.String})


def test_a_part_has_our_rows_and_the_published_ones_of_the_same_part() -> None:
    scores = kept(
        scored("BRIGHT/biology", "bm25 (first stage)", 0.2, FIRST),
        scored("BRIGHT/biology", "reasonrank: rl", 0.4, RERANKED, "2026-01-02"),
        scored("mine", "bm25 (first stage)", 0.5, FIRST),
    )
    biology, mine = boards_of(scores, REGISTRY)
    systems = [(row["system"], row["origin"], row["measures"]["nDCG@10"]) for row in biology.rows]
    assert systems[:2] == [("bm25 (first stage)", "here", 0.2), ("reasonrank: rl", "here", 0.4)]
    assert ("ReasonRank 32B", "published", pytest.approx(0.5817)) == systems[-1] and len(systems) == 7
    assert [row["origin"] for row in mine.rows] == ["here"]


def test_a_table_a_benchmark_has_every_row_with_its_setting_best_first_and_published_ones_marked() -> None:
    scores = kept(
        scored("BRIGHT/biology", "bm25 (first stage)", 0.2, FIRST),
        scored("BRIGHT/biology", "reasonrank: rl", 0.57, RERANKED),
        scored("R2MED/Biology", "bm25 (first stage)", 0.1, FIRST),
    )
    bright, r2med = benchmark_tables(boards_of(scores, REGISTRY))
    assert (bright["name"], r2med["name"]) == ("BRIGHT", "R2MED")
    best, ours, seven = bright["rows"][:3]
    assert [row["system"] for row in (best, ours, seven)] == ["ReasonRank 32B", "reasonrank: rl", "ReasonRank 7B"]
    assert [row["published"] for row in (best, ours, seven)] == [True, False, True]
    assert all(part in seven["how"] for part in ("ReasonIR-8B's top 100", "windows of 20 by 10", "fusion: none told"))
    assert ours["how"] == (
        "bm25(k1=0.9, b=0.4) over retrieval_text, top 100; sliding_window (window 20, step 10), 512 tokens a passage, "
        "text of the query; fusion: none; transformers 5; 3 lists too long for it"
    )
    assert "no reranking" in next(row["how"] for row in bright["rows"] if row["system"].startswith("bm25"))
    # R2MED's papers tell the average alone.
    assert [row["part"] for row in r2med["rows"]] == ["R2MED/Biology", *["R2MED (average of 8)"] * 3]


def test_the_page_is_made_again_when_a_score_or_a_published_row_changes_and_not_for_the_hour() -> None:
    def digest(value: float, at: str = "2026-01-01") -> str:
        return shown_sha256(boards_of(kept(scored("R2MED/Biology", "bm25 (first stage)", value, FIRST, at)), REGISTRY))

    assert digest(0.1) == digest(0.1, "2026-02-02") != digest(0.2)
    (board,) = boards_of(kept(scored("R2MED/Biology", "bm25 (first stage)", 0.1, FIRST)), REGISTRY)
    other = board.benchmark.model_copy(update={"published": board.benchmark.published[:1]})
    assert shown_sha256([Board(board.part, other, board.rows)]) != shown_sha256([board])


def test_comparisons_are_corrected_over_all_that_stand_beside_one_another() -> None:
    rows = [
        scored(f"p{n}", "mine", 0.4, RERANKED) | {"versus": json.dumps({"p": p})} for n, p in enumerate([0.01, 0.6])
    ]
    boards = boards_of(kept(scored("p0", "bm25", 0.2, FIRST), *rows), REGISTRY)
    told = [row["versus"] for board in boards for row in board.rows]
    assert told == [None, {"p": 0.01, "p_holm": 0.02}, {"p": 0.6, "p_holm": 0.6}]


def test_a_cascade_is_told_with_its_second_model() -> None:
    then = {"keep": 20, "decoding": {"name": "sliding_window", "window": 10, "passage_tokens": None}}
    (table,) = benchmark_tables(boards_of(kept(scored("mine", "a, then b", 0.4, RERANKED | {"then": then})), REGISTRY))
    assert "; its first 20 ordered anew by sliding_window (window 10); fusion" in table["rows"][0]["how"]
