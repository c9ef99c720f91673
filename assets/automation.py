"""The night: a schedule that labels what is new or changed, and sensors that let the rest of the graph follow."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.arrivals import arrivals
from assets.jobs import label_domain, rank_models, release_training_set, train_and_evaluate
from assets.resources import Factory
from assets.tags import NIGHT


@dg.schedule(cron_schedule="0 3 * * *", job=label_domain, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly(context: dg.ScheduleEvaluationContext, factory: Factory) -> Iterator[dg.RunRequest]:
    """Every active domain, nightly; release, training and leaderboard follow when all of a night has succeeded.

    What has not changed ends at once and buys nothing.
    """
    night = context.scheduled_execution_time.date().isoformat()
    active = factory.active_domains()
    context.instance.add_dynamic_partitions("domain", active)
    for domain in active:
        yield dg.RunRequest(run_key=f"{night}/{domain}", partition_key=domain, tags={NIGHT: night})


def _follows(first: Any, then: Any) -> dg.SensorDefinition:
    """`then`, once every run of `first` in the same night has succeeded; runs of people start nothing."""

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
        night = context.dagster_run.tags.get(NIGHT)
        if night is None:
            yield dg.SkipReason("not a run of the schedule")
            return
        tonight = context.instance.get_runs(dg.RunsFilter(job_name=first.name, tags={NIGHT: night}))
        if any(run.status != dg.DagsterRunStatus.SUCCESS for run in tonight):
            yield dg.SkipReason(f"{first.name} of {night} has not succeeded throughout")
            return
        keys = factory.settings.profile.nightly if then is train_and_evaluate else [None]
        for key in keys:
            tags = {NIGHT: night}
            yield dg.RunRequest(run_key=f"{night}/{then.name}/{key or ''}", partition_key=key, tags=tags)

    return follow


schedules = [nightly]
sensors = [
    arrivals,
    _follows(label_domain, release_training_set),
    _follows(release_training_set, train_and_evaluate),
    _follows(train_and_evaluate, rank_models),
]
