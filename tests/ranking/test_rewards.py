"""Rewards: equal to outside programs on right answers, ordered as meant, and blind to empty talk and to neighbours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import trec_eval_of_order
from rbo import RankingSimilarity

from ranking.parsing import Fault, format_order
from ranking.rewards import (
    MultiViewReward,
    RewardBatch,
    exact_label,
    mask,
    ndcg,
    padded,
    query_reciprocal_rank,
    rank_biased_overlap,
    recall,
)

Window = tuple[list[int], list[int], list[int]]
persistences = st.sampled_from([0.1, 0.5, 0.9, 0.98, 1.0])
# Chains full of what an answer is made of, but for its tags.
chains = st.text(alphabet="abc 123[]<>.\n", max_size=40)
# (number of the query, whether its passage is relevant, the score said; None is a malformed rollout).
rollouts = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.none() | st.integers(0, 10) | st.sampled_from([0.5, 9.5])),
    max_size=24,
)


def answer(order: list[int], chain: str = "because") -> str:
    return f"<think>{chain}</think> <answer> {format_order(order)} </answer>"


def pick(name: str, chain: str = "because") -> str:
    return f"<think>{chain}</think><answer>{name}</answer>"


def score(said: float | None, chain: str = "because") -> str:
    return f"<think>{chain}</think><answer> {'?' if said is None else said} </answer>"


def judged(batch: Sequence[tuple[int, bool, float | None]]) -> RewardBatch:
    queries, relevant, said = zip(*batch, strict=True) if batch else ((), (), ())
    return query_reciprocal_rank([score(s) for s in said], relevant, [f"q{q}" for q in queries], highest=10)


def one_ndcg(order: list[int], relevant: list[int], k: int = 10) -> float:
    return float(ndcg(padded([order]), mask([relevant], np.array([len(order)])), k)[0])


def one_recall(order: list[int], relevant: list[int], k: int = 10) -> float:
    return float(recall(padded([order]), mask([relevant], np.array([len(order)])), k)[0])


def rbo(left: Sequence[int], right: Sequence[int], p: float = 1.0) -> float:
    return float(rank_biased_overlap(padded([left]), padded([right]), p)[0])


def released(text: str, label: str, relevant: list[int]) -> float:
    """ReasonRank's released reward: digits wherever they stand in the answer, and positions counted from the back."""
    found = re.search(r"<think>.*?</think>\s*<answer>(.*?)</answer>", text, re.DOTALL)
    if found is None:
        return -1.0
    said, wanted = re.findall(r"\d+", found[1]), re.findall(r"\d+", label)
    if len(said) != len(wanted) or len(set(said)) != len(set(wanted)):
        return 0.0
    passages = list(range(len(wanted)))
    order = [passages[int(number) - 1] for number in said if int(number) - 1 < len(passages)]
    values = trec_eval_of_order(order, relevant, ["nDCG@10", "R@10"])
    return values["nDCG@10"] + 0.2 * values["R@10"] + 0.1 * RankingSimilarity(said, wanted).rbo()


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
        assert rewards.terms["ndcg"][index] == pytest.approx(theirs[f"nDCG@{k}"], abs=1e-9)
        assert rewards.terms["recall"][index] == pytest.approx(theirs[f"R@{k}"], abs=1e-9)
        assert rewards.terms["rbo"][index] == pytest.approx(overlap, abs=1e-9)
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
        assert one_ndcg(raised, relevant) >= one_ndcg(order, relevant) - 1e-12
        assert one_recall(raised, relevant) >= one_recall(order, relevant)


@settings(deadline=None)
@given(windows())
def test_a_right_answer_earns_what_reasonranks_released_reward_pays(window: Window) -> None:
    order, relevant, teacher = window
    ours = MultiViewReward()([answer(order)], [relevant], [teacher])
    assert ours.total[0] == pytest.approx(released(answer(order), format_order(teacher), relevant), abs=1e-9)


@pytest.mark.parametrize(
    "listed",
    [
        "of 3 passages, number 2 is better than number 1",
        "[2] > [1] > [0]",  # no passage [3] at all
        "[2] > [1] > [3] because it is so",
        "2 1 3",
    ],
)
def test_what_the_released_reward_pays_for_by_mistake_earns_nothing(listed: str) -> None:
    text = f"<think>a</think><answer>{listed}</answer>"
    assert released(text, "[2] > [1] > [3]", [2, 1]) > 0.5
    rewards = MultiViewReward()([text], [[2, 1]], [[1, 0, 2]])
    assert (rewards.total[0], rewards.faults[0]) == (0.0, Fault.LIST)


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
    assert rewards.terms["ndcg"][0] == rewards.terms["recall"][0] == rewards.terms["rbo"][0] == 0.0


