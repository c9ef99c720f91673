"""A stage that is killed with -9 goes on, when its job is started again, to the weights of an unbroken run."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_systems import eight_rows, steps, system
from training_toys import Lines
from word_model import make_word_model

from training import rl, sft
from training.jobs import ModelRef, RlJob, SftJob, TrainResult, command, finished

# Three epochs and a bit of eight rows in batches of two; the schedule falls, so that a lost step would be seen.
SHORT = {"batch": 2, "max_steps": 14, "scheduler": "cosine"}
ROLLS = {"prompts": 3, "updates": 2, "rollouts": 4, "batch": 3, "max_steps": 6, "lr": 1e-3}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    texts = [f"{one['query']} {' '.join(one['passages'])} helps with This" for one in eight_rows()]
    return make_word_model(tmp_path_factory.mktemp("words"), texts)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    both = [one | {"split": split} for split in ("sft", "rl") for one in eight_rows()]
    pl.DataFrame(both).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def taught(words: ModelRef, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelRef]:
    """Students that answer in the right form now and then, so that their rollouts are worth different things."""

    @cache
    def teach(name: str) -> ModelRef:
        recipe = system(name, **steps(40))
        output = tmp_path_factory.mktemp(name)
        job = SftJob(recipe=recipe, release="toy", rows=rows, model=words, output=output, seed=1)
        return ModelRef(path=str(job.folder), sha256=sft.run(job, Lines()).weights_sha256)

    return teach


def job_of(stage: str, name: str, words: ModelRef, rows: Path, output: Path, **changes: Any) -> SftJob | RlJob:
    short = dict.fromkeys(("cross_entropy", "first_token_ranknet", "softmax_cross_entropy"), SHORT)
    recipe = system(name, objective=short, sampling={"grpo": ROLLS | {"max_completion_tokens": 20}})
    given = {"recipe": recipe, "release": "toy", "rows": rows, "model": words, "output": output, "seed": 1}
    return (SftJob if stage == "sft" else RlJob)(**given, **changes)


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


def figures(result: TrainResult) -> list[dict[str, float]]:
    """The curve without what a clock or a memory gauge says."""
    clocks = ("seconds", "tokens_per_second", "memory_gb", "dev_seconds")
    return [{name: value for name, value in entry.items() if name not in clocks} for entry in result.history]


class Died(BaseException):
    """What ends a process from inside, in place of a signal."""


class Mortal(Lines):
    """A reporter whose process dies as it tells of a step."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def step(self, stage: str, step: int, total: int, metrics: Any) -> None:
        super().step(stage, step, total, metrics)
        if step == self.last:
            raise Died


def run(job: SftJob | RlJob, reporter: Lines | None = None) -> TrainResult:
    return (sft if isinstance(job, SftJob) else rl).run(job, reporter or Lines())


def alike(job: SftJob | RlJob, result: TrainResult, whole: TrainResult) -> None:
    assert result.weights_sha256 == whole.weights_sha256 != job.model.sha256
    assert figures(result) == figures(whole) and result.steps == whole.steps
    assert (result.rows_seen, result.tokens) == (whole.rows_seen, whole.tokens)
    assert result.went_on_at and not whole.went_on_at
    assert [path.name for path in job.output.iterdir() if path.name.startswith(".")] == []


CASES = {
    "sft": ("sft", "reasonrank", 11),
    "letters": ("sft", "first", 6),
    "pairs": ("sft", "direct-point", 9),
    "rl": ("rl", "reasonrank-direct", 5),
    "rl of queries": ("rl", "erank", 3),
}


