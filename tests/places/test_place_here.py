"""A stage of this machine whose process is killed: what a reader is told, and that the same command goes on."""

import threading
from pathlib import Path

from stage_runs import process_of, ran, soon
from word_stages import sft_job

from assets.places import Processes
from rankmill.places import Local
from training.jobs import ModelRef


def test_a_process_killed_by_signal_9_is_told_with_its_likely_cause_and_what_to_lower(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job, place = sft_job(words, rows, tmp_path / "models", objective={"max_steps": 4}), Processes(Local(), tmp_path)
    killer = threading.Thread(target=lambda: soon(lambda: process_of(job)).kill())
    killer.start()
    killed = ran(place, job)
    killer.join()
    assert killed.result is None and "killed by signal 9" in killed.failure
    for told in ("out of memory", "somebody's kill -9", "Lower objective.batch (2;", "checkpoint is kept"):
        assert told in killed.failure
    again = ran(place, job)
    assert again.failure == "" and again.result is not None and again.result.steps == 4


def test_a_process_that_fails_by_itself_is_not_called_killed(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    failed = ran(Processes(Local(), tmp_path), sft_job(words, tmp_path / "gone.parquet", tmp_path / "models"))
    assert "ended without a result" in failed.failure and "signal 9" not in failed.failure
