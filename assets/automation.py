"""The night: a schedule that labels what is new or changed, and sensors that let the rest of the graph follow."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import alerts, following, overdue, watchman
from assets.arrivals import arrivals
from assets.jobs import label_domain, rank_models, release_training_set, train_and_evaluate
from assets.resources import Factory
from assets.tags import NIGHT, PARTITION, RUNS
from flows.nights import HOUR, night_at
from rankmill.notify import Alert
from warehouse.intake.steps import refusal


@dg.schedule(cron_schedule=f"0 {HOUR} * * *", job=label_domain, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly(context: dg.ScheduleEvaluationContext, factory: Factory) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Every active domain, nightly; release, training and leaderboard follow when all of a night has succeeded.

    What has not changed ends at once and buys nothing; what was rejected or inconsistent is asked once more. A domain
    whose folder has turned bad keeps the rows that it has, and the others go on without it.
    """
    profile, night = factory.settings.profile, night_at(context.scheduled_execution_time)
    left = factory.allowance(night)
    if left is not None and not left.pays_for_a_question(profile.teacher):
        yield dg.SkipReason(left.words)
        return
    active = factory.registry.active()
    bad = {source.domain: why for source in active if (why := refusal(factory.lake, source, profile.seed))}
    for domain, why in bad.items():
        alerts.about(factory, context.log, Alert(f"the source {domain} has turned bad and stays as it is", why))
    good = [source.domain for source in active if source.domain not in bad]
    if not good:
        yield dg.SkipReason(f"every source has turned bad: {', '.join(bad)}" if bad else "no source is active")
    context.instance.add_dynamic_partitions("domain", good)
    tags = {NIGHT: night.name, RUNS: str(len(good))}
    for domain in good:
        yield dg.RunRequest(run_key=f"{night.name}/{domain}", partition_key=domain, tags=tags)


class NotYet(dg.DagsterError):
    """What ended a tick that has to be tried again.

    Dagster moves a run-status sensor on to the next run whatever its function raises, but for errors of its own kind:
    they end the tick, and the next one is shown the same run.
    """


def _follows(first: Any, then: Any) -> dg.SensorDefinition:
    """`then`, once every run of `first` in the same night has succeeded; runs of people start nothing.

    A run that failed and was executed again counts by its newest execution.
    """

    @dg.run_status_sensor(
        name=f"{then.name}_follows",
        description=f"Starts {then.name} when the night's {first.name} has succeeded throughout.",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[first],
        request_job=then,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def follow(
        context: dg.RunStatusSensorContext, factory: dg.ResourceParam[Factory]
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        try:
            yield from _next(context.instance, context.dagster_run, then.name, factory)
        except Exception as error:
            raise NotYet(f"{then.name} waits for the next tick: {error}") from error

    return follow


def _next(
    instance: dg.DagsterInstance, ended: dg.DagsterRun, then: str, factory: Factory
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """The runs of the job `then` that a run which has succeeded lets begin."""
    night = ended.tags.get(NIGHT)
    if night is None:
        yield dg.SkipReason("not a run of the schedule")
        return
    tonight = instance.get_runs(dg.RunsFilter(job_name=ended.job_name, tags={NIGHT: night}))
    newest = {run.tags.get(PARTITION): run.status for run in reversed(tonight)}  # given with the newest first
    done = sum(status == dg.DagsterRunStatus.SUCCESS for status in newest.values())
    wanted = max(len(newest), int(ended.tags.get(RUNS, 1)))  # some may not have been submitted yet
    if done < wanted:
        yield dg.SkipReason(f"{ended.job_name} of {night}: {done} of {wanted} have succeeded")
        return
    keys = factory.settings.profile_that_buys_nothing.nightly if then == train_and_evaluate.name else (None,)
    tags = {NIGHT: night, RUNS: str(len(keys))}
    for key in keys:
        yield dg.RunRequest(run_key=f"{night}/{then}/{key or ''}", partition_key=key, tags=tags)


schedules = [nightly]
sensors = [
    arrivals,
    *alerts.sensors,
    *overdue.sensors,
    *watchman.sensors,
    following.sensor,
    _follows(label_domain, release_training_set),
    _follows(release_training_set, train_and_evaluate),
    _follows(train_and_evaluate, rank_models),
]