@pytest.mark.parametrize(("stage", "name", "last"), [CASES["sft"], CASES["pairs"], CASES["rl"]], ids=str)
def test_a_process_killed_with_9_goes_on_to_the_weights_of_an_unbroken_run(
    stage: str,
    name: str,
    last: int,
    words: ModelRef,
    taught: Callable[[str], ModelRef],
    rows: Path,
    tmp_path: Path,
) -> None:
    model = words if stage == "sft" else taught(name)
    whole = run(job_of(stage, name, model, rows, tmp_path / "whole"))
    job = job_of(stage, name, model, rows, tmp_path / "killed", checkpoint_steps=2)
    killed_after(job, last)
    assert finished(job) is None
    alike(job, run(job), whole)


# In the first epoch, at its end, after it, and several times on end; amid the steps that share rollouts, too.
@pytest.mark.parametrize(
    ("case", "every", "deaths"),
    [
        ("sft", 1, [3]),
        ("sft", 1, [5]),
        ("sft", 3, [5, 11, 13]),
        ("letters", 2, [7]),
        ("pairs", 1, [2, 9]),
        ("rl", 1, [4]),
        ("rl", 1, [2, 6]),
        ("rl of queries", 2, [3]),
    ],
)
def test_wherever_a_process_dies_the_next_one_goes_on(
    case: str,
    every: int,
    deaths: list[int],
    words: ModelRef,
    taught: Callable[[str], ModelRef],
    rows: Path,
    tmp_path: Path,
) -> None:
    stage, name, _ = CASES[case]
    model = words if stage == "sft" else taught(name)
    whole = run(job_of(stage, name, model, rows, tmp_path / "whole"))
    job = job_of(stage, name, model, rows, tmp_path / "killed", checkpoint_steps=every)
    for step in deaths:
        with pytest.raises(Died):
            run(job, Mortal(step))
    alike(job, run(job), whole)


def test_adapters_are_gone_on_with_too(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    def adapted(output: Path, **changes: Any) -> SftJob:
        job = job_of("sft", "reasonrank", words, rows, output, **changes)
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
    job = job_of("sft", "reasonrank", words, rows, tmp_path, checkpoint_steps=2)
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
    job = job_of("sft", "reasonrank", words, rows, tmp_path, checkpoint_steps=2)
    with pytest.raises(Died):
        run(job, Mortal(5))
    memory = job.resume / "checkpoint-4" / "memory.json"
    stored = json.loads(memory.read_text())
    memory.write_text(json.dumps(stored | {"versions": stored["versions"] | {"torch": "1.0"}}))
    reporter = Lines()
    assert run(job, reporter).went_on_at == () and reporter.steps[0][1] == 1
    assert any("other library versions" in note for note in reporter.notes)


def test_a_stage_that_is_done_soon_keeps_no_checkpoint(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = job_of("sft", "reasonrank", words, rows, tmp_path)
    with pytest.raises(Died):
        run(job, Mortal(7))
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_go_by_the_clock(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = job_of("sft", "reasonrank", words, rows, tmp_path, checkpoint_seconds=0.0)
    with pytest.raises(Died):
        run(job, Mortal(4))
    assert (job.resume / "checkpoint-3").is_dir()


def test_how_often_something_is_kept_is_no_part_of_the_hash(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    plain = job_of("sft", "reasonrank", words, rows, tmp_path)
    assert plain.sha256 == plain.model_copy(update={"checkpoint_steps": 1, "checkpoint_seconds": 1.0}).sha256


def test_a_second_process_waits_for_the_first_and_does_nothing_again(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = job_of("sft", "reasonrank", words, rows, tmp_path)
    first = start(job)
    assert first.stderr is not None
    while not first.stderr.readline().startswith("sft 1/"):
        assert first.poll() is None
    first.send_signal(signal.SIGSTOP)

    class Waits(Lines):
        def note(self, text: str) -> None:
            super().note(text)
            if "waiting for it" in text:
                first.send_signal(signal.SIGCONT)

    second = Waits()
    result = run(job, second)
    first.communicate()
    assert first.returncode == 0 and result == finished(job)
    assert second.steps == [] and "waiting for it" in second.notes[0] and "nothing to do" in second.notes[1]
