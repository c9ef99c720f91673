"""A source that has never been labelled holds no other one up."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("flows", "warehouse"))

from mills import write_folder
from small_lake import DOMAINS

from assets.curation import training_set
from assets.definitions import defs
from assets.resources import Factory
from warehouse.intake.registry import Active
from warehouse.lake import Lake, opened


def released(factory: Factory) -> tuple[bool, list[str]]:
    """Whether a release was made, and the domains of the newest one."""
    made = dg.materialize([training_set], resources={"factory": factory}, raise_on_error=False)
    with opened(Lake.at(Path(factory.home) / "lake")) as lake:
        domains = lake.read("releases").sort("created_at")["domains"].to_list()
    return made.success, domains[-1] if domains else []


def test_a_release_is_made_without_a_domain_that_was_never_labelled(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "home")
    factory = Factory(profile="offline", home=str(tmp_path / "home"))
    active = [Active(name, "folder", name) for name in (*DOMAINS, "newcomer")]
    factory.registry.keep(active)
    assert factory.never_labelled() == ["newcomer"] and factory.active_domains() == sorted(DOMAINS)
    assert released(factory) == (True, sorted(DOMAINS))


def test_where_nothing_was_labelled_the_domain_that_is_missed_is_named(tmp_path: Path) -> None:
    factory = Factory(profile="offline", home=str(tmp_path / "home"))
    factory.registry.keep([Active("newcomer", "folder", "newcomer")])
    assert factory.never_labelled() == [] and factory.active_domains() == ["newcomer"]
    made = dg.materialize([training_set], resources={"factory": factory}, raise_on_error=False)
    (event,) = made.get_step_failure_events()
    assert "newcomer was never made in this home" in json.dumps(event.step_failure_data.user_failure_data.description)


def test_a_source_without_training_queries_says_so_where_it_comes_in(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "held", 4)
    queries = folder / "queries.jsonl"
    queries.write_text(queries.read_text("utf-8").replace('"train"', '"dev"'), "utf-8")
    factory = Factory(profile="offline", home=str(tmp_path / "home"))
    factory.registry.keep(factory.registry.choose([str(folder)], None))
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("domain", ["held"])
    made = defs.resolve_job_def("label_domain").execute_in_process(
        instance=instance, partition_key="held", resources={"factory": factory}
    )
    assert made.success
    told = capfd.readouterr().err
    assert "held has no query of the split `train`" in told
    assert "mined_judgements held: there is nothing to ask" in told
