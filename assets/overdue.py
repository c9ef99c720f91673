"""The sensor that tells of a night that did not happen: no run of it fails, so no other alert says so.

It looks at the newest tick of `nightly` (did it fail, did it skip the night) and at the freshness of every asset. What
it has told stands in its cursor, so each trouble is told once, and again only after it was over in between.
Deliberately absent: a daemon that is down, which cannot tell so itself.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.scheduler.instigation import InstigatorTick, InstigatorType, TickStatus

from assets.alerts import NOWHERE, about, cause
from assets.described import FRESH
from assets.resources import Factory
from rankmill.notify import Alert, ways_of

NIGHTLY = "nightly"
ENDED = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]


@dg.sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=600)
def alert_missed_nights(context: dg.SensorEvaluationContext, factory: Factory) -> dg.SensorResult:
    """Tells of a night whose schedule failed or skipped it, and of assets that are overdue; each trouble once."""
    if not ways_of(factory.settings):
        return dg.SensorResult(skip_reason=NOWHERE, cursor=context.cursor)
    known = set(json.loads(context.cursor or "[]"))
    missed, late = dict(_missed(context.instance)), _overdue(context)
    alerts = [Alert(title, why, factory.page("automation")) for why, title in missed.items() if why not in known]
    if late - known:
        alerts.append(_of_assets(sorted(late - known), factory.page("assets")))
    for alert in alerts:
        about(factory, context.log, alert)
    told = "; ".join(alert.title for alert in alerts) or f"nothing that is not known; known: {len(known)}"
    return dg.SensorResult(skip_reason=told, cursor=json.dumps(sorted({*missed, *late})))


def _missed(instance: dg.DagsterInstance) -> Iterator[tuple[str, str]]:
    """Why the newest night of the schedule has not happened, and which one that is."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name == NIGHTLY and state.is_running:
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1, statuses=ENDED):
                night = datetime.fromtimestamp(tick.timestamp, UTC).date()
                if tick.status == TickStatus.SKIPPED:
                    yield tick.skip_reason or "it asked for no run", f"the night of {night} was skipped"
                elif tick.status == TickStatus.FAILURE and not _retried(instance, tick):
                    yield cause(tick.error), f"the night of {night} could not begin"


def _retried(instance: dg.DagsterInstance, tick: InstigatorTick) -> bool:
    """Whether Dagster will try a tick again in a moment, as it does once more than it has retries."""
    return (tick.consecutive_failure_count or 0) <= getattr(instance.scheduler, "max_tick_retries", 0)


def _overdue(context: dg.SensorEvaluationContext) -> set[str]:
    """Assets of this factory whose freshness policy has failed, as Dagster's daemon has found."""
    assert context.repository_def is not None  # a sensor of a code location has one
    keys = list(context.repository_def.asset_graph.get_all_asset_keys())
    states = context.instance.get_freshness_state_records(keys).items()
    return {key.to_user_string() for key, state in states if state.freshness_state == FreshnessState.FAIL}


def _of_assets(names: list[str], page: str | None) -> Alert:
    hours = FRESH.fail_window.to_timedelta().total_seconds() / 3600
    title = f"{names[0]} is overdue" if len(names) == 1 else f"{len(names)} assets are overdue"
    return Alert(title, f"not materialized for {hours:.0f} hours: {', '.join(names)}", page)


sensors = [alert_missed_nights]
