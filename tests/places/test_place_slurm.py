"""Stages as batch jobs, submitted to a stand-in for sbatch: no real Slurm cluster was at hand."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from slurm_toys import under_slurm
from stage_runs import Ran, process_of, ran, soon, started
from word_stages import figures, sft_job

from assets.place_slurm import asked_for
from rankmill.places import Slurm, SlurmNeeds
from training.jobs import ModelRef


def calls(toy: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (toy / "calls.jsonl").read_text("utf-8").splitlines()]


def test_a_stage_under_slurm_makes_the_weights_of_the_local_process_and_tells_every_step(
    toy: Path, here: Ran, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    place = under_slurm(tmp_path, setup="export OMP_NUM_THREADS=1")
    there = ran(place, sft_job(words, rows, tmp_path / "models"))
    assert there.failure == "" and here.result is not None and there.result is not None
    assert there.result.weights_sha256 == here.result.weights_sha256
    assert figures(there.result) == figures(here.result)
    assert [line.split()[1] for line in there.told] == [f"{n}/14" for n in range(1, 15)]
    assert any(line.startswith("Slurm job 4711; its output: ") for line in there.log)
    assert list((tmp_path / "work" / "slurm").iterdir()) == []


def test_no_secret_reaches_slurm(toy: Path, words: ModelRef, tmp_path: Path) -> None:
    ran(under_slurm(tmp_path), sft_job(words, tmp_path / "gone.parquet", tmp_path / "models"))
    (submitted, *_) = calls(toy)
    assert submitted["name"] == "sbatch" and "sk-secret-of-a-test" not in json.dumps(submitted)


def test_a_job_that_fails_ends_the_run_with_the_end_of_its_log(toy: Path, words: ModelRef, tmp_path: Path) -> None:
    there = ran(under_slurm(tmp_path), sft_job(words, tmp_path / "gone.parquet", tmp_path / "models"))
    assert there.result is None
    assert "Slurm job 4711 ended with exit code 1 (JobState FAILED" in there.failure
    assert "gone.parquet" in there.failure and "sft ended without a result in" in there.failure
    (log,) = (tmp_path / "logs" / "slurm").iterdir()
    assert str(log) in there.failure and "Traceback" in log.read_text("utf-8")


def test_a_job_that_is_killed_is_told_with_what_slurm_says_of_it(
    toy: Path, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path / "models")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(ran, under_slurm(tmp_path), job)
        process = soon(lambda: process_of(job))
        process.send_signal(signal.SIGKILL)
        there = run.result()
    assert there.result is None and "JobState OUT_OF_MEMORY" in there.failure


def test_a_run_that_is_cancelled_ends_its_job(toy: Path, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path / "models")
    run = started(under_slurm(tmp_path), job)
    soon(lambda: process_of(job))
    run.send_signal(signal.SIGINT)
    run.wait()
    assert ["4711"] in [call["arguments"] for call in calls(toy) if call["name"] == "scancel"]
    soon(lambda: process_of(job) is None)


def test_a_job_that_slurm_refuses_is_an_error_in_its_words(toy: Path, words: ModelRef, tmp_path: Path) -> None:
    place = under_slurm(tmp_path, options=["--partition=nowhere"])
    there = ran(place, sft_job(words, tmp_path / "rows.parquet", tmp_path / "models"))
    assert "sbatch refused the job: sbatch: error: invalid partition specified: nowhere" in there.failure


def test_without_sbatch_the_error_says_where_to_run(
    words: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there = ran(under_slurm(tmp_path), sft_job(words, tmp_path / "rows.parquet", tmp_path / "models"))
    assert "no sbatch on this machine's PATH; run Dagster on a login node" in there.failure


def test_a_job_asks_for_its_share_and_for_the_profiles_options_last() -> None:
    place = Slurm(where="slurm", options=("--partition=gpu",), stages={"sft": SlurmNeeds()})
    needs = SlurmNeeds(cpus=16, gpus=8, memory_gb=512, options=("--time=24:00:00",))
    asked = asked_for(place, needs, "name", Path("/home/log"))
    assert asked[2:5] == ["--cpus-per-task=16", "--gpus=8", "--mem=512000M"]
    assert asked[-2:] == ["--partition=gpu", "--time=24:00:00"]
