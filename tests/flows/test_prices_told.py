"""Of when prices are is told where they matter, and a table of one's own is the one that counts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from flows.teacher import TeacherSettings
from inference.prices import Prices

OWN = {"input": 1, "cached": 1, "output": 2, "source": "the contract"}
TABLE = "dated: 2031-01-01\nmodels:\n  mine: {input: 1, cached: 1, output: 7, source: the contract}\n"


@pytest.mark.parametrize(
    ("today", "old"), [("2031-01-01", False), ("2031-07-03", False), ("2031-07-04", True), ("2040-01-01", True)]
)
def test_a_table_of_one_s_own_counts_and_is_called_old_after_half_a_year(tmp_path: Path, today: str, old: bool) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE, "utf-8")
    teacher = TeacherSettings(base_url="http://x/v1", model="mine", price_table=tmp_path / "mine.yaml")
    assert teacher.prices.of("mine").output == 7
    told = teacher.prices_told(date.fromisoformat(today))
    assert told.startswith("prices of 2031-01-01") and ("more than half a year old" in told) == old


def test_the_shipped_table_s_date_is_told() -> None:
    dated = Prices.load().dated
    assert TeacherSettings(model="deepseek-chat").prices_told(dated) == f"prices of {dated}"


@pytest.mark.parametrize("teacher", [TeacherSettings(), TeacherSettings(model="deepseek-chat", price=OWN)])
def test_nothing_is_told_where_the_table_is_not_what_is_paid_by(teacher: TeacherSettings) -> None:
    assert teacher.prices_told(date(2040, 1, 1)) == ""
