"""With a chain against without: pairs that differ in that alone, and figures that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from warehouse.evaluation import OF_A_RUN, PROBE, SETTINGS, Runs
from warehouse.intake.sources import ALL_DOMAINS
from warehouse.thinking import with_and_without

WINDOW = {"first_stage": "bm25", "decoder": "sliding_window", "window_size": 20, "passage_tokens": 512}
# recipe, stage, model, think, values by query
Told = tuple[str, str, str, bool, list[float]]


def compared(*told: Told, **changes: Any) -> list[dict[str, Any]]:
    settings, scores, board = [], [], []
    for recipe, stage, model, think, values in told:
        how = WINDOW | changes.get(recipe, {})
        settings.append({**how, "recipe": recipe, "stage": stage, "model": model, "run": stage, "think": think})
        scores += [(recipe, stage, "a", f"q{n}", "nDCG@10", value) for n, value in enumerate(values)]
        board.append((recipe, stage, ALL_DOMAINS, 500.0 if think else 100.0, 2.0 if think else 0.5))
    empty = pl.DataFrame()
    made = Runs(
        empty,
        empty,
        pl.DataFrame(scores, schema=["recipe", "stage", "domain", "qid", "measure", "value"], orient="row"),
        empty,
        pl.DataFrame(settings, schema={**OF_A_RUN, **SETTINGS}),
        empty,
        pl.DataFrame(schema=PROBE),
    )
    columns = ["recipe", "stage", "domain", "tokens_per_query", "seconds_per_query"]
    return with_and_without(made, pl.DataFrame(board, schema=columns, orient="row"), resamples=400, seed=0)


def test_a_recipe_and_its_twin_are_paired_stage_by_stage_and_query_by_query() -> None:
    sft, rl = compared(
        ("reasonrank", "sft", "m1", True, [0.2, 0.4, 0.6, 0.8]),
        ("reasonrank-direct", "sft", "m2", False, [0.4, 0.4, 0.9, 0.9]),
        ("reasonrank", "rl", "m3", True, [0.5]),
        ("reasonrank-direct", "rl", "m4", False, [0.5]),
        ("reasonrank", "sft+rrf", "m1", True, [0.1]),
        ("reasonrank", "bm25", "bm25", True, [0.1]),
    )
    assert (sft["thinks"], sft["direct"], sft["queries"]) == ("reasonrank sft", "reasonrank-direct sft", 4)
    assert (sft["mean"], sft["other"], sft["difference"]) == pytest.approx((0.5, 0.65, -0.15))
    assert (sft["wins"], sft["ties"], sft["losses"]) == (0, 1, 3)
    assert sft["low"] <= sft["difference"] <= sft["high"]
    # Three queries of three differ to one side: two of eight draws of signs are as far out; corrected for two pairs.
    assert (sft["p"], sft["p_holm"], rl["p"]) == (0.25, 0.5, 1.0)
    assert [sft[f"tokens_per_query_{side}"] for side in ("thinks", "direct")] == [500.0, 100.0]
    assert [sft[f"seconds_per_query_{side}"] for side in ("thinks", "direct")] == [2.0, 0.5]
    assert (rl["thinks"], rl["queries"], rl["difference"]) == ("reasonrank rl", 1, 0.0)


def test_one_student_asked_both_ways_is_paired_with_itself_alone() -> None:
    pairs = compared(
        ("reasonrank", "base", "m0", True, [0.2]),
        ("reasonrank", "base~direct", "m0", False, [0.3]),
        ("reasonrank", "sft", "m1", True, [0.2]),
        ("reasonrank", "sft~direct", "m1", False, [0.3]),
        ("reasonrank-direct", "sft", "m2", False, [0.4]),
        ("reasonrank-direct", "sft~think", "m2", True, [0.1]),
    )
    assert {(pair["thinks"], pair["direct"]) for pair in pairs} == {
        ("reasonrank base", "reasonrank base~direct"),
        ("reasonrank sft", "reasonrank sft~direct"),
        ("reasonrank sft", "reasonrank-direct sft"),
        ("reasonrank-direct sft~think", "reasonrank-direct sft"),
    }


@pytest.mark.parametrize("change", [{"window_size": 10}, {"passage_tokens": 64}, {"decoder": "random_groups"}])
def test_what_differs_in_more_than_the_chain_is_no_pair(change: dict[str, Any]) -> None:
    told = [("a", "sft", "m1", True, [0.2]), ("b", "sft", "m2", False, [0.3])]
    assert len(compared(*told)) == 1 and compared(*told, b=change) == []


def test_without_a_pair_there_is_nothing_to_say() -> None:
    assert compared(("a", "sft", "m1", True, [0.2])) == []
    other_queries = compared(("a", "sft", "m1", True, []), ("b", "sft", "m2", False, [0.3]))
    assert other_queries == []
