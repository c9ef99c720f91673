"""The clock of a house jumps over nights, and back: of those missed one is made up for, and none is run twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from night_house import running_house
from night_plan import MONTH_USD, NIGHT_USD, Night, date_of
from playing import Play

pytestmark = pytest.mark.nights
FIRST = Night("the first delivery", new={"land": [0] * 6, "sea": [0] * 6})
MORE = Night("a few queries more", new={"land": [1, 1], "sea": [1]})


def test_of_nights_that_a_clock_jumps_over_the_newest_is_made_up_for_and_one_that_it_goes_back_to_is_not_run_again(
    tmp_path: Path,
) -> None:
    with running_house(tmp_path, night_usd=NIGHT_USD, month_usd=MONTH_USD) as house:
        played = Play(house)
        played.night(0, FIRST)
        played.night(5, MORE)  # five nights later: it asserts that the night went through, and what was bought
        runs = {
            run["tags"]["rankmill/night"] for run in house.night(date_of(5)).runs if "rankmill/night" in run["tags"]
        }
        assert runs == {date_of(0), date_of(5)}
        before = house.answers()
        played.prepare(MORE, 2)
        assert house.night(date_of(2)).of(date_of(2)) == []
        assert house.answers() == before
        played.night(6, Night("what came while the clock was back"))
