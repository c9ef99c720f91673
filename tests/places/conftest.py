"""Shared by the tests of places: a toy stage, and its weights as a process of this machine makes them."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

from stage_runs import Ran, ran
from word_stages import make_words, sft_job, write_rows

from assets.places import Processes
from rankmill.places import Local
from training.jobs import ModelRef


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
