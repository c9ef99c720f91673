"""Sensors that tell a person: of a run that failed, and of a check that did.

They look all the time and are idle until the environment names somewhere to tell it (rankmill/notify.py). What cannot
be delivered waits (rankmill/outbox.py), since Dagster shows a run to a sensor once, however its tick ends. A check's
alert is one of severity ERROR; a warning is for whoever looks at the asset. Runs of `rankmill run` are not told of: a
person sits in front of them. Deliberately absent: any alert that things are well.
"""

import logging

import dagster as dg
from dagster._utils.error import SerializableErrorInfo

from assets.resources import Factory
from assets.tags import PARTITION
from rankmill.notify import Alert, AlertFailed

NOWHERE = "nobody is told: neither RANKMILL_ALERT_WEBHOOK nor RANKMILL_ALERT_SMTP is set"


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=30)
def alert_failed_runs(context: dg.RunFailureSensorContext, factory: dg.ResourceParam[Factory]) -> dg.SkipReason:
    """Tells of every run that failed: job, partition, the steps and checks that failed, and why."""
    steps = [f"{event.step_key}: {_reason(event)}" for event in context.get_step_failure_events()]
    lost = [*_failed_checks(context), *steps]
    text = "\n".join(lost) or context.failure_event.message or "no step says why; look at the run's log"
    return _told(factory, Alert(f"{_place(context.dagster_run)} failed", text, _page(factory, context.dagster_run)))


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def alert_failed_checks(context: dg.RunStatusSensorContext, factory: dg.ResourceParam[Factory]) -> dg.SkipReason:
    """Tells of checks that failed with severity ERROR in a run that went on, since they block nothing."""
    failed = _failed_checks(context)
    if not failed:
        return dg.SkipReason("no check failed")
    title = f"{_place(context.dagster_run)}: {len(failed)} check{'s' if len(failed) > 1 else ''} failed"
    return _told(factory, Alert(title, "\n".join(failed), _page(factory, context.dagster_run)))


@dg.sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=30)
def deliver_alerts(factory: Factory) -> dg.SkipReason:
    """Tells what could not be told before, in order; the tick fails where it still cannot."""
    told = factory.outbox.deliver(factory.settings)
    return dg.SkipReason(f"told later: {'; '.join(told)}" if told else "no alert waits")


def _failed_checks(context: dg.RunStatusSensorContext) -> list[str]:
    run_id, kind = context.dagster_run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION
    found = [entry.get_dagster_event().asset_check_evaluation_data for entry in context.instance.all_logs(run_id, kind)]
    return [
        f"{check.asset_key.to_user_string()}, {check.check_name}: {check.description or 'failed'}"
        for check in found
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    ]


def _place(run: dg.DagsterRun) -> str:
    return f"{run.job_name} {run.tags.get(PARTITION, '')}".strip()


def _page(factory: Factory, run: dg.DagsterRun) -> str | None:
    return factory.page(f"runs/{run.run_id}")


def _reason(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    return cause(data.error)


def cause(error: SerializableErrorInfo | None) -> str:
    """What an error says that was behind all others."""
    while error is not None and error.cause is not None:
        error = error.cause
    return "failed" if error is None else error.message.strip()


def about(factory: Factory, log: logging.Logger, alert: Alert) -> None:
    """Log an alert of a tick that goes on, and tell it; that it waits is logged as well."""
    log.error(f"{alert.title}: {alert.text}")
    try:
        factory.tell(alert)
    except AlertFailed as error:
        log.error(f"it could not be told; {error}")


def _told(factory: Factory, alert: Alert) -> dg.SkipReason:
    try:
        ways = factory.tell(alert)
    except AlertFailed as error:
        return dg.SkipReason(f"{alert.title}; {error}")
    return dg.SkipReason(f"told by {' and '.join(ways)}: {alert.title}" if ways else NOWHERE)


sensors = [alert_failed_runs, alert_failed_checks, deliver_alerts]
