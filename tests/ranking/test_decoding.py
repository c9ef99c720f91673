"""Decoding: the number of calls, what reaches the front, and that no candidate is ever lost."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.decoding import Window, decode_all, sliding_window

windows_and_steps = st.integers(1, 12).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window)))


def test_a_hundred_candidates_at_twenty_and_ten_make_nine_calls_from_the_back_to_the_front() -> None:
    seen: list[tuple[int, ...]] = []

    def keep(windows: list[Window]) -> list[tuple[int, ...]]:
        seen.extend(window.positions for window in windows)
        return [window.positions for window in windows]

    assert decode_all([100], sliding_window(20, 10), keep) == [tuple(range(100))]
    assert seen == [tuple(range(start, start + 20)) for start in range(80, -1, -10)]


@given(windows_and_steps, st.lists(st.integers(0, 60), max_size=5), st.integers())
def test_no_position_is_lost_whatever_the_model_says(shape: tuple[int, int], counts: list[int], seed: int) -> None:
    dice = random.Random(seed)

    def rank_anyhow(windows: list[Window]) -> list[list[int]]:
        return [dice.sample(window.positions, len(window.positions)) for window in windows]

    orders = decode_all(counts, sliding_window(*shape), rank_anyhow)
    assert [sorted(order) for order in orders] == [list(range(count)) for count in counts]


@given(windows_and_steps, st.lists(st.integers(0, 60), max_size=5))
def test_queries_advance_together_and_each_pays_only_for_its_own_windows(
    shape: tuple[int, int], counts: list[int]
) -> None:
    window, step = shape
    rounds: list[list[Window]] = []

    def keep(windows: list[Window]) -> list[tuple[int, ...]]:
        rounds.append(windows)
        return [window.positions for window in windows]

    decode_all(counts, sliding_window(window, step), keep)
    calls = [0 if count < 2 else 1 + max(0, math.ceil((count - window) / step)) for count in counts]
    asked = [one.query for batch in rounds for one in batch]
    assert [asked.count(query) for query in range(len(counts))] == calls
    assert len(rounds) == max(calls, default=0)
    assert all(len(one.positions) <= window for batch in rounds for one in batch)
    assert all(len({one.query for one in batch}) == len(batch) for batch in rounds)


@given(windows_and_steps, st.integers(0, 60).flatmap(lambda count: st.permutations(range(count))))
def test_a_perfect_reranker_brings_the_best_of_the_whole_list_to_the_front(
    shape: tuple[int, int], worth: list[int]
) -> None:
    def rank_right(windows: list[Window]) -> list[list[int]]:
        return [sorted(window.positions, key=lambda position: worth[position]) for window in windows]

    window, step = shape
    order = decode_all([len(worth)], sliding_window(window, step), rank_right)[0]
    # What two neighbouring windows share goes on: window - step places, which at 20/10 is the step itself.
    carried = window - step if len(worth) > window else window
    best = sorted(range(len(worth)), key=lambda position: worth[position])
    assert list(order[:carried]) == best[:carried]


def test_at_twenty_and_ten_the_top_ten_of_the_list_come_first_even_from_its_very_end() -> None:
    order = decode_all(
        [100], sliding_window(20, 10), lambda windows: [sorted(window.positions, reverse=True) for window in windows]
    )[0]
    assert order[:10] == tuple(range(99, 89, -1))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_asked_about_a_list_that_has_but_one_order(count: int) -> None:
    def never(windows: list[Window]) -> list[list[int]]:
        raise AssertionError(windows)

    assert decode_all([count], sliding_window(), never) == [tuple(range(count))]


@pytest.mark.parametrize("reply", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2], []])
def test_an_order_that_is_no_permutation_of_its_window_is_refused(reply: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=r"query 1: window \[0, 1, 2\] came back as .*not a permutation"):
        decode_all([0, 3], sliding_window(3, 1), lambda windows: [reply])


@pytest.mark.parametrize("replies", [[], [[1, 0]], [[1, 0]] * 3])
def test_a_reply_too_few_or_too_many_is_refused(replies: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="zip"):
        decode_all([2, 2], sliding_window(2, 1), lambda windows: replies)


@pytest.mark.parametrize(("window", "step"), [(20, 0), (20, 21), (0, 0), (5, -1)])
def test_a_step_that_would_pass_over_candidates_is_refused(window: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {window}, got {step}"):
        sliding_window(window, step)
