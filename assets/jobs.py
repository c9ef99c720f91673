"""Jobs over the graph: what a person, a schedule or a sensor starts."""

import dagster as dg

from assets.checks import QUALITY
from assets.partitions import domains, recipes
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
