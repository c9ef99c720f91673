"""Jobs over the graph, and the schedule that runs them for what is new or changed."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.checks import QUALITY
from assets.partitions import domains, recipes
from assets.resources import Factory
from warehouse.audit import suites


def _with_suites(group: str, *names: str) -> dg.AssetSelection:
    """Assets with their checks, and the suites of a group over all tables at once: starting them costs seconds."""
    keys = [dg.AssetCheckKey(dg.AssetKey(asset), QUALITY) for asset in suites.assets_of(group)]
    return dg.AssetSelection.assets(*names) | dg.AssetSelection.checks(*keys)


def _without_suites(*names: str) -> dg.AssetSelection:
    """Assets with their checks but for the suites, which wait until all partitions are there."""
    carried = [*suites.assets_of(suites.RELEASE), *suites.assets_of(suites.EVALUATION)]
    keys = [dg.AssetCheckKey(dg.AssetKey(asset), QUALITY) for asset in carried if asset in names]
    return dg.AssetSelection.assets(*names) - dg.AssetSelection.checks(*keys)


label_domain = dg.define_asset_job(
    "label_domain",
    selection=_without_suites(
        "queries",
        "passages",
        "human_judgements",
        "candidates",
        "mined_judgements",
        "teacher_rankings",
        "consistent_rankings",
    ),
    partitions_def=domains,
    description="One domain from its source to consistent rankings.",
)
release_training_set = dg.define_asset_job(
    "release_training_set",
    selection=_with_suites(
        suites.RELEASE, "campaign_report", "benchmarks", "training_set", "data_quality_report", "dataset_card"
    ),
    description="Every domain's consistent rankings into an immutable release, with its reports and card.",
)
train_and_evaluate = dg.define_asset_job(
    "train_and_evaluate",
    selection=_without_suites("sft_model", "rl_model", "benchmark_runs"),
    partitions_def=recipes,
    description="One recipe: SFT, RL, and both beside base and first stage on held-out queries.",
)
rank_models = dg.define_asset_job(
    "rank_models",
    selection=_with_suites(suites.EVALUATION, "leaderboard", "champion"),
    description="The leaderboard of everything that was evaluated, and which model is the champion.",
)
jobs = [label_domain, release_training_set, train_and_evaluate, rank_models]


NIGHT = "rankmill/night"


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
    _follows(label_domain, release_training_set),
    _follows(release_training_set, train_and_evaluate),
    _follows(train_and_evaluate, rank_models),
]
