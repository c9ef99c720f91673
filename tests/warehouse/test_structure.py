"""What a list must be: every fault has its name, and a list without one passes."""

from __future__ import annotations

import polars as pl
import pytest
from clean_lists import TEXTS, faults, judge, lists, row
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from warehouse.curation.structure import REASONS, StructurePolicy, structure

TWENTY_ONE = [f"p{n}" for n in range(21)]
PLANTED = {
    "list_length": {"docids": ["d1"], "final_order": [0], "relevant": [0]},
    "passage_repeated": {"docids": ["d1", "d2", "d1"]},
    "passage_unknown": {"docids": ["d1", "d2", "gone"]},
    "not_a_permutation": {"final_order": [1, 1, 2]},
    "relevant_out_of_range": {"relevant": [3]},
    "none_relevant": {"relevant": []},
    "all_relevant": {"relevant": [0, 1, 2]},
    "empty_query": {"query": " \n"},
}


@pytest.mark.parametrize("reason", PLANTED)
def test_a_planted_fault_is_named_and_the_clean_list_beside_it_kept(reason: str) -> None:
    judged = judge(structure(StructurePolicy()), lists(row("faulty", **PLANTED[reason])))
    told = faults(judged)
    assert ("faulty", "rejected", reason) in told
    expected = {reason} | ({"all_relevant"} if reason == "list_length" else set())
    assert {name for _, _, name in told} == expected
    assert judged.lists.rows["ranking_id"].to_list() == ["clean"]


def test_every_fault_has_a_plant_and_an_explanation() -> None:
    assert set(PLANTED) == set(REASONS)


@pytest.mark.parametrize(
    "changed",
    [
        {"final_order": None}, {"final_order": [0, 1]}, {"final_order": [-1, 0, 1]}, {"final_order": [0, 1, None]},
        {"final_order": [1, 2, 3]},
    ],
)  # fmt: skip
def test_an_order_that_is_no_permutation_is_rejected(changed: dict) -> None:
    judged = judge(structure(StructurePolicy()), lists(row("faulty", **changed)))
    assert faults(judged) == {("faulty", "rejected", "not_a_permutation")}


@pytest.mark.parametrize("relevant", [[-1], [0, 0], [1, 7]])
def test_a_relevant_place_outside_the_list_or_named_twice_is_rejected(relevant: list[int]) -> None:
    judged = judge(structure(StructurePolicy()), lists(row("faulty", relevant=relevant)))
    assert faults(judged) == {("faulty", "rejected", "relevant_out_of_range")}


def test_several_faults_of_one_list_are_all_named() -> None:
    judged = judge(structure(StructurePolicy()), lists(row("faulty", relevant=[], final_order=[0, 0, 1])))
    assert {reason for _, _, reason in faults(judged)} == {"none_relevant", "not_a_permutation"}


def test_a_list_without_labels_at_all_is_none_relevant() -> None:
    judged = judge(structure(StructurePolicy()), lists(row("faulty", relevant=None)))
    assert faults(judged) == {("faulty", "rejected", "none_relevant")}


def test_the_bounds_of_a_list_are_the_policys() -> None:
    texts = dict.fromkeys(TWENTY_ONE, "A passage among others that is long enough.")
    long = row("long", docids=TWENTY_ONE, final_order=list(range(21)))
    told = judge(structure(StructurePolicy()), lists(long, texts=texts)).decisions.filter(
        pl.col("ranking_id") == "long"
    )
    assert told.select("reason", "value", "threshold").rows() == [("list_length", 21.0, 20.0)]
    assert not faults(judge(structure(StructurePolicy(most=21)), lists(long, texts=texts)))
    with pytest.raises(ValidationError, match="no list would pass"):
        StructurePolicy(least=5, most=4)


def test_no_lists_give_no_decisions() -> None:
    empty = lists()
    nothing = judge(structure(StructurePolicy()), type(empty)(empty.rows.clear(), empty.passages))
    assert nothing.decisions.is_empty()


@given(st.permutations(sorted(TEXTS)), st.data())
def test_a_list_with_an_order_and_both_labels_always_passes(docids: list[str], data: st.DataObject) -> None:
    size = data.draw(st.integers(2, len(docids)))
    order = data.draw(st.permutations(range(size)))
    relevant = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size - 1, unique=True))
    given_lists = lists(row("drawn", docids=docids[:size], final_order=order, relevant=relevant))
    assert not faults(judge(structure(StructurePolicy()), given_lists))
