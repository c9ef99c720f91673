"""All definitions of the code location. Loading them reads no data and imports no torch, trl or prefect."""

import dagster as dg

from assets import automation, curation, evaluation, labels, sources, training
from assets.checks import checks
from assets.console import console
from assets.described import described
from assets.following import following
from assets.jobs import jobs
from assets.places import Processes
from assets.resources import Factory
from rankmill.settings import Settings

settings = Settings.load()
owners = settings.profile_that_buys_nothing.owners
loaded = dg.load_assets_from_modules([sources, labels, curation, training, evaluation])
written = [each for each in loaded if isinstance(each, dg.AssetsDefinition)]
assets = dg.map_asset_specs(following, dg.map_asset_specs(described(owners), written))

# A process a step, forked from one that has this module: pools are honoured, and a step starts in a second.
executor = dg.multiprocess_executor.configured(
    {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": ["assets.definitions"]}}}
)

defs = dg.Definitions(
    executor=executor,
    assets=assets,
    asset_checks=checks,
    jobs=jobs,
    schedules=automation.schedules,
    sensors=automation.sensors,
    resources={
        "factory": Factory(profile=settings.profile_name, home=str(settings.home)),
        "pipes": Processes(settings.profile_that_buys_nothing.processes, settings.home),
    },
    loggers={"console": console},
)
