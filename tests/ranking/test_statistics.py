"""The statistics against closed forms, scipy, and what the words say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.statistics import (
    StatisticsError,
    bootstrap_mean,
    calibration,
    cohen_kappa,
    compare,
    holm,
    randomisation_test,
    win_tie_loss,
)


def test_the_bootstrap_interval_holds_the_mean_narrows_with_more_queries_and_is_the_same_every_time() -> None:
    few, many = np.random.default_rng(1).random(30), np.random.default_rng(1).random(3_000)
    mean, low, high = bootstrap_mean(few)
    assert mean == pytest.approx(few.mean())
    assert low < mean < high
    assert bootstrap_mean(few) == (mean, low, high)
    _, low_of_many, high_of_many = bootstrap_mean(many)
    assert (high_of_many - low_of_many) < (high - low) / 5
    # The normal approximation is an outside witness at this size.
    half = 1.96 * many.std() / np.sqrt(many.size)
    assert (high_of_many - low_of_many) / 2 == pytest.approx(half, rel=0.05)


def test_the_bootstrap_of_one_value_is_that_value_and_of_none_an_error() -> None:
    assert bootstrap_mean([0.25, 0.25]) == (0.25, 0.25, 0.25)
    with pytest.raises(StatisticsError, match="at least one query"):
        bootstrap_mean([])


def test_cohens_kappa_knows_full_agreement_chance_and_full_disagreement() -> None:
    left = np.array([True, True, False, False])
    assert cohen_kappa(left, left) == 1.0
    assert cohen_kappa(left, ~left) == -1.0
    assert cohen_kappa(left, np.array([True, False, True, False])) == 0.0
    assert cohen_kappa(np.ones(3, dtype=bool), np.ones(3, dtype=bool)) == 1.0
    # The worked example of Cohen's measure: 20 both yes, 5 and 10 apart, 15 both no.
    first = np.repeat([True, True, False, False], [20, 5, 10, 15])
    second = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert cohen_kappa(first, second) == pytest.approx(0.4)


per_query = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.631, 1.0]), min_size=1, max_size=9)
pairs = per_query.flatmap(
    lambda left: st.tuples(
        st.just(left), st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=len(left), max_size=len(left))
    )
)


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_the_randomisation_test_is_scipys_exact_one_where_all_signs_can_be_tried(
    case: tuple[list[float], list[float]],
) -> None:
    ours, base = np.array(case[0]), np.array(case[1])

    def mean_difference(left: np.ndarray, right: np.ndarray, axis: int) -> np.ndarray:
        return np.round((left - right).mean(axis=axis), 9)

    if len(ours) < 2:
        return
    theirs = scipy.stats.permutation_test(
        (ours, base), mean_difference, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert randomisation_test(ours, base) == pytest.approx(theirs.pvalue)


def test_five_queries_all_won_by_as_much_have_a_p_of_one_in_sixteen() -> None:
    # Of 32 signings only all plus and all minus reach the observed mean.
    assert randomisation_test([0.5] * 5, [0.25] * 5) == 2 / 32
    assert randomisation_test([0.5] * 5, [0.5] * 5) == 1.0


def test_drawn_signs_come_near_the_exact_p_never_give_zero_and_repeat_themselves() -> None:
    dice = np.random.default_rng(4)
    base = dice.random(12)
    ours = base + dice.normal(0.05, 0.1, 12)
    exact, drawn = randomisation_test(ours, base, rounds=4096), randomisation_test(ours, base, rounds=4095)
    assert drawn == pytest.approx(exact, abs=0.03)
    assert randomisation_test(ours, base, rounds=4095) == drawn
    assert randomisation_test(ours, base, rounds=4095, seed=1) != drawn
    assert randomisation_test(np.ones(100), np.zeros(100), rounds=999) == 1 / 1000


def test_under_the_null_one_p_in_twenty_lies_below_five_in_a_hundred() -> None:
    dice = np.random.default_rng(0)
    p = [randomisation_test(dice.random(30), dice.random(30), rounds=400, seed=n) for n in range(400)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.08


def test_holms_correction_is_the_worked_example_and_keeps_the_order_given() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(StatisticsError, match="between 0 and 1"):
        holm([0.5, 1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferronis_and_never_turns_two_round(p: list[float]) -> None:
    corrected = holm(p)
    assert all(one <= both <= min(1.0, one * len(p) + 1e-12) for one, both in zip(p, corrected, strict=True))
    order = np.argsort(p)
    assert list(np.array(corrected)[order]) == sorted(corrected)
    assert min(corrected) == pytest.approx(min(1.0, min(p) * len(p)))


def test_wins_ties_and_losses_add_up_and_change_sides_with_the_systems() -> None:
    ours, base = [1.0, 0.5, 0.5, 0.0, 0.3 + 1e-12], [0.0, 0.5, 0.2, 1.0, 0.3]
    there, back = win_tie_loss(ours, base), win_tie_loss(base, ours)
    assert (there.wins, there.ties, there.losses) == (2, 2, 1) == (back.losses, back.ties, back.wins)


def test_a_comparison_holds_difference_interval_corrected_p_and_counts_of_every_system() -> None:
    dice = np.random.default_rng(1)
    base = dice.random(200)
    better, same = base + 0.2 * dice.random(200), base.copy()
    table = compare({"better": better, "same": same}, base, resamples=2_000)
    assert table.columns[:7] == ["system", "mean", "difference", "low", "high", "p", "p_holm"]
    first, second = table.rows(named=True)
    assert first["difference"] == pytest.approx((better - base).mean()) and 0 < first["low"] < first["high"]
    assert (first["p"], first["p_holm"], first["wins"]) == (1 / 2001, 2 / 2001, 200)
    assert (second["difference"], second["low"], second["high"], second["p"], second["ties"]) == (0, 0, 0, 1, 200)


@pytest.mark.parametrize(("ours", "base"), [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]])])
def test_values_that_do_not_pair_up_are_refused(ours: list[float], base: list[float]) -> None:
    for statistic in (randomisation_test, win_tie_loss):
        with pytest.raises(StatisticsError, match="do not pair up"):
            statistic(ours, base)


def test_scores_that_are_the_true_chances_have_no_calibration_error_and_sure_lies_the_greatest() -> None:
    chances = np.repeat([0.05, 0.25, 0.85], [20, 40, 20])
    truth = np.concatenate([np.arange(20) < 1, np.arange(40) < 10, np.arange(20) < 17])
    found = calibration(chances, truth)
    assert found.ece == pytest.approx(0.0)
    assert (found.tpr, found.tnr) == (pytest.approx(17 / 28), pytest.approx(49 / 52))
    assert found.bins["count"].sum() == 80
    assert calibration([1.0, 0.0], [False, True]).ece == 1.0
    assert (calibration([1.0, 0.0], [False, True]).tpr, calibration([1.0, 0.0], [False, True]).tnr) == (0.0, 0.0)


def test_the_calibration_error_of_two_bins_is_the_weighted_gap_worked_by_hand() -> None:
    # [0, .5): scores .2 and .4, one of two relevant, gap .2; [.5, 1]: .9 and 1 and .5, one of three, gap .8 - 1/3.
    found = calibration([0.2, 0.4, 0.9, 1.0, 0.5], [True, False, True, False, False], bins=2)
    assert found.ece == pytest.approx((2 * 0.2 + 3 * (0.8 - 1 / 3)) / 5)
    assert calibration([0.5], [True]).tnr is None and calibration([0.5], [False]).tpr is None


@pytest.mark.parametrize("scores", [[1.2], [-0.1], [float("nan")]])
def test_scores_that_are_no_probabilities_are_refused(scores: list[float]) -> None:
    with pytest.raises(StatisticsError, match="between 0 and 1"):
        calibration(scores, [True])
