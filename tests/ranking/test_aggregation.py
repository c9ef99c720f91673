"""One order from several samples: points to the last fraction, ties that nothing but evidence or a hash decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations
from statistics import fmean
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ranking.aggregation import aggregate, closest, kendall_tau, kendalls_w
from ranking.lists import seed_of

Method = Literal["rrf", "borda"]
Samples = list[list[str]]
METHODS: tuple[Method, ...] = ("rrf", "borda")
methods = st.sampled_from(METHODS)


@st.composite
def samples(draw: st.DrawFn, least: int = 0, at_least: int = 1) -> Samples:
    """`at_least` rankings or more of `least` docids or more, of any spelling."""
    docids = draw(st.lists(st.text(max_size=3), min_size=least, max_size=9, unique=True))
    return draw(st.lists(st.permutations(docids), min_size=at_least, max_size=7))


def by_hash(docids: str) -> tuple[str, ...]:
    return tuple(sorted(docids, key=lambda docid: seed_of(docid, 0)))


@settings(deadline=None)
@given(samples(), st.integers(0, 100))
def test_the_merged_order_has_points_that_fall_as_the_definition_counts_them(rankings: Samples, k: int) -> None:
    fused = aggregate(rankings, "rrf", k)
    points = [sum(Fraction(1, k + ranking.index(docid) + 1) for ranking in rankings) for docid in fused]
    assert points == sorted(points, reverse=True)
    mean_ranks = [sum(ranking.index(docid) for ranking in rankings) for docid in aggregate(rankings, "borda", k)]
    assert mean_ranks == sorted(mean_ranks)
    assert sorted(fused) == sorted(rankings[0])


@settings(deadline=None)
@given(samples(), methods, st.data())
def test_the_order_of_the_samples_changes_nothing(rankings: Samples, method: Method, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rankings))
    assert aggregate(shuffled, method) == aggregate(rankings, method)
    assert kendalls_w(shuffled) == kendalls_w(rankings)


@settings(deadline=None)
@given(samples(), methods, st.integers(1, 5))
def test_samples_that_all_say_one_thing_are_believed(rankings: Samples, method: Method, times: int) -> None:
    assert aggregate([rankings[0]] * times, method) == tuple(rankings[0])
    assert kendalls_w([rankings[0]] * times) == 1.0
    assert aggregate(rankings * times, method) == aggregate(rankings, method)


@settings(deadline=None)
@given(samples(least=2), methods, st.data())
def test_raising_a_passage_in_one_sample_never_lowers_it_in_the_merged_order(
    rankings: Samples, method: Method, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(rankings) - 1))
    place = data.draw(st.integers(1, len(rankings[0]) - 1))
    docid = rankings[number][place]
    raised = [list(ranking) for ranking in rankings]
    raised[number][place - 1 : place + 1] = raised[number][place], raised[number][place - 1]
    assert aggregate(raised, method).index(docid) <= aggregate(rankings, method).index(docid)


def test_borda_goes_by_the_mean_rank_and_a_small_k_lets_one_high_place_outweigh_a_low_one() -> None:
    # a stands first, first and last (mean rank 2), b second, second and first (5/3).
    rankings = ["abcd", "abdc", "bcda"]
    assert aggregate(rankings, "borda") == ("b", "a", "c", "d")
    assert aggregate(rankings, "rrf")[0] == "b"  # 1/62 + 1/62 + 1/61 > 1/61 + 1/61 + 1/64
    assert aggregate(rankings, "rrf", k=0)[0] == "a"  # 1 + 1 + 1/4 > 1/2 + 1/2 + 1


def test_of_equal_points_the_better_median_comes_first_whatever_the_passages_are_called() -> None:
    # Ranks 1, 1, 4 and 2, 2, 2 make six each, 3, 3, 3 and 4, 4, 1 nine each; the medians are 1, 2, 3 and 4.
    for a, b, c, d in permutations("abcd"):
        assert aggregate([[a, b, c, d], [a, b, c, d], [d, b, c, a]], "borda") == (a, b, c, d)


@pytest.mark.parametrize("method", METHODS)
def test_a_teacher_who_only_repeats_what_it_is_shown_settles_nothing_whatever_it_is_shown(method: Method) -> None:
    # Shown every rotation, each passage has had each place once: no order of the list leaves a trace.
    for shown in permutations("abcde"):
        rotations = [shown[start:] + shown[:start] for start in range(5)]
        assert aggregate(rotations, method) == by_hash("abcde")
        assert kendalls_w(rotations) == 0.0
    assert aggregate(["abcde", "edcba"], "borda") == by_hash("abcde")


def test_of_a_full_tie_the_spelling_of_the_docids_says_nothing() -> None:
    pairs = [(f"positive_{number}", f"web_hit_{number}") for number in range(400)]
    first = sum(aggregate([[left, right], [right, left]], "rrf")[0] == left for left, right in pairs)
    assert 160 < first < 240  # four standard deviations about the half


@pytest.mark.parametrize(
    ("rankings", "words"),
    [
        (["abc", "abd"], r"ranking 1 is not .* the 3 passages of ranking 0: missing \['c'\], too many \['d'\]"),
        (["abc", "abc", "ab"], r"ranking 2 .* missing \['c'\], too many \[\]"),
        (["abc", "abcc"], r"ranking 1 .* missing \[\], too many \['c'\]"),
        (["abb", "abb"], r"ranking 0 .* the 2 passages .* missing \[\], too many \['b'\]"),
        (["", "a"], r"ranking 1 .* too many \['a'\]"),
        ([], "no rankings to compare"),
    ],
)
def test_rankings_of_different_passages_are_refused_and_the_odd_one_named(rankings: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        aggregate(rankings, "rrf")
    with pytest.raises(ValueError, match=words):
        kendalls_w(rankings)
    with pytest.raises(ValueError, match=words):
        closest(rankings, "abc")


def test_an_unknown_method_and_a_k_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'condorcet'. Known: rrf, borda"):
        aggregate(["ab"], "condorcet")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 or more, got -1"):
        aggregate(["ab"], "rrf", k=-1)


def test_concordance_by_hand() -> None:
    # Rank sums 4, 5 and 9 about the mean 6: S = 14, W = 12 * 14 / (9 * 24).
    assert kendalls_w(["abc", "abc", "bac"]) == pytest.approx(7 / 9)
    assert kendalls_w(["abcd", "dcba"]) == 0.0


def test_unrelated_rankings_have_the_concordance_of_chance_which_is_one_over_their_number() -> None:
    orders = ["".join(order) for order in permutations("abc")]
    assert fmean(kendalls_w([one, two, three]) for one in orders for two in orders for three in orders) == (
        pytest.approx(1 / 3)
    )


@settings(deadline=None)
@given(samples(least=3, at_least=2))
def test_concordance_is_friedmans_chi_square_over_its_greatest_value(rankings: Samples) -> None:
    docids, count = rankings[0], len(rankings)
    places = [[ranking.index(docid) for ranking in rankings] for docid in docids]
    greatest = count * (len(docids) - 1)
    assert kendalls_w(rankings) == pytest.approx(stats.friedmanchisquare(*places).statistic / greatest, abs=1e-9)
    assert 0.0 <= kendalls_w(rankings) <= 1.0
    if count == 2:
        rho = stats.spearmanr([places[i][0] for i in range(len(docids))], [p[1] for p in places]).statistic
        assert kendalls_w(rankings) == pytest.approx((1 + rho) / 2, abs=1e-9)


@pytest.mark.parametrize("rankings", [["abc"], ["a", "a", "a"], ["", ""], [""]])
def test_one_ranking_or_one_passage_is_in_full_concordance(rankings: list[str]) -> None:
    assert kendalls_w(rankings) == 1.0


@settings(deadline=None)
@given(samples(least=2), st.data())
def test_the_closest_sample_is_the_first_with_scipys_highest_kendall_tau(
    rankings: Samples, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(rankings[0]))
    taus = [
        round(stats.kendalltau([ranking.index(d) for d in order], range(len(order))).statistic, 9)
        for ranking in rankings
    ]
    assert closest(rankings, order) == taus.index(max(taus))


@settings(deadline=None)
@given(samples(), methods)
def test_a_sample_that_is_the_merged_order_is_the_closest_to_it(rankings: Samples, method: Method) -> None:
    order = aggregate(rankings, method)
    found = closest([*rankings, list(order)], order)
    assert tuple([*rankings, list(order)][found]) == order


def test_a_chain_is_kept_from_the_first_of_two_equally_close_samples() -> None:
    assert closest(["cba", "acb", "bac"], "abc") == 1
    assert closest(["a", "a"], "a") == closest(["", ""], "") == 0


def test_an_order_of_other_passages_than_the_rankings_has_no_closest() -> None:
    with pytest.raises(ValueError, match=r"the order is not .* missing \['c'\], too many \['x'\]"):
        closest(["abc", "bca"], "abx")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(10))
def test_many_noisy_samples_together_come_nearer_the_truth_than_they_do_alone(method: Method, seed: int) -> None:
    dice = random.Random(seed)
    truth = [f"d{place}" for place in range(20)]
    rankings = [sorted(truth, key=lambda docid: int(docid[1:]) + dice.gauss(0, 6)) for _ in range(15)]

    def tau(order: Sequence[str]) -> float:
        return float(stats.kendalltau([order.index(docid) for docid in truth], range(20)).statistic)

    merged = aggregate(rankings, method)
    assert tau(merged) > fmean(map(tau, rankings)) + 0.1


@given(samples(least=2, at_least=2))
def test_tau_of_two_orders_is_scipys(rankings: Samples) -> None:
    left, right = rankings[:2]
    expected = stats.kendalltau([left.index(docid) for docid in left], [right.index(docid) for docid in left]).statistic
    assert kendall_tau(left, right) == pytest.approx(expected)
    assert kendall_tau(left, left) == 1.0
    assert kendall_tau(left, left[::-1]) == -1.0


def test_tau_wants_the_same_docids() -> None:
    assert kendall_tau(["a"], ["a"]) == 1.0
    with pytest.raises(ValueError, match="ranking 1"):
        kendall_tau(["a", "b"], ["a", "c"])
