"""A stage that is killed with -9 goes on, when its job is started again, to the weights of an unbroken run."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from training_toys import Lines
from word_stages import Died, Mortal, figures, rl_job, run, sft_job

from training.jobs import ModelRef, RlJob, SftJob, TrainResult, command, finished
from training.survival import alone


@pytest.fixture(scope="module")
def taught(words: ModelRef, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelRef]:
    """Students that answer in the right form now and then, so that their rollouts are worth different things."""

    @cache
    def teach(name: str) -> ModelRef:
        plain = {"batch": 4, "max_steps": 40, "scheduler": "constant"}
        job = sft_job(words, rows, tmp_path_factory.mktemp(name), name, plain)
        return ModelRef(path=str(job.folder), sha256=run(job).weights_sha256)

    return teach


def job_of(stage: str, name: str, model: ModelRef, rows: Path, output: Path, **changes: Any) -> SftJob | RlJob:
    return (sft_job if stage == "sft" else rl_job)(model, rows, output, name, **changes)


def start(job: SftJob | RlJob) -> "subprocess.Popen[str]":
    quiet = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command(job), stderr=subprocess.PIPE, text=True, env=quiet, start_new_session=True)


def killed_after(job: SftJob | RlJob, step: int) -> list[str]:
    """Start the job's process, and kill it as soon as it tells of a step; what it said."""
    process = start(job)
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if line.startswith(f"{job.stage} {step}/"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "".join(said)
    return said


def alike(job: SftJob | RlJob, result: TrainResult, whole: TrainResult) -> None:
    assert result.weights_sha256 == whole.weights_sha256 != job.model.sha256
    assert figures(result) == figures(whole) and result.steps == whole.steps
    assert (result.rows_seen, result.tokens) == (whole.rows_seen, whole.tokens)
    assert result.went_on_at and not whole.went_on_at
    assert [path.name for path in job.output.iterdir() if path.name.startswith(".")] == []


@pytest.fixture(scope="module")
def started(
    words: ModelRef, taught: Callable[[str], ModelRef], rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[ModelRef, TrainResult]]:
    """What a stage of a system starts from, and what comes out of it unbroken."""

    @cache
    def start_of(stage: str, name: str) -> tuple[ModelRef, TrainResult]:
        model = words if stage == "sft" else taught(name)
        return model, run(job_of(stage, name, model, rows, tmp_path_factory.mktemp("whole")))

    return start_of


Started = Callable[[str, str], tuple[ModelRef, TrainResult]]


@pytest.mark.parametrize(("stage", "name", "last"), [("sft", "reasonrank", 11), ("rl", "reasonrank-direct", 5)])
def test_a_process_killed_with_9_goes_on_to_the_weights_of_an_unbroken_run(
    stage: str, name: str, last: int, started: Started, rows: Path, tmp_path: Path
) -> None:
    model, whole = started(stage, name)
    job = job_of(stage, name, model, rows, tmp_path, checkpoint_steps=2)
    killed_after(job, last)
    assert finished(job) is None
    alike(job, run(job), whole)


# In the first epoch, at its end, after it, and several times on end; amid the steps that share rollouts, too.
@pytest.mark.parametrize(
    ("stage", "name", "every", "deaths"),
    [
        ("sft", "reasonrank", 1, [3, 5]),
        ("sft", "reasonrank", 3, [11, 13]),
        ("sft", "first", 2, [7]),
        ("sft", "direct-point", 1, [2, 9]),
        ("rl", "reasonrank-direct", 1, [4, 6]),
        ("rl", "erank", 2, [3]),
    ],
)
def test_wherever_a_process_dies_the_next_one_goes_on(
    stage: str, name: str, every: int, deaths: list[int], started: Started, rows: Path, tmp_path: Path
) -> None:
    model, whole = started(stage, name)
    job = job_of(stage, name, model, rows, tmp_path, checkpoint_steps=every)
    for step in deaths:
        with pytest.raises(Died):
            run(job, Mortal(step))
    alike(job, run(job), whole)


def test_adapters_are_gone_on_with_too(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    def adapted(output: Path, **changes: Any) -> SftJob:
        job = sft_job(words, rows, output, **changes)
        model = job.recipe.model.model_copy(update={"tuning": "lora", "rank": 4})
        return job.model_copy(update={"recipe": job.recipe.model_copy(update={"model": model})})

    whole = run(adapted(tmp_path / "whole"))
    job = adapted(tmp_path / "killed", checkpoint_steps=2)
    with pytest.raises(Died):
        run(job, Mortal(7))
    alike(job, run(job), whole)


def test_only_the_newest_checkpoint_is_kept_and_nothing_half_written_is_trusted(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path, checkpoint_steps=2)
    with pytest.raises(Died):
        run(job, Mortal(7))
    assert sorted(path.name for path in job.resume.iterdir()) == ["checkpoint-6", "lock"]
    kept = {path.name for path in (job.resume / "checkpoint-6").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "memory.json", "order.safetensors"} <= kept
    assert "training_args.bin" not in kept
    # A process that died while it wrote: the desk holds a later step, without its end.
    half = job.resume / "desk" / "checkpoint-8"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    reporter = Lines()
    assert run(job, reporter).went_on_at == (6,)
    assert "sft: going on from step 6, which an earlier process reached" in reporter.notes
    assert reporter.steps[0][1] == 7


def test_what_other_library_versions_kept_is_not_gone_on_with(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path, checkpoint_steps=2)
    with pytest.raises(Died):
        run(job, Mortal(5))
    memory = job.resume / "checkpoint-4" / "memory.json"
    stored = json.loads(memory.read_text())
    memory.write_text(json.dumps(stored | {"versions": stored["versions"] | {"torch": "1.0"}}))
    reporter = Lines()
    assert run(job, reporter).went_on_at == () and reporter.steps[0][1] == 1
    assert any("other library versions" in note for note in reporter.notes)


def test_a_stage_that_is_done_soon_keeps_no_checkpoint(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path)
    with pytest.raises(Died):
        run(job, Mortal(7))
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_go_by_the_clock(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path, checkpoint_seconds=0.0)
    with pytest.raises(Died):
        run(job, Mortal(4))
    assert (job.resume / "checkpoint-3").is_dir()


def test_how_often_something_is_kept_is_no_part_of_the_hash(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    plain = sft_job(words, rows, tmp_path)
    assert plain.sha256 == plain.model_copy(update={"checkpoint_steps": 1, "checkpoint_seconds": 1.0}).sha256


def test_a_second_process_waits_for_the_first_and_does_nothing_again(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    done = sft_job(words, rows, tmp_path / "done")
    result = run(done)
    job = sft_job(words, rows, tmp_path / "held")
    with ExitStack() as first:
        first.enter_context(alone(job, Lines()))

        class Waits(Lines):
            def note(self, text: str) -> None:
                super().note(text)
                if "waiting for it" in text:  # and now the first one publishes, and ends
                    shutil.copytree(done.folder, job.folder)
                    first.close()

        second = Waits()
        assert run(job, second) == result
    assert second.steps == [] and "waiting for it" in second.notes[0] and "nothing to do" in second.notes[1]
    assert not job.resume.exists()


def test_a_process_that_waits_for_another_ends_at_ctrl_c(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path)
    with alone(job, Lines()):
        second = start(job)
        assert second.stderr is not None
        try:
            assert any("waiting for it" in line for line in second.stderr)
            time.sleep(2)  # it has told that it will wait; and now it does
            second.send_signal(signal.SIGINT)
            assert second.wait(60) == -signal.SIGINT
            assert "Traceback" not in second.stderr.read()
        finally:
            second.kill()
            second.communicate()
