"""Stages as batch jobs of a real Slurm of one node, where its programs are installed."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import slurm
from slurm_toys import under_slurm
from stage_runs import Ran, failure_of, process_of, ran, soon, started
from word_stages import figures, sft_job

from rankmill.settings import ROOT
from training.jobs import ModelRef, finished

pytestmark = pytest.mark.clusters


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with slurm(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


@pytest.fixture(autouse=True)
def cluster(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-test")


def job_ids() -> list[str]:
    return subprocess.run(
        ["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True
    ).stdout.split()


def test_a_batch_job_makes_the_weights_of_the_local_process_and_knows_no_secret(
    here: Ran, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    known = tmp_path / "known.txt"
    needs = {"cpus": 1, "gpus": 2, "memory_gb": 1.5}
    place = under_slurm(tmp_path, setup=f"export OMP_NUM_THREADS=1\nenv > {known}", stages={"sft": needs})
    there = ran(place, sft_job(words, rows, tmp_path / "models"))
    assert there.failure == "" and here.result is not None and there.result is not None
    assert there.result.weights_sha256 == here.result.weights_sha256
    assert figures(there.result) == figures(here.result)
    assert [line.split()[1] for line in there.told] == [f"{n}/14" for n in range(1, 15)]
    environment = known.read_text("utf-8")
    assert "SLURM_JOB_NAME=rankmill-sft-" in environment and "SLURM_GPUS=2" in environment
    assert "SLURM_MEM_PER_NODE=1500" in environment and "sk-secret-of-a-test" not in environment


def test_a_batch_job_that_fails_is_told_with_its_state_and_the_end_of_its_log(words: ModelRef, tmp_path: Path) -> None:
    there = ran(under_slurm(tmp_path), sft_job(words, tmp_path / "gone.parquet", tmp_path / "models"))
    assert there.result is None
    assert "JobState FAILED, Reason NonZeroExitCode, ExitCode 1:0" in there.failure and "gone.parquet" in there.failure


def test_a_batch_job_that_is_killed_is_gone_on_with(here: Ran, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path / "models", checkpoint_steps=2)
    place = under_slurm(tmp_path, setup="export OMP_NUM_THREADS=1")
    run = started(place, job)
    soon(lambda: list(job.resume.glob("checkpoint-*")))
    process = process_of(job)
    assert process is not None
    process.send_signal(signal.SIGKILL)
    assert "JobState FAILED" in failure_of(run)
    again = ran(place, job)
    assert again.failure == "" and again.result is not None and here.result is not None
    assert again.result.went_on_at and again.result.weights_sha256 == here.result.weights_sha256


def test_a_batch_job_that_somebody_cancels_ends_the_run(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path / "models")
    run = started(under_slurm(tmp_path), job)
    soon(lambda: process_of(job))
    subprocess.run(["scancel", *job_ids()], check=True)
    assert "JobState CANCELLED" in failure_of(run) and finished(job) is None


def test_a_run_that_is_cancelled_ends_its_batch_job(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path / "models")
    run = started(under_slurm(tmp_path), job)
    soon(lambda: process_of(job))
    run.send_signal(signal.SIGINT)
    run.wait()
    soon(lambda: not job_ids() and process_of(job) is None)


def test_a_partition_that_is_not_there_is_refused_in_slurms_words(words: ModelRef, tmp_path: Path) -> None:
    place = under_slurm(tmp_path, options=["--partition=nowhere"])
    there = ran(place, sft_job(words, tmp_path / "rows.parquet", tmp_path / "models"))
    assert "sbatch refused the job" in there.failure and "invalid partition specified: nowhere" in there.failure


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "slurm").glob("*.sbatch")), ids=lambda path: path.stem)
def test_sbatch_reads_the_options_of_the_scripts(path: Path) -> None:
    tried = subprocess.run(["sbatch", "--test-only", str(path)], capture_output=True, text=True, check=False)
    # One node of this size has no room for them; an option that sbatch does not know ends it before it asks.
    assert "allocation failure" in tried.stderr and "option" not in tried.stderr, tried.stderr
