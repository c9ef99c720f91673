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
    for name in ("RANKMILL_HOME", "RANKMILL_PROFILE", "RANKMILL_LAKE_CATALOG", "RANKMILL_LAKE_DATA"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mill.tar.gz", "new"]
