"""The self-consistency score: NDCG@10 of a teacher's own ranking, and where alpha = 0.4 cuts."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import trec_eval_of_order

from ranking.consistency import consistency

ALPHA = 0.4


def rankings(*rows: tuple[str, list[str], list[str]]) -> pl.DataFrame:
    many = pl.List(pl.String)
    schema = pl.Schema({"ranking_id": pl.String(), "final_list": many, "relevant_docids": many})
    return pl.DataFrame(list(rows), schema=schema, orient="row")


@pytest.mark.parametrize(
    ("rank", "score", "kept"), [(1, 1.0, True), (3, 0.5, True), (4, 0.431, True), (5, 0.387, False), (11, 0.0, False)]
)
def test_with_one_positive_rank_four_passes_and_rank_five_fails(rank: int, score: float, kept: bool) -> None:
    final = [f"d{number}" for number in range(1, 21)]
    scored = consistency(rankings(("r", final, [f"d{rank}"])))["consistency"][0]
    assert scored == pytest.approx(score, abs=5e-4)
    assert (scored >= ALPHA) == kept


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.integers(1, 20).flatmap(
            lambda n: st.tuples(st.permutations(range(n)), st.lists(st.integers(0, n - 1), unique=True))
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_row_scores_trec_evals_ndcg_at_ten_in_its_own_place(cases: list[tuple[list[int], list[int]]]) -> None:
    # Ids that sort against the row order: the join must not reorder.
    rows = [
        (f"r{len(cases) - i}", [str(p) for p in final], [str(p) for p in good]) for i, (final, good) in enumerate(cases)
    ]
    scored = consistency(rankings(*rows))
    assert scored.drop("consistency").equals(rankings(*rows))
    expected = [trec_eval_of_order(final, good, ["nDCG@10"])["nDCG@10"] if good else 0.0 for final, good in cases]
    assert scored["consistency"].to_list() == pytest.approx(expected, abs=1e-9)


def test_a_row_without_a_positive_or_without_a_ranking_scores_zero_and_stays() -> None:
    scored = consistency(rankings(("none", ["a", "b"], []), ("empty", [], ["a"]), ("good", ["a", "b"], ["a"])))
    assert scored["consistency"].to_list() == [0.0, 0.0, 1.0]


def test_no_rankings_are_no_rankings_with_the_same_columns() -> None:
    empty = consistency(rankings())
    assert empty.is_empty()
    assert empty.schema["consistency"] == pl.Float64