@given(windows(), st.text(alphabet="abc 123[]>.\n", max_size=20))
def test_any_word_beside_the_list_makes_it_a_wrong_list(window: Window, talk: str) -> None:
    order, relevant, teacher = window
    text = f"<think>a</think><answer>{format_order(order)}{talk}x</answer>"
    assert MultiViewReward()([text], [relevant], [teacher]).total.tolist() == [0.0]


@settings(deadline=None)
@given(windows(), chains)
def test_what_the_chain_says_changes_nothing(window: Window, chain: str) -> None:
    order, relevant, teacher = window
    texts = [answer(order), answer(order, chain)]
    assert len(set(MultiViewReward()(texts, [relevant] * 2, [teacher] * 2).total)) == 1
    texts = [pick("[2]"), pick("[2]", chain)]
    assert exact_label(texts, [1, 1], [3, 3]).total.tolist() == [1.0, 1.0]
    texts = [score(3, chain), score(7), score(3), score(7, chain)]
    rewards = query_reciprocal_rank(texts, [True, False, True, False], "qqqq", 10)
    assert rewards.total.tolist() == [1 / 3, -1.0, 1 / 3, -1.0]


@settings(deadline=None)
@given(st.lists(windows(), min_size=1, max_size=6), persistences, st.randoms())
def test_a_completions_reward_is_the_same_bit_for_bit_alone_and_anywhere_in_any_batch(
    batch: list[Window], p: float, dice: object
) -> None:
    reward = MultiViewReward(rbo_p=p)
    places = list(range(len(batch)))
    dice.shuffle(places)  # type: ignore[attr-defined]
    texts = [answer(order) if at % 3 else answer(order[1:]) for at, (order, _, _) in enumerate(batch)]
    _, relevant, teachers = map(list, zip(*batch, strict=True))
    together = reward([texts[at] for at in places], [relevant[at] for at in places], [teachers[at] for at in places])
    alone = [reward([texts[at]], [relevant[at]], [teachers[at]]) for at in places]
    assert together.total.tolist() == [one.total[0] for one in alone]
    assert together.faults == tuple(one.faults[0] for one in alone)
    picks, gold, counts = [pick(f"[{at}]") for at in places], [0] * len(places), [at + 1 for at in places]
    assert exact_label(picks, gold, counts).total.tolist() == [
        exact_label([text], [0], [count]).total[0] for text, count in zip(picks, counts, strict=True)
    ]


def test_weights_gates_and_the_chain_are_what_the_reward_was_given() -> None:
    reward = MultiViewReward(k=2, recall_weight=0.0, rbo_weight=1.0, list_fault=-0.5, tags_fault=-2.0, think=False)
    texts = ["<answer>[2] > [1] > [3]</answer>", "<answer>[2]</answer>", answer([1, 0, 2])]
    rewards = reward(texts, [[1]] * 3, [[1, 0, 2]] * 3)
    assert rewards.total.tolist() == pytest.approx([2.0, -0.5, -2.0])


def test_a_batch_of_uneven_windows_keeps_its_order_and_an_empty_one_is_empty() -> None:
    rewards = MultiViewReward()(["junk", answer([0]), answer([1, 0])], [[0], [0], [0]], [[0, 1], [0], [1, 0]])
    assert rewards.faults == (Fault.TAGS, None, None)
    assert rewards.terms["ndcg"].tolist() == pytest.approx([0.0, 1.0, 1 / np.log2(3)])
    assert MultiViewReward()([], [], []).total.shape == (0,)


def test_unequal_batches_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 texts, 0 relevant, 1 teacher_order"):
        MultiViewReward()(["junk"], [], [[0]])
    with pytest.raises(ValueError, match="2 counts"):
        exact_label(["junk"], [0], [1, 1])
    with pytest.raises(ValueError, match="0 groups"):
        query_reciprocal_rank(["junk"], [True], [], 10)


def test_a_position_outside_its_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="Position 2 of row 1 is not within its 2 passages"):
        MultiViewReward()([answer([0, 1, 2]), answer([0, 1])], [[2], [2]], [[0, 1, 2], [0, 1]])
    with pytest.raises(ValueError, match="Rollout 1 was shown 2 passages, and number 2"):
        exact_label(["junk", "junk"], [2, 2], [3, 2])


def test_a_window_without_a_relevant_passage_earns_by_the_teachers_order_alone() -> None:
    rewards = MultiViewReward()([answer([1, 0])], [[]], [[1, 0]])
    assert (rewards.terms["ndcg"][0], rewards.terms["recall"][0], rewards.total[0]) == (0.0, 0.0, pytest.approx(0.1))


