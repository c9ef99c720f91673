"""Rerankers of which theory says what they score: a perfect one, a reversed, a random and a garbage-talking one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pytest
from rerankers import Answer, at_random, decode, garbage, perfect, reversed_of

from ranking.decoding.calls import Decoder
from ranking.decoding.cascade import cascade
from ranking.decoding.listwise import random_groups, sliding_window
from ranking.decoding.pointwise import pointwise
from ranking.decoding.setwise import elimination, heapsort
from ranking.metrics import evaluate

COUNT, RELEVANT, QUERIES = 100, 12, 300
# Each finds the first ten of a hundred exactly, if the model is right.
EXACT: dict[str, Decoder] = {
    "sliding window": sliding_window(20, 10),
    "two passes": sliding_window(20, 10, passes=2),
    "heapsort": heapsort(19, 10),
    "elimination": elimination(20),
    "pointwise": pointwise(),
    "cascade": cascade(pointwise(), sliding_window(20, 10), keep=20),
}
exact = pytest.mark.parametrize("decoder", EXACT.values(), ids=EXACT.keys())


def grades_of(query: int) -> list[int]:
    """Twelve relevant passages of a hundred, graded 1 to 3, at drawn places of the first stage."""
    grades = [0] * COUNT
    dice = random.Random(query)
    for place in dice.sample(range(COUNT), RELEVANT):
        grades[place] = dice.randint(1, 3)
    return grades


def worth_of(grades: Sequence[int]) -> list[float]:
    """What a passage helps: its grade, and of equal ones the first stage's earlier one."""
    return [grade - place / 1000 for place, grade in enumerate(grades)]


def scored(orders: Sequence[Sequence[int]]) -> pl.DataFrame:
    """nDCG@10 and R@10 of each query's order, as the product measures them."""
    run = pl.DataFrame(
        [(f"q{q}", f"d{p:03}", float(-rank)) for q, order in enumerate(orders) for rank, p in enumerate(order)],
        schema=["qid", "docid", "score"], orient="row",
    )  # fmt: skip
    qrels = pl.DataFrame(
        [(f"q{q}", f"d{p:03}", grade) for q in range(len(orders)) for p, grade in enumerate(grades_of(q))],
        schema=["qid", "docid", "grade"], orient="row",
    )  # fmt: skip
    return evaluate(run, qrels, ["nDCG@10", "R@10"])


def reranked(decoder: Decoder, answer: Callable[[int], Answer], queries: int) -> list[tuple[int, ...]]:
    return [decode([COUNT], decoder, answer(query)).orders[0] for query in range(queries)]


def dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:10], start=1))


@exact
def test_a_perfect_reranker_scores_one_and_finds_ten_of_the_twelve(decoder: Decoder) -> None:
    scores = scored(reranked(decoder, lambda query: perfect(worth_of(grades_of(query))), 20))
    assert scores["nDCG@10"].to_list() == pytest.approx([1.0] * 20)
    assert scores["R@10"].to_list() == pytest.approx([10 / RELEVANT] * 20)


@exact
def test_a_reversed_reranker_scores_nothing_since_the_irrelevant_fill_its_first_ten(decoder: Decoder) -> None:
    scores = scored(reranked(decoder, lambda query: reversed_of(worth_of(grades_of(query))), 20))
    assert scores["nDCG@10"].to_list() == scores["R@10"].to_list() == [0.0] * 20


def test_a_reversed_reranker_of_a_short_list_scores_what_the_reversed_order_is_worth() -> None:
    grades = [3, 0, 1, 0, 2, 0, 0]
    (order,) = decode([7], pointwise(), reversed_of(worth_of(grades))).orders
    run = pl.DataFrame({"qid": "q", "docid": [f"d{p}" for p in order], "score": [float(-n) for n in range(7)]})
    qrels = pl.DataFrame({"qid": "q", "docid": [f"d{p}" for p in range(7)], "grade": grades})
    expected = dcg([0, 0, 0, 0, 1, 2, 3]) / dcg([3, 2, 1])
    assert evaluate(run, qrels, ["nDCG@10"])["nDCG@10"].item() == pytest.approx(expected)


@pytest.mark.parametrize("decoder", [pointwise(), random_groups(20, repeats=1)], ids=["pointwise", "random groups"])
def test_a_random_reranker_scores_what_chance_gives(decoder: Decoder) -> None:
    values = scored(reranked(decoder, lambda query: at_random(10_000 + query), QUERIES))["nDCG@10"].to_numpy()
    # At every place stands the mean grade of the list.
    expected = np.array([
        dcg([sum(grades) / COUNT] * 10) / dcg(sorted(grades, reverse=True)) for grades in map(grades_of, range(QUERIES))
    ])  # fmt: skip
    error = (values - expected).std(ddof=1) / math.sqrt(QUERIES)
    assert abs((values - expected).mean()) < 4 * error < 0.04
    assert values.std() > 0.02  # and it is chance


@exact
def test_a_garbage_talking_reranker_scores_what_the_first_stage_does(decoder: Decoder) -> None:
    first = scored([range(COUNT)] * 20)
    talked = [decode([COUNT], decoder, garbage) for _ in range(20)]
    assert scored([one.orders[0] for one in talked]).equals(first)
    assert all(sum(one.faults.values()) == len(one.tickets) for one in talked)  # every answer counts as malformed
