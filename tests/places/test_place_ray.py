"""Stages on a real Ray cluster of this machine: a head that does no work, and two workers."""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from label_runs import home_of, label, made
from stage_runs import Ran, failure_of, process_of, ran, soon, started
from word_stages import figures, rerank_job, rl_job, sft_job

from assets.places import Processes
from rankmill.places import Local, Ray
from training.jobs import ModelRef, finished

pytest.importorskip("ray", reason="ray is not installed: make test-places")
pytest.importorskip("dagster_ray", reason="dagster-ray is not installed: make test-places")

pytestmark = pytest.mark.clusters
PORT = 18_265
ADDRESS = f"http://127.0.0.1:{PORT}"
NODE = {"object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": PORT, **NODE}
        ray = Cluster(initialize_head=True, head_node_args=head)
        for name in ("first", "second"):
            ray.add_node(num_cpus=1, resources={name: 1}, **NODE)
        yield ADDRESS
        ray.shutdown()


def on_ray(home: Path, address: str = ADDRESS, **needs: object) -> Processes:
    stages = {"sft": needs, "rl": needs, "rerank": needs}
    place = {"where": "ray", "address": address, "python": sys.executable, "stages": stages}
    return Processes(Ray.model_validate(place), home)


def test_a_stage_on_ray_makes_the_weights_of_the_local_process_and_tells_every_step(
    cluster: str, here: Ran, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    there = ran(on_ray(tmp_path), sft_job(words, rows, tmp_path / "models"))
    assert there.failure == "" and here.result is not None and there.result is not None
    assert there.result.weights_sha256 == here.result.weights_sha256 != words.sha256
    assert figures(there.result) == figures(here.result)
    numbers = [line.split()[1] for line in there.told]
    assert numbers == [f"{n}/14" for n in range(1, 15)] and all("loss" in line for line in there.told)


def test_rerankings_on_ray_share_a_process_and_score_what_the_local_one_scores(
    cluster: str, words: ModelRef, tmp_path: Path
) -> None:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster)
    before = {job.submission_id for job in client.list_jobs()}
    parts = (["q0", "q1", "q2"], ["q5", "q7"])
    here, there = ([rerank_job(words, tmp_path / name, part) for part in parts] for name in ("here", "there"))
    assert ran(Processes(Local(), tmp_path), *here).failure == ran(on_ray(tmp_path), *there).failure == ""
    for local, remote in zip(here, there, strict=True):
        run, other = (pl.read_parquet(job.folder / "run.parquet") for job in (local, remote))
        assert run.height == 3 * len(set(run["qid"])) and run["value"].null_count() == 0 and run.equals(other)
    assert len({job.submission_id for job in client.list_jobs()} - before) == 1


def test_two_stages_run_on_two_workers_at_once(cluster: str, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster)
    before = {job.submission_id for job in client.list_jobs()}
    jobs = {"first": sft_job(words, rows, tmp_path / "sft"), "second": rl_job(words, rows, tmp_path / "rl")}
    runs = [started(on_ray(tmp_path, resources={name: 1}), job) for name, job in jobs.items()]
    assert [failure_of(run) for run in runs] == ["", ""] and all(finished(job) for job in jobs.values())
    found = [job for job in client.list_jobs() if job.submission_id not in before]
    assert len({job.driver_node_id for job in found}) == 2
    first, second = sorted(found, key=lambda job: job.start_time)
    assert second.start_time < first.end_time
    assert all("dagster/run-id" in job.metadata for job in found)


def test_a_job_that_fails_ends_the_run_with_the_last_words_of_its_log(
    cluster: str, words: ModelRef, tmp_path: Path
) -> None:
    there = ran(on_ray(tmp_path), sft_job(words, tmp_path / "gone.parquet", tmp_path / "models"))
    assert there.result is None
    assert "sft ended without a result in" in there.failure and "gone.parquet" in there.failure
    assert "exit code 1" in there.failure and "run it again" in there.failure


def test_a_process_that_is_killed_is_named_and_the_next_one_goes_on_from_it(
    cluster: str, here: Ran, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path / "models", checkpoint_steps=2)
    with ThreadPoolExecutor() as pool:
        run = pool.submit(ran, on_ray(tmp_path), job)
        soon(lambda: list(job.resume.glob("checkpoint-*")))
        process = process_of(job)
        assert process is not None
        process.send_signal(signal.SIGKILL)
        killed = run.result()
    assert killed.result is None and "sft ended without a result in" in killed.failure
    assert f"exit code {128 + signal.SIGKILL}" in killed.failure
    again = ran(on_ray(tmp_path), job)
    assert again.failure == "" and again.result is not None and here.result is not None
    assert again.result.went_on_at and again.result.weights_sha256 == here.result.weights_sha256


def test_a_run_that_is_cancelled_ends_its_job_in_ray(cluster: str, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(cluster)
    before = {job.submission_id for job in client.list_jobs()}
    job = sft_job(words, rows, tmp_path / "models")
    run = started(on_ray(tmp_path), job)
    soon(lambda: process_of(job))
    run.send_signal(signal.SIGINT)
    run.wait()
    (submitted,) = {one.submission_id for one in client.list_jobs()} - before
    assert soon(lambda: client.get_job_status(submitted) == JobStatus.STOPPED)
    assert finished(job) is None and process_of(job) is None


def test_a_job_that_somebody_stops_in_ray_ends_the_run(
    cluster: str, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster)
    before = {job.submission_id for job in client.list_jobs()}
    job = rl_job(words, rows, tmp_path / "models")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(ran, on_ray(tmp_path), job)
        soon(lambda: process_of(job))
        (submitted,) = {one.submission_id for one in client.list_jobs()} - before
        client.stop_job(submitted)
        stopped = run.result()
    assert stopped.result is None and "STOPPED" in stopped.failure


def test_questions_go_to_the_node_that_holds_the_home_and_make_the_rows_of_those_asked_here(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.job_submission import JobSubmissionClient

    monkeypatch.delenv("RANKMILL_HOME", raising=False)
    client = JobSubmissionClient(cluster)
    before = {job.submission_id for job in client.list_jobs()}
    place = {"where": "ray", "address": cluster, "python": sys.executable}
    there = home_of(tmp_path / "there", {**place, "stages": {"label": {"resources": {"second": 1}}}})
    here = home_of(tmp_path / "here")
    assert label(here)[0].success and label(there)[0].success
    assert made(there) == made(here)
    found = [job for job in client.list_jobs() if job.submission_id not in before]
    assert len(found) == 2 and len({job.driver_node_id for job in found}) == 1


def test_a_cluster_that_does_not_answer_is_an_error_that_says_what_to_look_at(words: ModelRef, tmp_path: Path) -> None:
    nobody = on_ray(tmp_path, "http://127.0.0.1:9")
    there = ran(nobody, sft_job(words, tmp_path / "rows.parquet", tmp_path / "models"))
    assert "Ray at http://127.0.0.1:9 does not answer" in there.failure and "ray status" in there.failure