@given(windows(), st.sampled_from([0.1, 0.5, 0.9, 0.98]))
def test_rbo_is_the_rbo_packages_and_below_one_its_truncated_sum_over_the_sum_of_equal_lists(
    window: Window, p: float
) -> None:
    left, _, right = window
    theirs = RankingSimilarity(list(left), list(right))
    assert rbo(left, right, 1.0) == pytest.approx(theirs.rbo(p=1.0), abs=1e-9)
    # The package sums (1 - p) p^(d-1) A_d for d = 1 … n, which is 1 - p^n for equal lists; ours is normalised by that.
    assert rbo(left, right, p) == pytest.approx(theirs.rbo(p=p) / (1 - p ** len(left)), abs=1e-9)


@given(windows(), persistences)
def test_rbo_is_one_for_equal_lists_symmetric_and_within_zero_and_one(window: Window, p: float) -> None:
    left, _, right = window
    assert rbo(left, left, p) == 1.0
    assert rbo(left, right, p) == pytest.approx(rbo(right, left, p), abs=1e-12)
    assert 0.0 <= rbo(left, right, p) <= 1.0


@given(windows(least=2), persistences)
def test_rbo_of_unequal_lists_is_below_one_and_a_reversal_is_the_worst(window: Window, p: float) -> None:
    left, _, right = window
    # What the last of 25 depths weighs at p = 0.1 is lost in rounding.
    if left != right and p >= 0.5:
        assert rbo(left, right, p) < 1.0
    assert rbo(left, right, p) >= rbo(left, left[::-1], p) - 1e-12


def test_rbo_of_lists_without_a_common_item_is_zero_and_of_empty_lists_one() -> None:
    assert rbo([1, 2], [3, 4]) == 0.0
    assert rbo([], []) == 1.0


def test_a_smaller_p_weighs_the_top_more() -> None:
    same, top, bottom = [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4]
    for p in (0.3, 0.9):
        assert rbo(same, bottom, p) > rbo(same, top, p)
    assert rbo(same, top, 0.3) < rbo(same, top, 0.9) < rbo(same, top)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.01])
