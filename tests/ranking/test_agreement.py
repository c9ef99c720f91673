"""How far the teacher's judgements agree with people's, over the pairs that both could judge."""

from __future__ import annotations

import polars as pl
import pytest

from ranking.agreement import agreement


def pairs(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={"qid": pl.String, "docid": pl.String, "grade": pl.Int64}, orient="row")


SHOWN = pairs(*[("q1", docid, 0) for docid in "abcd"], ("q2", "a", 0)).select("qid", "docid")


def test_precision_recall_and_kappa_are_over_the_shown_pairs_of_queries_that_people_judged() -> None:
    teacher = pairs(("q1", "a", 1), ("q1", "b", 1), ("q1", "c", 0), ("q2", "a", 1), ("q1", "unseen", 1))
    human = pairs(("q1", "a", 2), ("q1", "c", 1), ("q1", "b", 0), ("q1", "never shown", 1), ("q2", "a", 0))
    # q2 has no human positive; of q1's four pairs the teacher picks a and b, people a and c: agreement 1/2 is chance.
    found = agreement(teacher, human, SHOWN)
    assert found == {
        "teacher_precision": 0.5, "teacher_recall": 0.5, "teacher_kappa": pytest.approx(0.0), "teacher_pairs": 4.0
    }  # fmt: skip


def test_a_teacher_that_agrees_throughout_scores_one_and_one_that_picks_nothing_zero() -> None:
    human = pairs(("q1", "a", 1))
    assert agreement(human, human, SHOWN)["teacher_kappa"] == 1.0
    silent = agreement(pairs(), human, SHOWN)
    assert (silent["teacher_precision"], silent["teacher_recall"], silent["teacher_kappa"]) == (0.0, 0.0, 0.0)


def test_where_nobody_judged_what_was_shown_there_is_no_agreement_to_report() -> None:
    assert agreement(pairs(("q1", "a", 1)), pairs(("q9", "a", 1)), SHOWN) == {}
