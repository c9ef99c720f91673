"""Three nights of a factory that does not train: its daemon is killed, its teacher is down, a source turns bad.

The thirty nights (test_thirty_nights.py) are the same at length.
"""

from __future__ import annotations

from pathlib import Path

from night_house import running_house
from night_plan import MONTH_USD, NIGHT_USD, Night
from playing import Play
from reaper import Reaper

FIRST = Night("the first delivery", new={"land": [0] * 6, "sea": [0] * 6})
DOWN = Night("the teacher is down, and a source is bad", new={"sea": [1, 1]}, bad=("land",), outage=True)
MENDED = Night("all is well again", new={"land": [1, 1]})


def test_after_a_killed_daemon_an_outage_and_a_bad_source_all_that_is_good_is_bought_once_and_released(
    tmp_path: Path,
) -> None:
    with running_house(tmp_path, night_usd=NIGHT_USD, month_usd=MONTH_USD) as house:
        played, reaper = Play(house), Reaper(house, seed=1, kills=1, nights=1, victims=("daemon",))
        reaper.dawn(0)
        played.disturbed(0, FIRST, reaper.watch)
        assert reaper.done == ["daemon"] and house.starts == 2
        played.night(1, DOWN)
        played.night(2, MENDED)
        told = "\n".join(house.alerts.texts)
        assert "the source land has turned bad and stays as it is" in told and "qrels.tsv" in told
        assert "label_domain sea failed" in told
