"""backup and restore as a person types them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "warehouse"))
from small_lake import candidates, message

from rankmill.cli import app
from warehouse.lake import Append, Lake, opened


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RANKMILL_INSTANCE",
        "RANKMILL_HOME",
        "RANKMILL_PROFILE",
        "RANKMILL_LAKE_CATALOG",
        "RANKMILL_LAKE_DATA",
    ):
        monkeypatch.setenv(f"RANKMILL_{name}", "")
        monkeypatch.delenv(f"RANKMILL_{name}")


def rankmill(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_home_goes_into_a_file_and_comes_out_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, out, new = tmp_path / "old", tmp_path / "mill.tar.gz", tmp_path / "new"
    with opened(Lake.at(old / "lake")) as lake:
        lake.commit([Append("candidates", candidates("math", 3))], message())
    kept = rankmill("backup", out, "--home", old)
    assert kept.exit_code == 0, kept.output
    assert f"lake at snapshot {lake.snapshot()}" in kept.stdout
    lake.close()
    shutil.rmtree(old)
    restored = rankmill("restore", out, "--home", new)
    assert restored.exit_code == 0, restored.output
    assert "0 releases of the lake verified" in restored.stdout
    assert "3" in rankmill("lake", "query", "SELECT count(*) AS n FROM candidates", "--home", new).stdout
    again = rankmill("restore", out, "--home", new)
    assert (again.exit_code, "BackupRefused" in again.output) == (1, True)
    out.write_bytes(out.read_bytes()[:-5])
    cut = rankmill("restore", out, "--home", tmp_path / "third")
    assert (cut.exit_code, "DamagedBackup" in cut.output, "Traceback" in cut.output) == (1, True, False)
    monkeypatch.setenv("RANKMILL_LAKE_CATALOG", "postgres:dbname=lake")
    shared = rankmill("backup", tmp_path / "shared.tar.gz", "--home", new)
    assert (shared.exit_code, "pg_dump" in shared.output) == (1, True)
    told = " ".join(shared.output.split())
    for name in ("exchanges.sqlite", "models", "sources.yaml"):
        assert str(new / name) in told
    assert f"The lake in {new} that was used before" in told
    nowhere = rankmill("backup", tmp_path / "shared.tar.gz", "--home", tmp_path / "no-lake")
    assert (nowhere.exit_code, "used before" in nowhere.output) == (1, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mill.tar.gz", "new"]


def test_a_team_s_backup_says_that_the_run_history_is_not_in_it_and_what_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with opened(Lake.at(home / "lake")) as lake:
        lake.commit([Append("candidates", candidates("math", 3))], message())
    alone = rankmill("backup", tmp_path / "alone.tar.gz", "--home", home)
    assert (alone.exit_code, "PostgreSQL" in alone.output) == (0, False)
    monkeypatch.setenv("RANKMILL_INSTANCE", "team")
    team = rankmill("backup", tmp_path / "team.tar.gz", "--home", home)
    assert team.exit_code == 0, team.output
    assert "note: the run history is in PostgreSQL" in team.stderr and "pg_dump --host=$DAGSTER_PG_HOST" in team.stderr
    monkeypatch.setenv("RANKMILL_LAKE_CATALOG", "postgres:dbname=lake")
    shared = rankmill("backup", tmp_path / "shared.tar.gz", "--home", home)
    assert (shared.exit_code, "note: the run history is in PostgreSQL" in shared.stderr) == (1, True)
