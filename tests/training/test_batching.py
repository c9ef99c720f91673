"""Batches of like length: each row once, little padding, and no order from long to short."""

import random
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from training.batching import POOL, AlikeBatches


def batches_of(lengths: list[int], batch: int, seed: int = 0) -> list[list[int]]:
    torch.manual_seed(seed)
    order = list(AlikeBatches(lengths, batch))
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def padding(lengths: list[int], batches: list[list[int]]) -> float:
    places = sum(len(one) * max(lengths[number] for number in one) for one in batches)
    return 1 - sum(lengths) / places


def real_like(rows: int) -> list[int]:
    dice = random.Random(rows)
    return [round(dice.lognormvariate(5.6, 0.5)) + 60 for _ in range(rows)]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=300), st.integers(1, 9))
def test_every_row_comes_once_and_only_the_last_batch_is_not_full(lengths: list[int], batch: int) -> None:
    made = batches_of(lengths, batch)
    assert sorted(number for one in made for number in one) == list(range(len(lengths)))
    assert all(len(one) == batch for one in made[:-1])


def test_less_than_a_tenth_is_padding_in_a_small_release_and_in_a_large_one() -> None:
    from transformers.trainer_pt_utils import LengthGroupedSampler

    for rows, batch in ((64, 4), (200, 4), (5_000, 8)):
        lengths = real_like(rows)
        assert padding(lengths, batches_of(lengths, batch)) < 0.1
        shuffled = [list(range(rows))[start : start + batch] for start in range(0, rows, batch)]
        assert padding(lengths, shuffled) > 0.2
    small = real_like(64)
    order = list(LengthGroupedSampler(4, lengths=small))
    theirs = [order[start : start + 4] for start in range(0, 64, 4)]
    assert padding(small, batches_of(small, 4)) < padding(small, theirs)


def test_the_longest_comes_first_and_the_rest_in_no_order_of_length() -> None:
    lengths = real_like(2 * POOL * 4)
    made = batches_of(lengths, 4)
    assert max(lengths) in [lengths[number] for number in made[0]]
    firsts = [max(lengths[number] for number in one) for one in made]
    rises = sum(one < other for one, other in pairwise(firsts))
    assert 0.3 < rises / len(firsts) < 0.7


def test_each_epoch_has_batches_of_its_own_and_a_seed_has_the_same() -> None:
    lengths = real_like(100)
    assert batches_of(lengths, 4, seed=1) == batches_of(lengths, 4, seed=1)
    torch.manual_seed(1)
    sampler = AlikeBatches(lengths, 4)
    first, second = list(sampler), list(sampler)
    assert first != second
    assert {frozenset(first[n : n + 4]) for n in range(0, 100, 4)} != {
        frozenset(second[n : n + 4]) for n in range(0, 100, 4)
    }
