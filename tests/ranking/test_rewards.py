"""The multi-view reward: equal to outside programs on right answers, ordered as meant, and blind to empty talk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import trec_eval_of_order
from rbo import RankingSimilarity

from ranking.parsing import Fault, format_order
from ranking.rewards import MultiViewReward, ndcg_of_order, rank_biased_overlap, recall_of_order

Window = tuple[list[int], list[int], list[int]]
persistences = st.sampled_from([0.1, 0.5, 0.9, 0.98, 1.0])


def answer(order: list[int], chain: str = "because") -> str:
    return f"<think>{chain}</think> <answer> {format_order(order)} </answer>"


def windows(least: int = 1) -> st.SearchStrategy[Window]:
    """(the model's order, the relevant positions, the teacher's order) of one window."""

    def of(count: int) -> st.SearchStrategy[Window]:
        order = st.permutations(range(count))
        return st.tuples(order, st.lists(st.integers(0, count - 1), min_size=1, unique=True), order)

    return st.integers(least, 25).flatmap(of)


@settings(deadline=None)
@given(st.lists(windows(), min_size=1, max_size=5), st.integers(1, 12))
def test_the_reward_of_right_answers_is_that_of_pytrec_eval_and_rbo(batch: list[Window], k: int) -> None:
    orders, relevant, teachers = map(list, zip(*batch, strict=True))
    rewards = MultiViewReward(k=k)([answer(order) for order in orders], relevant, teachers)
    for index, (order, good, teacher) in enumerate(batch):
        theirs = trec_eval_of_order(order, good, [f"nDCG@{k}", f"R@{k}"])
        overlap = RankingSimilarity(list(order), list(teacher)).rbo(p=1.0)
        assert rewards.ndcg[index] == pytest.approx(theirs[f"nDCG@{k}"], abs=1e-9)
        assert rewards.recall[index] == pytest.approx(theirs[f"R@{k}"], abs=1e-9)
        assert rewards.rbo[index] == pytest.approx(overlap, abs=1e-9)
        expected = theirs[f"nDCG@{k}"] + 0.2 * theirs[f"R@{k}"] + 0.1 * overlap
        assert rewards.total[index] == pytest.approx(expected, abs=1e-9)
        assert rewards.faults[index] is None


@settings(deadline=None)
@given(st.integers(4, 25), st.data())
def test_perfect_beats_one_swap_beats_reversed_beats_a_wrong_list_beats_wrong_tags(
    count: int, data: st.DataObject
) -> None:
    perfect = data.draw(st.permutations(range(count)))
    relevant = perfect[: data.draw(st.integers(1, count))]
    here, there = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
    swapped = list(perfect)
    swapped[here], swapped[there] = swapped[there], swapped[here]
    texts = [
        answer(perfect),
        answer(swapped),
        answer(perfect[::-1]),
        answer(perfect[:-1]),
        answer(perfect).removesuffix("</answer>"),
    ]
    rewards = MultiViewReward()(texts, [relevant] * 5, [perfect] * 5)
    total = rewards.total.tolist()
    assert total[0] > total[1] > total[2] > total[3] > total[4]
    assert total[0] == pytest.approx(1.1 + 0.2 * min(10, len(relevant)) / len(relevant))
    assert total[3:] == [0.0, -1.0]
    assert rewards.faults == (None, None, None, Fault.LIST, Fault.TAGS)


def test_the_highest_reward_is_the_published_one_point_three() -> None:
    assert MultiViewReward()([answer([1, 0, 2])], [[1]], [[1, 0, 2]]).total.tolist() == pytest.approx([1.3])


@given(windows(least=2), st.data())
def test_raising_a_relevant_passage_by_one_place_never_lowers_ndcg_or_recall(
    window: Window, data: st.DataObject
) -> None:
    order, relevant, _ = window
    place = data.draw(st.integers(1, len(order) - 1))
    raised = list(order)
    raised[place - 1], raised[place] = raised[place], raised[place - 1]
    if order[place] in relevant:
        assert ndcg_of_order(raised, set(relevant)) >= ndcg_of_order(order, set(relevant)) - 1e-12
        assert recall_of_order(raised, set(relevant)) >= recall_of_order(order, set(relevant))


@pytest.mark.parametrize(
    "listed",
    [
        "[1] > [2] > [0]",  # the released reward took [0] for the last passage
        "1 2 3",  # and any text with three different numbers for a ranking
        "[1] > [2] and then [3]",
        "of 3 passages, number 2 is better than number 1",
        "[1], [2], [3]",
        "",
        "[1] > [2]",
        "[1] > [2] > [2]",
        "[1] > [2] > [3] > [3]",
    ],
)
def test_what_is_not_a_permutation_in_the_grammar_earns_nothing_whatever_digits_it_holds(listed: str) -> None:
    rewards = MultiViewReward()([f"<think>a</think><answer>{listed}</answer>"], [[0]], [[0, 1, 2]])
    assert (rewards.total[0], rewards.faults[0]) == (0.0, Fault.LIST)
    assert rewards.ndcg[0] == rewards.recall[0] == rewards.rbo[0] == 0.0


@given(windows(), st.text(alphabet="abc 123[]>.\n", max_size=20))
def test_any_word_beside_the_list_makes_it_a_wrong_list(window: Window, talk: str) -> None:
    order, relevant, teacher = window
    text = f"<think>a</think><answer>{format_order(order)}{talk}x</answer>"
    assert MultiViewReward()([text], [relevant], [teacher]).total.tolist() == [0.0]


@given(windows(), st.text(alphabet="abc 123[]>.\n", max_size=40))
def test_what_the_chain_says_changes_nothing(window: Window, chain: str) -> None:
    order, relevant, teacher = window
    rewards = MultiViewReward()([answer(order), answer(order, chain)], [relevant] * 2, [teacher] * 2)
    assert rewards.total[0] == rewards.total[1]


def test_weights_gates_and_the_chain_are_what_the_reward_was_given() -> None:
    reward = MultiViewReward(k=2, recall_weight=0.0, rbo_weight=1.0, list_fault=-0.5, tags_fault=-2.0, think=False)
    texts = ["<answer>[2] > [1] > [3]</answer>", "<answer>[2]</answer>", answer([1, 0, 2])]
    rewards = reward(texts, [[1]] * 3, [[1, 0, 2]] * 3)
    assert rewards.total.tolist() == pytest.approx([2.0, -0.5, -2.0])


def test_a_batch_of_uneven_windows_keeps_its_order_and_an_empty_one_is_empty() -> None:
    rewards = MultiViewReward()(["junk", answer([0]), answer([1, 0])], [[0], [0], [0]], [[0, 1], [0], [1, 0]])
    assert rewards.faults == (Fault.TAGS, None, None)
    assert rewards.ndcg.tolist() == pytest.approx([0.0, 1.0, 1 / np.log2(3)])
    assert MultiViewReward()([], [], []).total.shape == (0,)


def test_unequal_batches_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        MultiViewReward()(["junk"], [], [[0]])


def test_a_window_without_a_relevant_passage_earns_by_the_teachers_order_alone() -> None:
    rewards = MultiViewReward()([answer([1, 0])], [[]], [[1, 0]])
    assert (rewards.ndcg[0], rewards.recall[0], rewards.total[0]) == (0.0, 0.0, pytest.approx(0.1))


@given(windows(), st.sampled_from([0.1, 0.5, 0.9, 0.98]))
def test_rbo_is_the_rbo_packages_and_below_one_its_truncated_sum_over_the_sum_of_equal_lists(
    window: Window, p: float
) -> None:
    left, _, right = window
    theirs = RankingSimilarity(list(left), list(right))
    assert rank_biased_overlap(left, right, 1.0) == pytest.approx(theirs.rbo(p=1.0), abs=1e-9)
    # The package sums (1 - p) p^(d-1) A_d for d = 1 … n, which is 1 - p^n for equal lists; ours is normalised by that.
    assert rank_biased_overlap(left, right, p) == pytest.approx(theirs.rbo(p=p) / (1 - p ** len(left)), abs=1e-9)


@given(windows(), persistences)
def test_rbo_is_one_for_equal_lists_symmetric_and_within_zero_and_one(window: Window, p: float) -> None:
    left, _, right = window
    assert rank_biased_overlap(left, left, p) == 1.0
    assert rank_biased_overlap(left, right, p) == pytest.approx(rank_biased_overlap(right, left, p), abs=1e-12)
    assert 0.0 <= rank_biased_overlap(left, right, p) <= 1.0


@given(windows(least=2), persistences)
def test_rbo_of_unequal_lists_is_below_one_and_a_reversal_is_the_worst(window: Window, p: float) -> None:
    left, _, right = window
    if left != right:
        assert rank_biased_overlap(left, right, p) < 1.0
    assert rank_biased_overlap(left, right, p) >= rank_biased_overlap(left, left[::-1], p) - 1e-12


def test_rbo_of_lists_without_a_common_item_is_zero_and_of_empty_lists_one() -> None:
    assert rank_biased_overlap([1, 2], [3, 4]) == 0.0
    assert rank_biased_overlap([], []) == 1.0


def test_a_smaller_p_weighs_the_top_more() -> None:
    same, top, bottom = [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4]
    for p in (0.3, 0.9):
        assert rank_biased_overlap(same, bottom, p) > rank_biased_overlap(same, top, p)
    assert rank_biased_overlap(same, top, 0.3) < rank_biased_overlap(same, top, 0.9) < rank_biased_overlap(same, top)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.01])
def test_rbo_refuses_a_persistence_outside_its_range(p: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        rank_biased_overlap([0], [0], p)


def test_rbo_refuses_lists_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        rank_biased_overlap([0, 1], [0])
