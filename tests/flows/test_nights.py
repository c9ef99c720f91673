"""What a night and a month may spend: caps from what the store has seen, whoever spent it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mills import spend

from flows.nights import Allowance, NightBudgets, allowance, night_at
from flows.teacher import TeacherSettings
from inference.prices import Price
from inference.store import ExchangeStore

BEGAN = datetime(2030, 1, 2, 3, tzinfo=UTC)


@given(st.datetimes().filter(lambda moment: 2 < moment.year < 9998), st.integers(-12, 12))
def test_every_moment_belongs_to_one_night_that_began_at_three_whatever_its_time_zone(
    moment: datetime, offset: int
) -> None:
    night = night_at(moment.replace(tzinfo=timezone(timedelta(hours=offset))))
    elapsed = moment.replace(tzinfo=timezone(timedelta(hours=offset))) - night.began
    assert timedelta(0) <= elapsed < timedelta(days=1) and night.began.hour == 3
    assert night_at(night.began) == night and night.month_began <= night.began


def test_the_night_of_the_small_hours_is_that_of_the_day_before_and_of_its_month() -> None:
    night = night_at(datetime(2030, 2, 1, 2, 59, tzinfo=UTC))
    assert (night.name, night.month_began) == ("2030-01-31", datetime(2030, 1, 1, 3, tzinfo=UTC))


def test_nothing_is_bounded_where_the_profile_sets_no_budget(tmp_path: Path) -> None:
    with ExchangeStore(tmp_path / "store.sqlite") as store:
        assert allowance(store, night_at(BEGAN), NightBudgets()) is None


def test_what_was_spent_since_the_night_and_the_month_began_counts_and_what_was_before_does_not(tmp_path: Path) -> None:
    night, budgets = night_at(BEGAN), NightBudgets(night_usd=5, month_usd=20)
    with ExchangeStore(tmp_path / "store.sqlite") as store:
        spend(store, datetime(2029, 12, 20, tzinfo=UTC), 100.0)
        spend(store, BEGAN - timedelta(milliseconds=1), 12.0)
        left = allowance(store, night, budgets)
        assert left is not None and (left.which, left.cap_usd, left.left_usd) == ("night", 117.0, 5.0)
        spend(store, BEGAN, 2.0)
        left = allowance(store, night, budgets)
        # The cap stands still while it is used up, so that every run of the night is told the same.
        assert left is not None and (left.cap_usd, left.left_usd) == (117.0, 3.0)
        spend(store, BEGAN + timedelta(hours=2), 3.0)
        tomorrow = allowance(store, night_at(BEGAN + timedelta(days=1)), budgets)
        assert tomorrow is not None and (tomorrow.which, tomorrow.cap_usd, tomorrow.left_usd) == ("month", 120.0, 3.0)
        assert "budget of the month 2030-01, $20.00" in tomorrow.words


def test_a_teacher_stops_at_whichever_ends_first_and_a_free_one_is_never_held_up() -> None:
    left = Allowance(night_at(BEGAN), "night", 5.0, 105.0, 0.4)
    assert left.bounding(TeacherSettings()).budget_usd == 105.0
    assert left.bounding(TeacherSettings(budget_usd=50)).budget_usd == 50
    price = Price(input=0, cached=0, output=50, source="a test")
    dear = TeacherSettings(model="dear", max_tokens=8000, price=price)  # $0.40 an answer
    assert left.pays_for_a_question(dear)
    assert not left.pays_for_a_question(dear.model_copy(update={"max_tokens": 8001}))
    assert Allowance(night_at(BEGAN), "night", 0.0, 100.0, 0.0).pays_for_a_question(TeacherSettings())


@pytest.mark.parametrize("given_usd", [-0.01, -5])
def test_a_budget_below_nothing_is_refused(given_usd: float) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        NightBudgets(night_usd=given_usd)
