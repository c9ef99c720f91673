"""What follows by itself when something that it reads has changed: only what costs seconds of a processor.

    assets = dg.map_asset_specs(following, assets)

A condition looks at data versions, which are content hashes, so what was made again and came out the same sets nothing
off. Deliberately absent: conditions on what costs money or hours (the night asks teachers and trains, within its
budgets), and on the release, which waits until every domain of a night is labelled.
"""

import dagster as dg

FOLLOWING = (
    "candidates",
    "consistent_rankings",
    "campaign_report",
    "data_quality_report",
    "dataset_card",
    "leaderboard",
    "champion",
)
_When = dg.AutomationCondition
# A run that makes both, as the jobs do, leaves nothing to follow; nor does anything follow a check that blocks.
CHANGED = (
    _When.any_deps_match(_When.data_version_changed()).since(_When.newly_requested() | _When.newly_updated())
    & ~_When.any_deps_in_progress()
    & ~_When.in_progress()
    & _When.all_deps_blocking_checks_passed()
).with_label("something it reads has changed")


def following(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with its condition, where it follows."""
    follows = spec.key.to_user_string() in FOLLOWING
    return spec.replace_attributes(automation_condition=CHANGED) if follows else spec


sensor = dg.AutomationConditionSensorDefinition(
    "reports_follow",
    target=dg.AssetSelection.assets(*FOLLOWING),
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Candidates, filter, reports, card, leaderboard and champion, as soon as what they read has changed, "
    "whoever has changed it. Asks no teacher and trains nothing.",
)
