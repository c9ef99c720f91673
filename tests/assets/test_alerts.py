"""What is told, from real runs on a real instance to a real webhook: failed runs, failed checks, sources turned bad."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "rankmill"))

from mills import write_folder
from webhooks import SECRET, Webhook, free_port, webhook

from assets.alerts import NOWHERE, about, alert_failed_checks, alert_failed_runs, deliver_alerts
from assets.automation import nightly
from assets.resources import Factory
from rankmill.notify import Alert, AlertFailed


@dg.op
def breaks() -> None:
    """Fails as an asset does that has something to say."""
    raise dg.Failure("the teacher does not answer. Start it and run this again.", allow_retries=False)


@dg.job(tags={"dagster/partition": "math"})
def label_domain() -> None:
    """A job that fails."""
    breaks()


def failing(severity: dg.AssetCheckSeverity, passed: bool = False) -> dg.AssetsDefinition:
    @dg.asset(name="queries", check_specs=[dg.AssetCheckSpec("law", asset="queries")])
    def asset() -> dg.MaterializeResult:
        found = dg.AssetCheckResult(passed=passed, severity=severity, check_name="law", description="3 rows are lost")
        return dg.MaterializeResult(check_results=[found])

    return asset


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def run_failed(instance: dg.DagsterInstance, home: Path = Path("unused")) -> tuple[dg.ExecuteInProcessResult, str]:
    ended = label_domain.execute_in_process(instance=instance, raise_on_error=False)
    context = dg.build_run_status_sensor_context(
        sensor_name="alert_failed_runs",
        dagster_instance=instance,
        dagster_run=ended.dagster_run,
        dagster_event=ended.get_run_failure_event(),
        resources={"factory": Factory(profile="offline", home=str(home))},
    ).for_run_failure()
    told = alert_failed_runs(context)  # type: ignore[call-overload]
    return ended, str(told.skip_message)


def test_a_failed_run_is_told_with_its_partition_its_step_the_reason_and_a_link(
    server: Webhook, instance: dg.DagsterInstance
) -> None:
    ended, skipped = run_failed(instance)
    assert skipped == "told by webhook: label_domain math failed"
    (text,) = server.texts
    assert text.splitlines() == [
        "label_domain math failed",
        "breaks: the teacher does not answer. Start it and run this again.",
        f"http://mill:3000/runs/{ended.run_id}",
    ]


def test_where_nobody_is_to_be_told_the_tick_says_so(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANKMILL_ALERT_WEBHOOK", raising=False)
    monkeypatch.delenv("RANKMILL_ALERT_SMTP", raising=False)
    assert run_failed(instance)[1] == NOWHERE


def test_checks_that_failed_in_a_run_that_went_on_are_told_and_neither_passed_ones_nor_warnings(
    server: Webhook, instance: dg.DagsterInstance
) -> None:
    def tick(asset: dg.AssetsDefinition) -> tuple[str, str]:
        ran = dg.materialize([asset], instance=instance)
        (event,) = [event for event in ran.all_events if event.event_type == dg.DagsterEventType.RUN_SUCCESS]
        context = dg.build_run_status_sensor_context(
            sensor_name="alert_failed_checks",
            dagster_instance=instance,
            dagster_run=ran.dagster_run,
            dagster_event=event,
            resources={"factory": Factory(profile="offline", home="unused")},
        )
        return str(alert_failed_checks(context).skip_message), ran.run_id  # type: ignore[call-overload]

    error, warning = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    assert tick(failing(warning))[0] == tick(failing(error, passed=True))[0] == "no check failed"
    assert server.texts == []
    said, run_id = tick(failing(error))
    assert said.startswith("told by webhook") and said.endswith("1 check failed")
    (text,) = server.texts
    assert text.splitlines()[1:] == ["queries, law: 3 rows are lost", f"http://mill:3000/runs/{run_id}"]


def test_a_source_that_turns_bad_is_told_each_night_with_its_line(
    server: Webhook, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    factory = Factory(profile="offline", home=str(tmp_path / "home"))
    folders = [write_folder(tmp_path / name, 4) for name in ("land", "sea")]
    factory.registry.keep(factory.registry.choose([str(folder) for folder in folders], None))
    (folders[0] / "queries.jsonl").write_text('{"qid": "q0", "text": "why?", "split": "dave"}\n', "utf-8")
    night = datetime(2030, 1, 2, 3, tzinfo=UTC)
    with dg.build_schedule_context(instance, scheduled_execution_time=night, resources={"factory": factory}) as context:
        assert len(list(nightly(context))) == 1  # type: ignore[call-overload]
    (text,) = server.texts
    assert text.startswith("the source land has turned bad and stays as it is\n") and "unknown split 'dave'" in text


def deliver(home: Path) -> str:
    with dg.build_sensor_context(resources={"factory": Factory(profile="offline", home=str(home))}) as context:
        return str(deliver_alerts(context).skip_message)  # type: ignore[call-overload]


def test_alerts_that_cannot_be_delivered_wait_and_later_ticks_tell_each_once_in_order(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rankmill.notify.WAITS_S", ())
    factory = Factory(profile="offline", home=str(tmp_path))
    with webhook(503, 503, 200, 503, 200) as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        said = run_failed(instance, tmp_path)[1]
        assert said.startswith("label_domain math failed; it waits: webhook: the webhook answered 503")
        assert SECRET not in said + "".join(file.read_text("utf-8") for file in factory.outbox.waiting())
        about(factory, logging.getLogger("test"), Alert("second", "the webhook is not even asked"))
        assert len(server.texts) == 1
        with pytest.raises(AlertFailed, match="2 wait, the first is 'label_domain math failed'"):
            deliver(tmp_path)
        with pytest.raises(AlertFailed, match="1 wait, the first is 'second'"):
            deliver(tmp_path)
        about(factory, logging.getLogger("test"), Alert("third", "it stands behind the second"))
        assert deliver(tmp_path) == "told later: second; third"
        assert deliver(tmp_path) == "no alert waits"
        about(factory, logging.getLogger("test"), Alert("fourth", "at once again"))
    titles = [text.splitlines()[0] for text in server.texts]
    first = "label_domain math failed"
    assert titles == [first, first, first, "second", "second", "third", "fourth"]


def test_a_way_that_has_told_an_alert_is_not_asked_again_for_the_sake_of_another(
    server: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("SMTP", f"smtp://127.0.0.1:{free_port()}"), ("MAIL_TO", "a@x.org"), ("MAIL_FROM", "b@x.org")):
        monkeypatch.setenv(f"RANKMILL_ALERT_{name}", value)
    with pytest.raises(AlertFailed, match="it waits: e-mail"):
        Factory(profile="offline", home=str(tmp_path)).tell(Alert("first", "by two ways"))
    with pytest.raises(AlertFailed, match="1 wait"):
        deliver(tmp_path)
    for name in ("SMTP", "WEBHOOK"):
        monkeypatch.delenv(f"RANKMILL_ALERT_{name}")
    assert deliver(tmp_path) == "no alert waits" and len(list((tmp_path / "alerts").iterdir())) == 1
    monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
    assert deliver(tmp_path) == "told later: first"
    assert len(server.texts) == 1 and list((tmp_path / "alerts").iterdir()) == []
