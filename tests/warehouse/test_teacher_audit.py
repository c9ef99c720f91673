"""The teacher audit: figures that follow from rows made by hand, and a sweep that adds up."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_lake import message

from warehouse.audit.teacher import ALL, ALPHAS, OPINIONS, alpha_sweep, audit_teacher, two_opinions
from warehouse.lake import Lake, Replace


def ranking(domain: str, number: int, final: list[str], relevant: list[str]) -> dict[str, Any]:
    return {
        "domain": domain, "ranking_id": f"{domain}-{number}", "qid": f"q{number}", "initial_list": sorted(final),
        "final_list": final, "relevant_docids": relevant,
    }  # fmt: skip


def mined(domain: str, number: int, *docids: str) -> list[dict[str, Any]]:
    return [
        {"domain": domain, "qid": f"q{number}", "docid": docid, "grade": 1, "origin": "teacher", "role": "positive"}
        for docid in docids
    ]


RANKINGS = pl.DataFrame(
    [
        ranking("math", 0, ["a", "b", "c", "d"], ["a"]),
        ranking("math", 1, ["a", "b", "c", "d"], ["d"]),
        ranking("coding", 0, ["b", "a", "c", "d"], ["a", "b"]),
        ranking("coding", 1, ["b", "a", "c", "d"], ["c"]),
    ]
)
POSITIVES = pl.DataFrame(mined("math", 0, "a") + mined("math", 1, "d") + mined("coding", 0, "a", "b"))


def fill(lake: Lake) -> None:
    figures = [
        {"teacher_precision": 0.5, "teacher_recall": 0.25, "teacher_kappa": 0.2, "teacher_pairs": 300.0},
        {"teacher_precision": 1.0, "teacher_recall": 0.75, "teacher_kappa": 0.6, "teacher_pairs": 100.0},
    ]
    made = pl.DataFrame(
        {
            "asset": "mined_judgements", "partition_key": ["math", "coding"],
            "figures": [json.dumps(some) for some in figures],
        }
    )  # fmt: skip
    spent = pl.DataFrame(
        {
            "domain": ["math", "math", "coding"], "purpose": "rank_teacher", "key": ["a", "b", "c"],
            "usd": [0.5, 0.5, 3.0], "prompt_tokens": [90, 90, 10], "completion_tokens": [10, 10, 10],
        }
    )  # fmt: skip
    hard = {**mined("math", 0, "b")[0], "grade": 0, "role": "hard_negative"}
    people = {**mined("math", 0, "c")[0], "origin": "human", "role": "qrels"}
    lake.commit(
        [
            Replace("materializations", made),
            Replace("rankings", RANKINGS),
            Replace("ranking_samples", RANKINGS.select("domain", "ranking_id", "qid", "initial_list", "final_list")),
            Replace("judgements", pl.concat([POSITIVES, pl.DataFrame([hard, people])])),
            Replace("exchanges", spent),
            Replace("campaign_exchanges", spent.select("domain", "purpose", "key")),
        ],
        message("labels"),
    )


def by_domain(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["domain"]: row for row in frame.iter_rows(named=True)}


def test_agreement_with_people_is_read_from_the_ledger_and_weighted_by_pairs(lake: Lake) -> None:
    fill(lake)
    told = by_domain(audit_teacher(lake, ["math", "coding"]).against_people)
    assert told["math"]["precision"] == 0.5
    assert told[ALL] == {"domain": ALL, "pairs": 400, "precision": 0.625, "recall": 0.375, "kappa": pytest.approx(0.3)}
    assert set(by_domain(audit_teacher(lake, ["math"]).against_people)) == {"math", ALL}


def test_the_two_opinions_are_compared_on_lists_with_a_mined_positive(lake: Lake) -> None:
    fill(lake)
    told = by_domain(audit_teacher(lake, ["math", "coding"]).two_opinions)
    # One list with the positive first, one with it last of four: 1 / log2(5).
    assert told["math"]["lists"] == 2
    assert told["math"]["consistency"] == pytest.approx((1 + 0.43067656) / 2)
    assert (told["math"]["first_is_positive"], told["math"]["precision"]) == (0.5, 0.5)
    # Eight pairs, two picked, two mined, one of them both: observed 6/8, by chance 10/16.
    assert told["math"]["kappa"] == pytest.approx((6 / 8 - 10 / 16) / (1 - 10 / 16))
    assert {**told["coding"], "domain": ""} == {
        "domain": "", "lists": 1, "consistency": 1.0, "first_is_positive": 1.0, "precision": 1.0, "kappa": 1.0,
    }  # fmt: skip
    assert (told[ALL]["lists"], told[ALL]["precision"]) == (3, 0.75)


def test_two_opinions_of_nothing_are_an_empty_frame() -> None:
    assert two_opinions(RANKINGS, POSITIVES.clear()).schema == OPINIONS
    assert two_opinions(RANKINGS.clear(), POSITIVES).is_empty()


def test_position_bias_is_told_by_domain(lake: Lake) -> None:
    fill(lake)
    told = by_domain(audit_teacher(lake, ["math", "coding"]).position)
    assert told["math"]["shown_first_picked_first"] == 1.0
    assert told["coding"]["shown_first_picked_first"] == 0.0
    assert told[ALL]["lists"] == 4


def test_the_sweep_tells_what_each_alpha_keeps_and_what_a_row_then_costs(lake: Lake) -> None:
    fill(lake)
    sweep = audit_teacher(lake, ["math", "coding"], alphas=(0.4, 0.5)).sweep
    assert sweep.filter(pl.col("domain") == "math").rows() == [
        ("math", 0.4, 2, 2, 1.0, 0.5, 100.0), ("math", 0.5, 2, 1, 0.5, 1.0, 200.0),
    ]  # fmt: skip
    assert sweep.filter(pl.col("domain") == ALL)["kept"].to_list() == [4, 3]
    assert sweep["domain"].to_list() == ["coding"] * 2 + ["math"] * 2 + [ALL] * 2


def test_where_nothing_is_kept_a_row_has_no_price() -> None:
    scored = pl.DataFrame({"domain": ["math"], "ranking_id": ["r"], "consistency": [0.2]})
    spent = pl.DataFrame({"domain": ["math"], "usd": [1.0], "prompt_tokens": [1], "completion_tokens": [1]})
    told = alpha_sweep(scored, spent, (0.3,)).row(0, named=True)
    assert (told["kept"], told["share"], told["usd_per_kept"], told["tokens_per_kept"]) == (0, 0.0, None, None)


@given(st.lists(st.tuples(st.sampled_from(["math", "coding"]), st.floats(0, 1)), min_size=1, max_size=40))
def test_a_higher_alpha_never_keeps_more_and_domains_add_up_to_all(drawn: list[tuple[str, float]]) -> None:
    scored = pl.DataFrame(drawn, schema={"domain": pl.String, "consistency": pl.Float64}, orient="row")
    spent = pl.DataFrame({"domain": ["math"], "usd": [1.0], "prompt_tokens": [1], "completion_tokens": [1]})
    sweep = alpha_sweep(scored, spent)
    for alpha in ALPHAS:
        at = sweep.filter(pl.col("alpha") == alpha)
        whole = at.filter(pl.col("domain") == ALL)["kept"].sum()
        assert at["kept"].sum() == 2 * whole
        assert whole == sum(value >= alpha for _, value in drawn)
    for _, line in sweep.group_by("domain"):
        assert line.sort("alpha")["kept"].to_list() == sorted(line["kept"], reverse=True)


def test_an_audit_at_a_snapshot_sees_what_stood_then(lake: Lake) -> None:
    fill(lake)
    then = lake.snapshot()
    lake.commit([Replace("rankings", RANKINGS.head(1))], message("teacher_rankings"))
    assert audit_teacher(lake, ["math", "coding"], snapshot=then).scored.height == 4
    assert audit_teacher(lake, ["math", "coding"]).scored.height == 1


def test_the_picture_is_a_png_that_moves_with_alpha(lake: Lake) -> None:
    fill(lake)
    audit = audit_teacher(lake, ["math", "coding"])
    assert audit.picture(0.4).startswith(b"\x89PNG")
    assert audit.picture(0.4) != audit.picture(0.6)
