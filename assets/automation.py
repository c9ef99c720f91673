"""Jobs over the graph, and the schedule that runs them for what is new or changed."""

from collections.abc import Iterator

import dagster as dg

from assets.partitions import domains, recipes
from assets.resources import Factory

label_domain = dg.define_asset_job(
    "label_domain",
    selection=dg.AssetSelection.assets(
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
    selection=dg.AssetSelection.assets("benchmarks", "training_set", "data_quality_report", "dataset_card"),
    description="Every domain's consistent rankings into an immutable release, with its report and card.",
)
train_and_evaluate = dg.define_asset_job(
    "train_and_evaluate",
    selection=dg.AssetSelection.assets("sft_model", "rl_model", "benchmark_runs"),
    partitions_def=recipes,
    description="One recipe: SFT, RL, and both beside base and first stage on held-out queries.",
)
rank_models = dg.define_asset_job(
    "rank_models",
    selection=dg.AssetSelection.assets("leaderboard"),
    description="The leaderboard of everything that was evaluated.",
)
jobs = [label_domain, release_training_set, train_and_evaluate, rank_models]


@dg.schedule(cron_schedule="0 3 * * *", job=label_domain, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly_labels(context: dg.ScheduleEvaluationContext, factory: Factory) -> Iterator[dg.RunRequest]:
    """Every active domain, nightly; what has not changed ends at once and buys nothing."""
    active = factory.active_domains()
    context.instance.add_dynamic_partitions("domain", active)
    for domain in active:
        yield dg.RunRequest(partition_key=domain)


@dg.schedule(cron_schedule="0 5 * * *", job=release_training_set, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly_release() -> dg.RunRequest:
    """A release of last night's labels; the same rows give the release that is there already."""
    return dg.RunRequest()


@dg.schedule(cron_schedule="30 5 * * *", job=train_and_evaluate, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly_training() -> Iterator[dg.RunRequest]:
    """Every recipe on the newest release; an unchanged release trains nothing."""
    for recipe in recipes.get_partition_keys():
        yield dg.RunRequest(partition_key=recipe)


@dg.schedule(cron_schedule="0 9 * * *", job=rank_models, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly_leaderboard() -> dg.RunRequest:
    """The leaderboard of what the night has made."""
    return dg.RunRequest()


schedules = [nightly_labels, nightly_release, nightly_training, nightly_leaderboard]
