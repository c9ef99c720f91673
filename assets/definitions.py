"""All definitions of the code location. Loading them reads no data and imports no torch, trl or prefect."""

import dagster as dg

from assets import automation, curation, evaluation, labels, sources, training
from assets.checks import checks
from assets.console import console
from assets.resources import Factory
from rankmill.settings import Settings

settings = Settings.load()
ordered_assets = dg.load_assets_from_modules([sources, labels, curation, training, evaluation])

defs = dg.Definitions(
    assets=ordered_assets,
    asset_checks=checks,
    jobs=automation.jobs,
    schedules=automation.schedules,
    resources={
        "factory": Factory(profile=settings.profile_name, home=str(settings.home)),
        "pipes": dg.PipesSubprocessClient(),
    },
    loggers={"console": console},
)
