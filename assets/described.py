"""What every asset says about itself beside its description: owner, tags, columns, and how fresh it should be.

    assets = dg.map_asset_specs(described(owners), assets)

One place for all of them, so that none is forgotten. Deliberately absent: descriptions and kinds, which stand beside
the asset's code.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import dagster as dg

from assets.columns import TABLES, schema_of

OWNERS: Mapping[str, Sequence[str]] = {
    "sources": ("team:data",),
    "labels": ("team:data",),
    "curation": ("team:data",),
    "training": ("team:models",),
    "evaluation": ("team:models",),
}
"""By group; a profile's `owners` replaces them."""

# What a materialization needs that is scarce; all else costs seconds of a processor.
NEEDS = {
    "mined_judgements": "teacher",
    "teacher_rankings": "teacher",
    "sft_model": "accelerator",
    "rl_model": "accelerator",
    "benchmark_runs": "accelerator",
}
# Every asset is materialized each night, changed or not. A warning comes when a night has been missed by two hours, the
# failure when two in a row have.
FRESH = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))


def described(owners: Mapping[str, Sequence[str]]) -> Callable[[dg.AssetSpec], dg.AssetSpec]:
    """A function that completes an asset's spec; `owners` are those of the profile, by group."""

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        name, group = spec.key.to_user_string(), str(spec.group_name)
        table = {"dagster/table_name": TABLES[name]} if name in TABLES else {}
        return spec.replace_attributes(
            owners=list(owners.get(group, OWNERS[group])),
            tags={**spec.tags, "rankmill/needs": NEEDS.get(name, "processor")},
            metadata={**spec.metadata, **schema_of(name), **table},
            freshness_policy=FRESH,
        )

    return complete
