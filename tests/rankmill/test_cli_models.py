"""models, promote and rollback as a person uses them, and `champion` as the name of a model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "warehouse"))
from measured_models import evaluate, level
from small_lake import message

from rankmill.chosen_model import choose_model
from rankmill.cli import app
from rankmill.settings import Settings, SettingsError
from warehouse.lake import Append, Lake, opened
from warehouse.promotion import PromotionSettings, judge_new


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANKMILL_HOME", "RANKMILL_PROFILE", "RANKMILL_LAKE_CATALOG", "RANKMILL_LAKE_DATA"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def judged_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion and a challenger."""
    home = tmp_path_factory.mktemp("judged")
    with opened(Lake.at(home / "lake")) as lake:
        evaluate(lake, "reasonrank", {"good-model-1": level(0.6, "law", "math")})
        evaluate(lake, "first", {"weak-model-1": level(0.3, "law", "math")})
        judged = judge_new(lake, lake.snapshot(), ["reasonrank", "first"], PromotionSettings(), 500, 0)
        lake.commit([Append("promotions", judged.records)], message("champion"))
    return home


@pytest.fixture
def home(judged_home: Path, tmp_path: Path) -> Path:
    shutil.copytree(judged_home, tmp_path / "home")
    return tmp_path / "home"


def rankmill(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--home", str(home)])


def settings(home: Path) -> Settings:
    return Settings.load().model_copy(update={"home": home})


def test_models_shows_standings_with_reasons_and_people_change_them(home: Path) -> None:
    rows = json.loads(rankmill(home, "models", "--json").stdout)
    assert {row["model"]: row["standing"] for row in rows} == {"good-model-1": "champion", "weak-model-1": "challenger"}
    shown = rankmill(home, "models").stdout
    assert "0.6055" in shown
    assert "challenger: -0.1000" in " ".join(shown.split())
    assert rankmill(home, "promote", "first/sft", "--reason", " ").exit_code == 1
    promoted = rankmill(home, "promote", "first/sft", "--reason", "asked for", "--who", "ann")
    assert (promoted.exit_code, promoted.stdout) == (
        0, "weak-model-1 (first/sft) is champion in place of good-model-1\n",
    )  # fmt: skip
    assert "champion by ann: asked for" in " ".join(rankmill(home, "models").stdout.split())
    again = rankmill(home, "promote", "weak", "--reason", "again")
    assert (again.exit_code, "champion already" in again.output) == (1, True)
    back = rankmill(home, "rollback")
    assert (back.exit_code, back.stdout) == (0, "weak-model-1 is rolled back; good-model-1 stands in its place\n")
    unknown = rankmill(home, "promote", "nobody", "--reason", "why")
    assert (unknown.exit_code, "rankmill models" in unknown.output) == (1, True)


def test_champion_is_the_name_of_a_model_while_there_is_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "champion").mkdir()  # a folder of that name is not what is meant
    chosen = choose_model(settings(home), "champion")
    assert chosen.names == ("champion", "reasonrank/sft", "good-model-1")
    assert (chosen.recipe.name, chosen.reference.sha256) == ("reasonrank", "good-model-1")
    rankmill(home, "rollback")
    with pytest.raises(SettingsError, match="no champion"):
        choose_model(settings(home), "champion")
    with pytest.raises(SettingsError, match="good-model-1"):
        choose_model(settings(home), "nobody")
    refused = rankmill(home, "rollback")
    assert (refused.exit_code, "no champion to roll back" in refused.output) == (1, True)
