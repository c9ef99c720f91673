"""Assets over a small filled lake: what stops a release, what is trained on, and when a report is made again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))

from later_releases import change, here, put, release_now
from small_lake import DOMAINS, LONG, TRAIN, release

from assets.checks import drift_within_bounds, releases_can_be_rebuilt
from assets.curation import data_quality_report, training_set
from assets.resources import Factory
from assets.training import sft_model
from rankmill.run import planned
from rankmill.settings import Settings
from warehouse import laws
from warehouse.lake import Lake, opened


class Recorder:
    """Takes the place of training processes: keeps the jobs that they would do, and does none."""

    def run(self, *, command: Sequence[str], **_: Any) -> float:
        """Keep the job whose file ends the command."""
        JOBS.append(json.loads(Path(command[-1]).read_text("utf-8")))
        return 0.0


JOBS: list[Mapping[str, Any]] = []


def profile(folder: Path, **values: Any) -> str:
    """A profile like offline, with `values`."""
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"extends": "offline", "description": "mine", **values}), "utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANKMILL_HOME", "RANKMILL_PROFILE", "RANKMILL_RELEASE", "RANKMILL_LAKE_CATALOG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "home")
    return tmp_path / "home"


def made(asset: dg.AssetsDefinition, home: Path, chosen: str = "offline", **given: Any) -> dg.ExecuteInProcessResult:
    resources = {"factory": Factory(profile=chosen, home=str(home)), "pipes": Recorder()}
    return dg.materialize([asset], resources=resources, raise_on_error=False, **given)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.get_step_failure_events()
    return str(event.step_failure_data.user_failure_data.description)


def test_a_policy_that_stops_makes_no_release_and_writes_down_every_overlap(home: Path, tmp_path: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        change(lake, "queries", put("text", LONG, here("math", "train3")))
        change(lake, "queries", put("text", f"Tell me: {LONG[:80].upper()}!", here("web_search", "train5")))
        stopping = profile(tmp_path, release={"overlap": {"at_finding": "stop"}})
        result = made(training_set, home, stopping)
        told = failure(result)
        page = home / "reports" / "contamination.csv"
        assert "2 lists share text" in told and f"All of them stand in {page}." in told
        named = pl.read_csv(page).select("ranking_id", "benchmark", "item", "test").rows()
        assert named == [("math-3", "bench", "b1", "exact"), ("web_search-5", "bench", "b1", "13-gram")]
        assert [lake.read(table).height for table in ("releases", "training_rows")] == [0, 0]
        assert made(training_set, home).success
        assert lake.read("releases")["rows"].to_list() == [len(DOMAINS) * TRAIN - 2]


@pytest.mark.parametrize("chosen", ["past", "newest"])
def test_what_is_trained_on_is_the_release_that_was_asked_for(
    home: Path, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        change(lake, "consistent_rankings", keep=~here("math", "train1"))
        releases = {"past": release_now(lake), "newest": release(lake)}
    if chosen == "past":
        monkeypatch.setenv("RANKMILL_RELEASE", releases["past"][:10])
    JOBS.clear()
    assert "ended without a result" in failure(made(sft_model, home, partition_key="reasonrank"))
    (job,) = JOBS
    assert job["release"] == releases[chosen]
    rows = pl.read_parquet(job["rows"])
    assert rows["release"].unique().to_list() == [releases[chosen]]
    assert rows.height == len(DOMAINS) * TRAIN - (chosen == "past")


def test_a_past_release_is_trained_on_as_it_is_and_nothing_before_it_is_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKMILL_HOME", str(home))
    whole = planned(Settings.load(), ["reasonrank"], DOMAINS)
    monkeypatch.setenv("RANKMILL_RELEASE", "abc")
    assert [job for job, _, _ in whole] == [
        "label_domain", "label_domain", "release_training_set", "train_and_evaluate", "rank_models",
    ]  # fmt: skip
    assert planned(Settings.load(), ["reasonrank"], DOMAINS) == whole[3:]


def test_a_release_that_moved_too_far_is_told_with_the_command_that_shows_its_rows(home: Path, tmp_path: Path) -> None:
    def drifted(**bounds: float) -> dg.AssetCheckEvaluation:
        chosen = profile(tmp_path, drift={"domain_mix": bounds}) if bounds else "offline"
        factory = Factory(profile=chosen, home=str(home))
        result = dg.materialize([training_set, drift_within_bounds], resources={"factory": factory})
        (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "drift_within_bounds")
        return found

    first = drifted()
    assert first.passed and "first release" in str(first.description)
    with opened(Lake.at(home / "lake")) as lake:
        change(lake, "consistent_rankings", keep=pl.col("domain") == "math")
        change(lake, "materializations", put("content_sha256", "less", pl.col("asset") == "consistent_rankings"))
        failed = drifted()
        before, after = lake.read("releases").sort("created_at")["release"]
    assert not failed.passed and failed.severity == dg.AssetCheckSeverity.ERROR
    assert "domain_mix 0.5 to 1 (distance 0.50 above 0.30)" in str(failed.description)
    assert f"rankmill lake diff {before[:12]} {after[:12]}" in str(failed.description)
    warned = drifted(warning=0.1, error=0.9)
    assert not warned.passed and warned.severity == dg.AssetCheckSeverity.WARN
    assert drifted(warning=0.6, error=0.9).passed


def test_a_release_is_rebuilt_once_and_again_only_when_something_else_would_come_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt: list[str] = []
    law = laws.releases_that_cannot_be_rebuilt

    def asked(lake: Lake) -> list[str]:
        rebuilt.append(lake.read("releases").sort("created_at")["release"][-1])
        return [*law(lake), *faults]

    faults: list[str] = []
    monkeypatch.setattr(laws, "releases_that_cannot_be_rebuilt", asked)
    resources = {"factory": Factory(profile="offline", home=str(home))}

    def checked(instance: dg.DagsterInstance) -> bool:
        result = dg.materialize([training_set, releases_can_be_rebuilt], resources=resources, instance=instance)
        return all(one.passed for one in result.get_asset_check_evaluations())

    (tmp_path / "history").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "history")) as instance:
        assert [checked(instance), checked(instance), len(rebuilt)] == [True, True, 1]
        with opened(Lake.at(home / "lake")) as lake:
            change(lake, "consistent_rankings", keep=pl.col("domain") == "math")
            change(lake, "materializations", put("content_sha256", "less", pl.col("asset") == "consistent_rankings"))
        faults.append("another hash")
        # What failed is asked again until it passes.
        assert [checked(instance), checked(instance), len(rebuilt)] == [False, False, 3]
        faults.clear()
        assert [checked(instance), checked(instance), len(rebuilt)] == [True, True, 4]
    assert len(set(rebuilt)) == 2


def test_a_report_is_made_again_only_when_what_it_shows_has_changed(home: Path, tmp_path: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        release(lake)
    wide = profile(tmp_path, drift={"list_length": {"warning": 0.5, "error": 0.6}})
    unchanged = []
    for chosen in ("offline", "offline", wide):
        result = made(data_quality_report, home, chosen)
        (event,) = result.asset_materializations_for_node("data_quality_report")
        unchanged.append(event.metadata["unchanged"].value)
    assert unchanged == [False, True, False]
