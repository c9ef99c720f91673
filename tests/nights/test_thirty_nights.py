"""Thirty nights of a living factory, and thirty kills among them: what is bought, released, promoted, and what is left.

make test-nights
"""

from __future__ import annotations

from pathlib import Path

import pytest
from night_house import running_house
from night_plan import MONTH_USD, NIGHT_USD, NIGHTS, NOTHING
from playing import Play, clean_run, differences
from reaper import Reaper

pytestmark = pytest.mark.nights
KILLS, SEED = 30, 17
RECIPE = "direct-point"


def test_thirty_nights_buy_what_is_new_and_end_like_one_clean_run_over_the_final_sources(tmp_path: Path) -> None:
    with running_house(tmp_path, RECIPE, night_usd=NIGHT_USD, month_usd=MONTH_USD) as house:
        played = Play(house)
        for number, night in enumerate([*NIGHTS, NOTHING]):
            played.night(number, night)
        house.stop()
        clean_run(house, tmp_path / "clean")
        assert differences(house.home, tmp_path / "clean") == []
        told = "\n".join(house.alerts.texts)
        for sentence in (
            "the source land has turned bad and stays as it is",
            "the folder swamp waits until it is mended",
        ):
            assert sentence in told


def test_thirty_kills_of_any_process_over_those_nights_change_nothing_of_their_end(tmp_path: Path) -> None:
    with running_house(tmp_path, RECIPE, night_usd=NIGHT_USD, month_usd=MONTH_USD) as house:
        played, reaper = Play(house), Reaper(house, SEED, KILLS, len(NIGHTS))
        for number, night in enumerate(NIGHTS):
            reaper.dawn(number)
            played.disturbed(number, night, reaper.watch)
        played.settle(len(NIGHTS))
        assert len(reaper.done) == KILLS, reaper.done
        house.stop()
        clean_run(house, tmp_path / "clean")
        assert differences(house.home, tmp_path / "clean") == []
        # Whatever was in flight as its process died counts as charged; every answer is paid for once.
        books = house.books()
        assert {key for key, _ in books["answer"]} == set(house.answers())
        assert {times for _, times in books["answer"]} == {1}
        assert {key for key, _ in books.get("presumed", [])} <= set(house.answers())
