"""The main job: the whole graph, in order, in this process, recorded where the web UI finds it."""

import logging
import os
import shutil
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rankmill.dead_runs import PROCESS, end_dead_runs, open_pools
from rankmill.progress import RunProgress
from rankmill.settings import Settings

# By this tag the UI's page of a job finds its runs; Dagster gives it to those that the UI or a schedule starts.
IN_THE_UI = {".dagster/repository": "__repository__@assets.definitions"}


class RunFailed(RuntimeError):
    """A blocking check stopped what would follow; the message names it and the offending rows."""


def prepare_home(settings: Settings) -> None:
    """Make the home, give Dagster its folder in it, and hand both to this process and its children."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    if settings.instance_file is not None:
        shutil.copyfile(settings.instance_file, settings.dagster_home / "dagster.yaml")
    os.environ.update(settings.environment())


def run_graph(settings: Settings, recipes: Sequence[str], console: Console) -> None:
    """Materialize everything for the active sources and `recipes`; what has not changed ends at once.

    Raises the asset's own error where one says what to do (a bad source, a missing budget), else RunFailed.
    """
    prepare_home(settings)
    import dagster as dg

    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    from assets.console import PROGRESS
    from assets.definitions import defs
    from assets.resources import Factory

    progress = RunProgress(console)
    logger = logging.getLogger(PROGRESS)
    logger.addHandler(progress)
    # Definitions are loaded once a process; the home and profile of this very run come with it.
    factory = Factory(profile=settings.profile_name, home=str(settings.home))
    active = [entry.domain for entry in settings.registry.active()]
    try:
        with dg.DagsterInstance.get() as instance:
            end_dead_runs(instance)
            open_pools(instance)
            _match_partitions(instance, active)
            for job, partition_key, place in planned(settings, recipes, active):
                progress.begin(place)
                _execute(defs, instance, factory, job, partition_key)
    finally:
        progress.end()
        logger.removeHandler(progress)


def planned(settings: Settings, recipes: Sequence[str], active: Sequence[str]) -> list[tuple[str, str | None, str]]:
    """The jobs of a run in their order: name, partition, and what a person calls the place.

    A past release is trained on as it is: nothing before it is made again.
    """
    before: list[tuple[str, str | None, str]] = [
        *(("label_domain", domain, domain) for domain in active),
        ("release_training_set", None, "all domains"),
    ]
    return [
        *(before if settings.release is None else []),
        *(("train_and_evaluate", recipe, recipe) for recipe in recipes),
        ("rank_models", None, "all recipes"),
    ]


def _match_partitions(instance: Any, active: Sequence[str]) -> None:
    known = set(instance.get_dynamic_partitions("domain"))
    instance.add_dynamic_partitions("domain", [domain for domain in active if domain not in known])
    for gone in known - set(active):
        instance.delete_dynamic_partition("domain", gone)


def _execute(defs: Any, instance: Any, factory: Any, job: str, partition_key: str | None) -> None:
    import dagster as dg

    try:
        defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition_key,
            resources={"factory": factory},
            # The person who started it runs it again; the daemon does not.
            tags={PROCESS: f"{socket.gethostname()}/{os.getpid()}", "dagster/max_retries": "0", **IN_THE_UI},
            run_config={"loggers": {"console": {"config": {}}}},
            raise_on_error=True,
        )
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    except Exception as error:
        if type(error).__name__ != "DagsterAssetCheckFailedError":  # Dagster does not export it
            raise
        raise RunFailed(f"{job} stopped at a blocking check: {error}") from None


def report_paths(home: Path) -> list[Path]:
    """The HTML reports that exist."""
    return sorted((home / "reports").glob("*.html"))
