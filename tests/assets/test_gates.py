"""Gates that hold across ticks: a release that fails its audit is kept, marked, and trained on by nobody."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))

from small_lake import candidates, message

from assets.checks import checks
from assets.curation import training_set
from assets.partitions import recipes
from assets.resources import Factory
from assets.tags import NIGHT
from assets.training import sft_model
from warehouse.curation.audits import failed_audits
from warehouse.lake import Append, Lake, Replace, opened

OF_THE_RELEASE = [
    check for check in checks if {key.name for key in check.check_keys} & {"ids_are_unique", "splits_are_filled"}
]
STARTED: list[Sequence[str]] = []


class Recorder:
    """Takes the place of training processes: notes that one would be started."""

    def run(self, *, command: Sequence[str], **_: Any) -> float:
        STARTED.append(command)
        return 0.0


@pytest.fixture
def lake(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.delenv("RANKMILL_RELEASE", raising=False)
    shutil.copytree(filled, tmp_path / "home")
    STARTED.clear()
    with opened(Lake.at(tmp_path / "home" / "lake")) as lake:
        yield lake


def night(tmp_path: Path, instance: dg.DagsterInstance, job: str, date: str) -> dg.ExecuteInProcessResult:
    """The night's run of a job, recorded on an instance."""
    defs = dg.Definitions(
        assets=[training_set, sft_model],
        asset_checks=OF_THE_RELEASE,
        jobs=[
            dg.define_asset_job("release_training_set", dg.AssetSelection.assets("training_set")),
            dg.define_asset_job("train_and_evaluate", dg.AssetSelection.assets("sft_model"), partitions_def=recipes),
        ],
        resources={"factory": Factory(profile="offline", home=str(tmp_path / "home")), "pipes": Recorder()},
    )
    key = "reasonrank" if job == "train_and_evaluate" else None
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=key, tags={NIGHT: date}, raise_on_error=False
    )


def told(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.get_step_failure_events()
    return str(event.step_failure_data.user_failure_data.description)


def test_a_release_that_fails_its_audit_is_kept_marked_and_never_trained_on_until_it_passes(
    lake: Lake, tmp_path: Path
) -> None:
    lake.commit([Append("candidates", candidates("math", 3)), Append("candidates", candidates("math", 3))], message())
    with dg.instance_for_test() as instance:
        for date in ("2030-01-02", "2030-01-03"):
            # In the second night nothing has changed, and the gate is as shut as in the first.
            failed = night(tmp_path, instance, "release_training_set", date)
            assert failed.dagster_run.status == dg.DagsterRunStatus.FAILURE
            (release,) = lake.read("releases")["release"].to_list()
            (why,) = failed_audits(lake, release)
            assert why.startswith("ids_are_unique: 3: candidates: math / q / d")
            # Whoever starts training in a later tick, by hand or by a sensor, is told.
            refused = night(tmp_path, instance, "train_and_evaluate", date)
            assert f"release {release[:12]} failed its audit and is never trained on: ids_are_unique" in told(refused)
            assert STARTED == []
        rows = lake.read("training_rows").height
        assert rows == lake.read("releases")["rows"][0]
        lake.commit([Replace("candidates", pl.DataFrame(candidates("math", 3)))], message())
        assert night(tmp_path, instance, "release_training_set", "2030-01-04").success
        assert failed_audits(lake, release) == []
        night(tmp_path, instance, "train_and_evaluate", "2030-01-04")
        assert len(STARTED) == 1


def test_a_past_release_that_failed_is_refused_when_a_person_names_it(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.commit([Append("candidates", candidates("math", 3)), Append("candidates", candidates("math", 3))], message())
    with dg.instance_for_test() as instance:
        night(tmp_path, instance, "release_training_set", "2030-01-02")
        monkeypatch.setenv("RANKMILL_RELEASE", lake.read("releases")["release"][0][:10])
        assert "failed its audit" in told(night(tmp_path, instance, "train_and_evaluate", "2030-01-02"))
