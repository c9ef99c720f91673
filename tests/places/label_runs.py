"""One small domain labelled through Dagster, with the paid half wherever the profile says."""

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))

from mills import write_folder

from assets.definitions import defs
from assets.resources import Factory
from warehouse.lake import content_sha256

ROWS = {"judgements": ["qid", "docid", "grade", "origin"], "rankings": ["ranking_id"], "consistent_rankings": ["qid"]}
TOLD = ("created_at", "latency_s", "attempts")


def home_of(folder: Path, processes: dict[str, Any] | None = None, **teacher: Any) -> Factory:
    """A home with one small domain, and a profile like offline whose processes run at a place."""
    folder.mkdir()
    values = {
        "extends": "offline",
        "description": "mine",
        "teacher": teacher,
        "processes": processes or {"where": "local"},
    }
    (folder / "mine.yaml").write_text(json.dumps(values), "utf-8")
    factory = Factory(profile=str(folder / "mine.yaml"), home=str(folder / "home"))
    factory.registry.keep(factory.registry.choose([str(write_folder(folder / "sources" / "land", 8))], None))
    return factory


def label(factory: Factory) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("domain", ["land"])
        run = defs.resolve_job_def("label_domain").execute_in_process(
            instance=instance, partition_key="land", resources={"factory": factory}, raise_on_error=False
        )
        return run, [entry.user_message for entry in instance.all_logs(run.run_id)]


def made(factory: Factory) -> dict[str, str]:
    """What labelling has made, by table."""
    return {table: content_sha256(factory.lake.read(table), keys) for table, keys in ROWS.items()}