def test_rbo_refuses_a_persistence_outside_its_range(p: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        rbo([0], [0], p)


def test_rbo_refuses_lists_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        rbo([0, 1], [0])


@given(st.lists(windows(), min_size=1, max_size=4), st.integers(0, 3), persistences)
def test_padding_changes_no_bit_of_a_term(batch: list[Window], more: int, p: float) -> None:
    left, relevant, right = map(list, zip(*batch, strict=True))
    lengths = np.array([len(order) for order in left])
    wide = [np.pad(padded(orders), ((0, 0), (0, more)), constant_values=-1) for orders in (left, right)]
    good = np.pad(mask(relevant, lengths), ((0, 0), (0, more)))
    for row, (order, of_row, other) in enumerate(batch):
        assert ndcg(wide[0], good, 5)[row] == one_ndcg(order, of_row, 5)
        assert recall(wide[0], good, 5)[row] == one_recall(order, of_row, 5)
        assert rank_biased_overlap(wide[0], wide[1], p)[row] == rbo(order, other, p)


def test_the_named_passage_earns_all_and_any_other_nothing_whether_well_formed_or_not() -> None:
    texts = [
        pick(" [3] "), pick("[2]"), pick("[4]"), pick("[0]"), pick("[3] [2]"), pick("[3] [3]"), pick("None"), pick("3"),
        pick("passage [3]"), pick("[03]"), pick(""), "[3]", "<think>a</think>[3]", pick("[3]") + "!",
        pick("<answer>[3]</answer>"), "<answer>[3]</answer>",
    ]  # fmt: skip
    rewards = exact_label(texts, [2] * 16, iter([3] * 16))
    assert rewards.total.tolist() == [1.0] + [0.0] * 15
    assert rewards.terms["exact"].tolist() == rewards.total.tolist()
    assert rewards.faults == (None, None, *[Fault.LIST] * 9, *[Fault.TAGS] * 5)
    assert exact_label(["<answer>[3]</answer>", pick("[3]")], [2, 2], [3, 3], think=False).total.tolist() == [1.0, 0.0]
    assert exact_label([], [], []).total.shape == (0,)
    # A full stop is no fault where replies are read (read_pick), so none here.
    assert exact_label([pick("[3].")], [2], [3]).total.tolist() == [1.0]


@given(st.integers(0, 8), st.sampled_from(["[{}]", " [{}]\n", "{}", "[{}] [1]", "([{}])", "[{}] is best"]), chains)
def test_a_pick_earns_what_rank_r1s_released_reward_pays(named: int, form: str, chain: str) -> None:
    text = pick(form.format(named), chain)
    found = re.search(r"<think>.*?</think>\s*<answer>(.*?)</answer>", text, re.DOTALL)
    theirs = [float(found is not None and found[1].strip() == f"[{gold + 1}]") for gold in range(7)]
    assert exact_label([text] * 7, list(range(7)), [7] * 7).total.tolist() == theirs


@settings(deadline=None)
@given(rollouts)
@example([(0, True, 7), (0, True, 7), (0, False, 7), (0, False, 3), (0, False, 9), (0, True, None), (1, False, 7)])
def test_a_score_earns_its_reciprocal_rank_as_counted_by_hand(batch: list[tuple[int, bool, float | None]]) -> None:
    rewards = judged(batch)
    for at, (query, relevant, said) in enumerate(batch):
        everything = [s for q, _, s in batch if q == query and s is not None]
        of_relevant = [s for q, good, s in batch if q == query and good and s is not None]
        if said is None:
            expected = Fraction(-1)
        elif relevant:
            expected = Fraction(1, 1 + sum(other > said for other in everything))
        elif all(other > said for other in of_relevant):
            expected = Fraction(0)
        else:
            expected = -1 / (1 + sum(s > said for s in of_relevant) + Fraction(of_relevant.count(said), 2))
        assert rewards.total[at] == pytest.approx(float(expected), abs=1e-12)
        assert rewards.terms["reciprocal_rank"][at] == (0.0 if said is None else rewards.total[at])
        assert rewards.faults[at] == (Fault.LIST if said is None else None)


def test_a_relevant_passage_earns_most_on_top_less_below_one_little_below_all_and_least_unscored() -> None:
    others = [(0, False, 3), (0, False, 5), (0, False, 7)]
    totals = [judged([*others, (0, True, said)]).total[3] for said in (9, 6, 1, None)]
    assert totals == [1.0, 0.5, 0.25, -1.0]


def test_any_other_passage_loses_nothing_below_the_relevant_ones_and_most_above_them_all() -> None:
    relevant = [(0, True, 4), (0, True, 6), (0, True, 8)]
    totals = [judged([*relevant, (0, False, said)]).total[3] for said in (3, 4, 5, 7, 9)]
    assert totals == pytest.approx([0.0, -1 / 3.5, -1 / 3, -1 / 2, -1.0])
    assert judged([(0, False, 9), (0, False, 2), (0, True, None)]).total.tolist() == [0.0, 0.0, -1.0]


@given(rollouts, st.integers(0, 10))
def test_a_higher_score_never_costs_a_relevant_passage_and_never_pays_for_another(
    batch: list[tuple[int, bool, float | None]], said: int
) -> None:
    for relevant, sign in ((True, 1), (False, -1)):
        lower, higher = (
            judged([*batch, (0, relevant, s)]).total[-1] for s in (said, said + 0.5 if said < 10 else said)
        )
        assert sign * (higher - lower) >= 0


@settings(deadline=None)
@given(rollouts, st.randoms())
def test_a_score_is_judged_by_its_query_wherever_its_rollouts_stand_and_by_no_other(
    batch: list[tuple[int, bool, float | None]], dice: object
) -> None:
    together = judged(batch).total
    places = list(range(len(batch)))
    dice.shuffle(places)  # type: ignore[attr-defined]
    assert judged([batch[at] for at in places]).total.tolist() == together[places].tolist()
    for query in range(3):
        own = [at for at, (q, _, _) in enumerate(batch) if q == query]
        assert judged([batch[at] for at in own]).total.tolist() == together[own].tolist()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (pick(" 7 "), None), (pick("10"), None), (pick("0"), None), (pick("7.5"), None), (pick("11"), Fault.LIST),
        (pick("-1"), Fault.LIST), (pick("7/10"), Fault.LIST), (pick("nan"), Fault.LIST), (pick("1e1"), Fault.LIST),
        (pick("٣"), Fault.LIST), (pick(""), Fault.LIST), (pick("9999999"), Fault.LIST), ("7", Fault.TAGS),
        (pick("7") + "7", Fault.TAGS), (pick("</think>7"), Fault.TAGS), ("<answer>7</answer>", Fault.TAGS),
    ],
)  # fmt: skip
def test_a_score_is_a_number_in_its_range_within_the_tags(text: str, fault: Fault | None) -> None:
    rewards = query_reciprocal_rank([text], [True], ["q"], 10, fault=-2.0)
    assert (rewards.faults[0], rewards.total[0]) == (fault, 1.0 if fault is None else -2.0)
    direct = query_reciprocal_rank(["<answer>7</answer>", score(7)], [True, True], ["q", "q"], 10, think=False)
    assert direct.faults == (None, Fault.TAGS)
