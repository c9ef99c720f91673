"""Nights that do not happen are told once each: the schedule fails or skips them, or assets are overdue."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("flows", "rankmill"))

from daemon_turns import Daemon, daemon
from mills import spend
from webhooks import Webhook, webhook

from assets.alerts import NOWHERE
from inference.store import ExchangeStore

EVENING = datetime(2030, 1, 1, 22, 0, tzinfo=UTC)
NIGHT = datetime(2030, 1, 2, 3, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
RETRIES = 5
BOUNDED = (
    "extends: offline\ndescription: bounded\nbudgets: {month_usd: 8}\n"
    "teacher: {price: {input: 0, cached: 0, output: 1000, source: a dollar an answer of 1000 tokens}}\n"
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text(BOUNDED, "utf-8")
    return path


@pytest.fixture
def mill(tmp_path: Path, profile: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A factory whose schedule was switched on in the evening."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with daemon(tmp_path, str(profile), "alert_missed_nights") as mill:
        with time_machine.travel(EVENING, tick=False):
            mill.switch_on("nightly")
        mill.at(EVENING)
        yield mill


def made(mill: Daemon, moment: datetime, *assets: str) -> None:
    """Assets were materialized."""
    with time_machine.travel(moment, tick=False):
        for asset in assets:
            mill.instance.report_runless_asset_event(dg.AssetMaterialization(asset))


def test_a_night_that_cannot_begin_is_tried_again_and_then_told_once_until_one_has_begun(
    mill: Daemon, server: Webhook, profile: Path
) -> None:
    profile.write_text("extends: offline\nbudgets: {nigh", "utf-8")
    mill.every(10 * MINUTE, NIGHT, RETRIES)
    (tick,) = mill.ticks("nightly")
    assert tick.failure_count == RETRIES and server.texts == []
    mill.every(10 * MINUTE, NIGHT + RETRIES * 10 * MINUTE, 3)
    (tick,) = mill.ticks("nightly")
    assert tick.failure_count == RETRIES + 1
    (text,) = server.texts
    assert text.startswith("the night of 2030-01-02 could not begin\n") and str(profile) in text
    assert text.endswith("\nhttp://mill:3000/automation")
    mill.every(10 * MINUTE, NIGHT + DAY, RETRIES + 2)  # the same again
    assert len(server.texts) == 1
    profile.write_text(BOUNDED, "utf-8")
    mill.every(10 * MINUTE, NIGHT + 2 * DAY, 2)
    assert mill.instance.get_runs_count() == 4
    profile.write_text("extends: offline\nbudgets: {nigh", "utf-8")
    mill.every(10 * MINUTE, NIGHT + 3 * DAY, RETRIES + 2)
    assert [text.splitlines()[0] for text in server.texts] == [
        "the night of 2030-01-02 could not begin",
        "the night of 2030-01-05 could not begin",
    ]


def test_a_lock_that_is_gone_at_the_next_try_loses_no_night_and_is_not_told(
    mill: Daemon, server: Webhook, profile: Path
) -> None:
    profile.write_text("extends: offline\nbudgets: {nigh", "utf-8")
    mill.at(NIGHT)
    assert mill.instance.get_runs_count() == 0
    profile.write_text(BOUNDED, "utf-8")
    mill.every(10 * MINUTE, NIGHT + 10 * MINUTE, 3)
    assert mill.instance.get_runs_count() == 4 and server.texts == []


def test_a_night_that_is_skipped_for_want_of_money_is_told_once_a_month(
    mill: Daemon, server: Webhook, tmp_path: Path
) -> None:
    with ExchangeStore(tmp_path / "home" / "exchanges.sqlite") as store:
        spend(store, NIGHT - HOUR * 20, 7.5)
    for night in range(3):
        mill.every(10 * MINUTE, NIGHT + night * DAY, 2)
    (text,) = server.texts
    assert text.startswith("the night of 2030-01-02 was skipped\nthe budget of the month 2030-01, $8.00, is used up")


def test_assets_are_told_when_they_are_overdue_and_not_when_they_warn_and_again_after_they_were_made(
    mill: Daemon, server: Webhook
) -> None:
    made(mill, EVENING, "queries", "passages")
    mill.every(HOUR, EVENING + 26 * HOUR, 2)
    assert server.texts == []
    made(mill, EVENING + 28 * HOUR, "candidates")
    mill.every(10 * MINUTE, EVENING + 50 * HOUR, 3)
    assert server.texts == [
        "2 assets are overdue\nnot materialized for 50 hours: passages, queries\nhttp://mill:3000/assets"
    ]
    made(mill, EVENING + 52 * HOUR, "queries")
    mill.at(EVENING + 53 * HOUR)
    mill.at(EVENING + 79 * HOUR)
    assert server.texts[1:] == [
        "candidates is overdue\nnot materialized for 50 hours: candidates\nhttp://mill:3000/assets"
    ]
    mill.at(EVENING + 103 * HOUR)
    assert [text.splitlines()[0] for text in server.texts[2:]] == ["queries is overdue"]


def test_a_schedule_that_is_switched_off_misses_no_night(mill: Daemon, server: Webhook, profile: Path) -> None:
    profile.write_text("no profile", "utf-8")
    schedule = mill.repository().get_schedule("nightly")
    with time_machine.travel(EVENING, tick=False):
        mill.instance.stop_schedule(schedule.get_remote_origin_id(), schedule.selector_id, schedule)
    mill.every(10 * MINUTE, NIGHT, RETRIES + 3)
    assert server.texts == []


def test_where_nobody_is_to_be_told_a_trouble_is_kept_until_somebody_is(
    mill: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(mill, EVENING, "queries")
    mill.at(EVENING + 51 * HOUR)
    assert mill.ticks("alert_missed_nights")[0].skip_reason == NOWHERE
    with webhook() as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        mill.at(EVENING + 52 * HOUR)
    assert [text.splitlines()[0] for text in server.texts] == ["queries is overdue"]
