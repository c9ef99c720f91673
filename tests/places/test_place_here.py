"""A stage of this machine that does not end well: what a reader is told and shown, and how it goes on."""

import json
import math
import threading
from pathlib import Path

import dagster as dg
from stage_runs import process_of, ran, soon
from word_stages import sft_job

from assets.places import Processes
from assets.processes import run_jobs
from assets.training import curve_of_failure
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


def test_a_stage_that_diverges_has_its_curve_so_far_on_the_failure(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    far = {"lr": 1e18, "max_steps": 12, "scheduler": "constant", "warmup": 0.0}
    job = sft_job(words, rows, tmp_path / "models", objective=far)

    @dg.asset
    def stage(context: dg.AssetExecutionContext) -> None:
        with curve_of_failure(job):
            run_jobs(context, Processes(Local(), tmp_path), job)

    with dg.instance_for_test() as instance:
        run = dg.materialize([stage], instance=instance, raise_on_error=False)
    (event,) = run.get_step_failure_events()
    told = event.step_failure_data.user_failure_data
    assert told is not None and "ended without a result" in (told.description or "")
    assert str(told.metadata["curves"].value).startswith("![curves](data:image/png;base64,")
    history = json.loads(job.curve.read_text())
    assert [entry["step"] for entry in history] == [*range(1, len(history) + 1)]
    assert not all(math.isfinite(history[-1][name]) for name in ("loss", "grad_norm"))
