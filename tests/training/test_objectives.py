"""The losses beside cross-entropy: equal to their formulas written out, and blind to what they should not see."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import host

host.settle()
torch = pytest.importorskip("torch")

from training.objectives import PADDING, alike, first_token_ranknet, group_cross_entropy  # noqa: E402


def by_hand(scores: list[float]) -> float:
    """Equation 3 of FIRST, as two loops: ranks from 1, a worse passage's logit above a better one's costs."""
    total = 0.0
    for i in range(len(scores)):
        for j in range(i + 1, len(scores)):
            total += math.log1p(math.exp(scores[j] - scores[i])) / ((i + 1) + (j + 1))
    return total


def test_ranknet_is_its_formula_meaned_over_the_lists() -> None:
    scores = [[0.3, -1.2, 2.0, 0.1], [1.0, 0.0, -1.0, 5.0]]
    present = torch.tensor([[True] * 4, [True, True, True, False]])
    expected = (by_hand(scores[0]) + by_hand(scores[1][:3])) / 2
    assert float(first_token_ranknet(torch.tensor(scores), present)) == pytest.approx(expected, rel=1e-5)


def test_ranknet_falls_when_two_logits_are_put_in_the_order_of_their_ranks() -> None:
    here = torch.ones((1, 3), dtype=torch.bool)
    right, wrong = (first_token_ranknet(torch.tensor([s]), here) for s in ([2.0, 1.0, 0.0], [1.0, 2.0, 0.0]))
    assert right < wrong


def test_a_groups_loss_is_the_first_scores_and_groups_do_not_mix() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 3.0, 3.0])
    expected = (-math.log(math.e / (math.e + 1 + math.e**2)) + math.log(2)) / 2
    assert float(group_cross_entropy(scores, [3, 2])) == pytest.approx(expected, rel=1e-5)
    moved = torch.tensor([1.0, 0.0, 2.0, 13.0, 13.0])
    assert float(group_cross_entropy(moved, [3, 2])) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=40))
def test_parts_of_like_length_hold_every_text_once_and_little_padding(lengths: list[int]) -> None:
    parts = alike(lengths)
    assert sorted(number for part in parts for number in part) == list(range(len(lengths)))
    for part in parts:
        held = [lengths[number] for number in part]
        assert sum(held) > (1.0 - PADDING) * max(held) * len(held)
