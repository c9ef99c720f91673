"""How far the teacher's judgements agree with people's, and whether its order follows the order it was shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ranking.agreement import agreement, position_bias, positions_of_top_pick

Order = list[str]
Teacher = Callable[[Order, np.random.Generator], Order]


def pairs(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={"qid": pl.String, "docid": pl.String, "grade": pl.Int64}, orient="row")


SHOWN = pairs(*[("q1", docid, 0) for docid in "abcd"], ("q2", "a", 0)).select("qid", "docid")


def test_precision_recall_and_kappa_are_over_the_shown_pairs_of_queries_that_people_judged() -> None:
    teacher = pairs(("q1", "a", 1), ("q1", "b", 1), ("q1", "c", 0), ("q2", "a", 1), ("q1", "unseen", 1))
    human = pairs(("q1", "a", 2), ("q1", "c", 1), ("q1", "b", 0), ("q1", "never shown", 1), ("q2", "a", 0))
    # q2 has no human positive; of q1's four pairs the teacher picks a and b, people a and c: agreement 1/2 is chance.
    found = agreement(teacher, human, SHOWN)
    assert found == {
        "teacher_precision": 0.5, "teacher_recall": 0.5, "teacher_kappa": pytest.approx(0.0), "teacher_pairs": 4.0
    }  # fmt: skip


def test_a_teacher_that_agrees_throughout_scores_one_and_one_that_picks_nothing_zero() -> None:
    human = pairs(("q1", "a", 1))
    assert agreement(human, human, SHOWN)["teacher_kappa"] == 1.0
    silent = agreement(pairs(), human, SHOWN)
    assert (silent["teacher_precision"], silent["teacher_recall"], silent["teacher_kappa"]) == (0.0, 0.0, 0.0)


def test_where_nobody_judged_what_was_shown_there_is_no_agreement_to_report() -> None:
    assert agreement(pairs(("q1", "a", 1)), pairs(("q9", "a", 1)), SHOWN) == {}


def shown_and_given(*rows: tuple[Order | None, Order | None]) -> pl.DataFrame:
    listed = pl.List(pl.String)
    return pl.DataFrame(list(rows), schema={"initial_list": listed, "final_list": listed}, orient="row")


def asked(teacher: Teacher, lists: int, seed: int, shortest: int = 20, longest: int = 20) -> pl.DataFrame:
    """What a teacher answers to lists of d00, d01, … (the best first), each shown in an order of its own."""
    random = np.random.default_rng(seed)
    rows = []
    for size in random.integers(shortest, longest + 1, lists):
        shown = [f"d{place:02}" for place in random.permutation(size)]
        rows.append((shown, teacher(list(shown), random)))
    return shown_and_given(*rows)


def fair(shown: Order, random: np.random.Generator) -> Order:
    """Ranks by worth with some noise; the order shown is nothing to it."""
    return sorted(shown, key=lambda docid: int(docid[1:]) + random.normal(0, 2))


def lazy(shown: Order, random: np.random.Generator) -> Order:
    """Ranks by worth, but three times in ten puts first what it was shown first."""
    ranked = fair(shown, random)
    if random.random() < 0.3:
        ranked.remove(shown[0])
        ranked.insert(0, shown[0])
    return ranked


@st.composite
def rankings_of_any_length(draw: st.DrawFn) -> list[tuple[Order, Order]]:
    rows = []
    for size in draw(st.lists(st.integers(0, 8), min_size=1, max_size=6)):
        docids = [f"d{number}" for number in range(size)]
        rows.append((draw(st.permutations(docids)), draw(st.permutations(docids))))
    return rows


def test_position_bias_by_hand() -> None:
    found = position_bias(shown_and_given((["a", "b", "c"], ["b", "a", "c"]), (["x", "y"], ["x", "y"]), (["z"], ["z"])))
    # Top picks at 1/2 and 0, of variance 4/24 and 3/12; the orders correlate with 1 - 12/24 and 1.
    assert found == {
        "shown_first_picked_first": 0.5, "chance_first": pytest.approx(5 / 12), "top_pick_position": 0.25,
        "order_correlation": 0.75, "bias_p_value": pytest.approx(2 * stats.norm.sf(0.5 / np.sqrt(5 / 12))),
        "lists": 2.0, "lists_too_short": 1.0,
    }  # fmt: skip


@settings(deadline=None)
@given(rankings_of_any_length())
def test_every_figure_is_the_mean_of_what_a_loop_over_the_lists_finds(rows: list[tuple[Order, Order]]) -> None:
    long = [(shown, given) for shown, given in rows if len(shown) > 1]
    found = position_bias(shown_and_given(*rows))
    if not long:
        assert found == {}
        return
    places = [shown.index(given[0]) for shown, given in long]
    rhos = [stats.spearmanr(range(len(s)), [g.index(docid) for docid in s]).statistic for s, g in long]
    assert found["shown_first_picked_first"] == pytest.approx(places.count(0) / len(long))
    assert found["chance_first"] == pytest.approx(np.mean([1 / len(shown) for shown, _ in long]))
    relative = [place / (len(shown) - 1) for place, (shown, _) in zip(places, long, strict=True)]
    assert found["top_pick_position"] == pytest.approx(np.mean(relative))
    assert found["order_correlation"] == pytest.approx(np.mean(rhos), abs=1e-9)
    spread = np.sqrt(sum(np.linspace(0, 1, len(shown)).var() for shown, _ in long))
    assert found["bias_p_value"] == pytest.approx(2 * stats.norm.sf(abs(sum(relative) - len(long) / 2) / spread))
    assert (found["lists"], found["lists_too_short"]) == (len(long), len(rows) - len(long))


@settings(deadline=None)
@given(rankings_of_any_length())
def test_the_plot_counts_every_list_once_and_chance_gives_each_place_its_share(
    rows: list[tuple[Order, Order]],
) -> None:
    long = [(shown, given) for shown, given in rows if len(shown) > 1]
    plot = positions_of_top_pick(shown_and_given(*rows))
    assert plot["position"].to_list() == list(range(1, max((len(shown) for shown, _ in long), default=0) + 1))
    places = [shown.index(given[0]) + 1 for shown, given in long]
    assert plot["lists"].to_list() == [places.count(position) for position in plot["position"]]
    shares = [sum(1 / len(shown) for shown, _ in long if len(shown) >= position) for position in plot["position"]]
    assert plot["expected"].to_list() == pytest.approx(shares)
    assert plot.schema == {"position": pl.Int64, "lists": pl.Int64, "expected": pl.Float64}


@pytest.mark.parametrize(("shortest", "longest"), [(20, 20), (2, 20)])
def test_a_fair_teacher_is_suspected_no_more_often_than_the_level_of_the_test_allows(
    shortest: int, longest: int
) -> None:
    found = [position_bias(asked(fair, 30, seed, shortest, longest)) for seed in range(300)]
    p_values = [one["bias_p_value"] for one in found]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.02 < np.mean([p < 0.05 for p in p_values]) < 0.09
    assert min(p_values) > 1e-4
    assert np.mean([one["top_pick_position"] for one in found]) == pytest.approx(0.5, abs=0.015)  # four deviations
    assert np.mean([one["order_correlation"] for one in found]) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(("shortest", "longest"), [(20, 20), (5, 20)])
def test_a_teacher_who_is_lazy_three_times_in_ten_is_found_out_over_two_hundred_lists(
    shortest: int, longest: int
) -> None:
    for seed in range(10):
        rankings = asked(lazy, 200, seed, shortest, longest)
        found = position_bias(rankings)
        assert found["bias_p_value"] < 1e-4
        assert found["top_pick_position"] < 0.42
        assert found["shown_first_picked_first"] > found["chance_first"] + 0.1
        assert positions_of_top_pick(rankings).select(pl.col("lists").arg_max()).item() == 0


@settings(deadline=None)
@given(st.integers(5, 60), st.integers(2, 20), st.integers(0, 99))
def test_a_teacher_who_keeps_the_shown_order_and_one_who_turns_it_round_are_the_two_extremes(
    lists: int, shortest: int, seed: int
) -> None:
    kept = position_bias(asked(lambda shown, random: shown, lists, seed, shortest))
    turned = position_bias(asked(lambda shown, random: shown[::-1], lists, seed, shortest))
    extremes = ["shown_first_picked_first", "top_pick_position", "order_correlation"]
    assert [kept[name] for name in extremes] == [1.0, 0.0, 1.0]
    assert [turned[name] for name in extremes] == [0.0, 1.0, -1.0]
    # No list has more variance than a pair's 1/4, so z is at least the root of the number of lists.
    assert kept["bias_p_value"] == pytest.approx(turned["bias_p_value"])
    assert kept["bias_p_value"] <= 2 * stats.norm.sf(np.sqrt(lists)) * (1 + 1e-9)


def test_from_ten_lists_on_the_p_value_is_near_the_exact_one() -> None:
    size, lists = 20, 10
    exact = np.ones(1)
    for _ in range(lists):
        exact = np.convolve(exact, np.full(size, 1 / size))
    away = np.abs(np.arange(exact.size) - (exact.size - 1) / 2)
    docids = [f"d{place}" for place in range(size)]
    for total in range(0, exact.size, 3):
        places = [(total + number) // lists for number in range(lists)]
        rows = [(docids, [docids[p], *docids[:p], *docids[p + 1 :]]) for p in places]
        p_value = position_bias(shown_and_given(*rows))["bias_p_value"]
        assert p_value == pytest.approx(exact[away >= away[total] - 1e-9].sum(), abs=0.025)


def test_neither_the_order_of_the_rows_nor_other_columns_matter() -> None:
    rankings = asked(lazy, 40, 1, 1, 9)
    shuffled = rankings.sample(fraction=1.0, shuffle=True, seed=3).with_columns(row=pl.lit("r"), size=pl.lit("s"))
    assert position_bias(shuffled) == pytest.approx(position_bias(rankings))
    assert positions_of_top_pick(shuffled).drop("expected").equals(positions_of_top_pick(rankings).drop("expected"))


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        (["a", "b"], ["a"]),
        (["a", "b"], ["a", "c"]),
        (["a", "b"], ["b", "b"]),
        (["a", "a"], ["a", "a"]),
        (["a"], []),
        (["a", "b"], None),
        (None, ["a", "b"]),
        (None, None),
        (["a", None], ["a", None]),
    ],
)
def test_an_answer_that_is_no_permutation_of_what_was_shown_is_named_and_never_passed_over(
    shown: Order | None, given: Order | None
) -> None:
    rankings = shown_and_given((["a", "b"], ["b", "a"]), (shown, given))
    for measure in (position_bias, positions_of_top_pick):
        with pytest.raises(ValueError, match=r"row 1: final_list .* not a permutation .*\(1 of 2 rows\)"):
            measure(rankings)


def test_without_a_list_of_two_there_is_no_bias_to_report_and_nothing_to_plot() -> None:
    for rankings in (shown_and_given(), shown_and_given((["a"], ["a"]), ([], [])), shown_and_given().cast(pl.Null)):
        assert position_bias(rankings) == {}
        assert positions_of_top_pick(rankings).is_empty()
