"""Shared by the tests of places: a toy stage, and its weights as a process of this machine makes them."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

from stage_runs import Ran, ran
from word_stages import make_words, sft_job, write_rows

from assets.places import Processes
from rankmill.places import Local
from training.jobs import ModelRef

STAND_IN = Path(__file__).with_name("sbatch.py")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return make_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), "sft", "rl")


@pytest.fixture(scope="session")
def here(words: ModelRef, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The short supervised stage, as it runs without a cluster."""
    home = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as a cluster gives a process that asked for one core
        return ran(Processes(Local(), home), sft_job(words, rows, home / "models"))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm cluster of one machine that is stood in for: the folder on PATH that keeps what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    body = STAND_IN.read_text("utf-8")
    for name in ("sbatch", "scancel", "scontrol"):
        (folder / name).write_text(f"#!{sys.executable}\n{body}", "utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-test")
    return folder
