"""Two nights of a factory that does not train: its teacher is down, a source turns bad, its daemon is killed.

The thirty nights (test_thirty_nights.py) are the same at length.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from night_house import running_house
from night_plan import MONTH_USD, NIGHT_USD, Night, date_of
from playing import Play, through
from reaper import Reaper

pytestmark = pytest.mark.nights
DOWN = Night("the first delivery, and the teacher is down", new={"land": [0] * 4, "sea": [0] * 12}, outage=True)
BACK = Night("it is back, and a source that was never labelled has turned bad", bad=("land",))


def test_after_an_outage_with_a_bad_source_and_a_killed_daemon_what_is_good_is_bought_once_and_released(
    tmp_path: Path,
) -> None:
    with running_house(tmp_path, night_usd=NIGHT_USD, month_usd=MONTH_USD) as house:
        played = Play(house)
        played.night(0, DOWN)  # asserts that nothing was bought, and why
        reaper = Reaper(house, seed=1, kills=1, nights=2, victims=("daemon",))
        reaper.dawn(0)
        rest = played.disturbed(1, BACK, reaper.watch)
        assert reaper.done == ["daemon"] and house.starts == 2
        assert through(rest, date_of(1), house.recipes), rest.told(date_of(1))
        owed = played.ledger.owed(["sea"])
        assert len(house.answers()) == house.teacher.counts["answered"] == played.ledger.calls(owed)
        _, rows = house.release()
        assert set(rows.select("domain", "qid").rows()) == {("sea", query.qid) for query in owed}
        told = "\n".join(house.alerts.texts)
        assert "the source land has turned bad and stays as it is" in told and "qrels.tsv" in told
        assert "label_domain sea failed" in told and "EndpointDown" in told
