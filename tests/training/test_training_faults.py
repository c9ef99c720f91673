"""What cannot go on stops, says why and what to change, and leaves the last good state."""

import math
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from training_toys import Lines
from word_stages import make_words, rerank_job, rl_job, run, sft_job, write_rows

from training import rerank, rl, sft
from training.faults import HIGHEST_KL, ON_END, OPENING, TrainingStopped, attempted, diagnose
from training.jobs import ModelRef, RlJob, SftJob, TrainResult, command, finished
from training.stages import PLAIN, carry_out


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return make_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), "sft", "rl", "dev")


def run_with(job: SftJob | RlJob, fault: Callable[[Any], None], reporter: Lines | None = None) -> TrainResult:
    """Do a job whose trainer is given a fault before it begins."""
    stage: Any = sft if isinstance(job, SftJob) else rl

    def prepare(*given: Any) -> Any:
        data, trainer_of = stage._prepare(*given)

        def faulty(bench: Any) -> Any:
            trainer = trainer_of(bench)
            fault(trainer)
            return trainer

        return data, faulty

    return carry_out(job, stage.METRICS, prepare, reporter or Lines())


def at_step(step: int, do: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A fault in the forward pass of a step."""

    def fault(trainer: Any) -> None:
        whole = trainer.compute_loss

        def compute_loss(model: Any, *given: Any, **named: Any) -> Any:
            if trainer.state.global_step + 1 == step:
                do(model)
            return whole(model, *given, **named)

        trainer.compute_loss = compute_loss

    return fault


def poison(model: Any) -> None:
    next(model.parameters()).data.fill_(math.nan)


def whole_checkpoint(job: SftJob | RlJob, step: int) -> None:
    weights = load_file(job.resume / f"checkpoint-{step}" / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


@pytest.mark.parametrize("name", ["reasonrank", "first", "direct-point"])
def test_a_loss_that_is_no_number_stops_the_stage_and_the_step_before_is_kept(
    name: str, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path, name, checkpoint_steps=1)
    with pytest.raises(TrainingStopped) as stopped:
        run_with(job, at_step(5, poison))
    assert str(stopped.value) == (
        "sft stopped at step 5: loss is nan. Likely cause: steps that are too large, or a target that cannot be "
        "scored. Lower objective.lr (0.003) or raise objective.warmup "
        f"({job.recipe.supervised.warmup:g}). The last good state is that of step 4, in {job.resume / 'checkpoint-4'}"
    )
    whole_checkpoint(job, 4)
    assert finished(job) is None
    # What had broken is mended: the job goes on from there.
    assert run(job).went_on_at == (4,)


def test_a_dev_measurement_does_not_hide_what_is_wrong(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path, "direct-point", {"evaluate_every": 1})
    with pytest.raises(TrainingStopped, match=r"step 3: loss is nan.*Nothing was kept so far"):
        run_with(job, at_step(3, poison))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_stops_the_stage(value: float, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = rl_job(words, rows, tmp_path, sampling={"updates": 1}, checkpoint_steps=1)

    def fault(trainer: Any) -> None:
        (judge,) = trainer.reward_funcs

        def judged(*given: Any, **named: Any) -> list[float]:
            values = judge(*given, **named)
            return [value] * len(values) if trainer.state.global_step == 3 else values

        judged.__name__ = judge.__name__
        trainer.reward_funcs[0] = judged

    with pytest.raises(
        TrainingStopped, match=rf"rl stopped at step 4: (reward|loss) is {value}.*sampling\.lr \(0.001\)"
    ):
        run_with(job, fault)
    whole_checkpoint(job, 3)


def test_a_stage_that_diverges_is_stopped(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path, "reasonrank", {"lr": 1.0, "max_steps": 400, "scheduler": "constant"})
    with pytest.raises(TrainingStopped, match=r"the loss has stood above 3 times its start .*Lower objective.lr \(1\)"):
        run(job)


def torch_out_of_memory(_: Any) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def allocation(_: Any) -> None:
    import torch

    torch.empty(2**55)


def no_memory(_: Any) -> None:
    bytearray(2**60)


@pytest.mark.parametrize("fault", [torch_out_of_memory, allocation, no_memory])
def test_out_of_memory_is_told_with_what_to_change(
    fault: Callable[[Any], None], words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path, checkpoint_steps=2)
    with pytest.raises(TrainingStopped) as stopped:
        run_with(job, at_step(6, fault))
    said = str(stopped.value)
    assert said.startswith("sft is out of memory at step 6 (")
    assert "Lower objective.batch (2; raise objective.accumulation for it) or objective.max_tokens (400)" in said
    assert "set model.gradient_checkpointing: true" in said
    assert said.endswith(f"The last good state is that of step 4, in {job.resume / 'checkpoint-4'}")
    assert run(job).went_on_at == (4,)


def test_reinforcement_out_of_memory_names_its_own_settings(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = rl_job(words, rows, tmp_path)
    with pytest.raises(
        TrainingStopped, match=r"rl is out of memory at step 2 .*sampling\.batch \(3\).*Nothing was kept"
    ):
        run_with(job, at_step(2, allocation))


def test_a_choice_of_steps_that_is_out_of_memory_names_what_its_ranking_takes(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path, objective={"evaluate_every": 2})
    with pytest.raises(TrainingStopped, match=r"where it was ranking dev rows, lower decoding\.batch \(4\)"):
        run_with(job, at_step(2, allocation))


def test_a_reranking_that_is_out_of_memory_says_how_far_it_came_and_what_to_change(
    words: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rerank_job(words, tmp_path, ["q0", "q1"])
    monkeypatch.setattr("training.rankers.Logits.answer", lambda *_: torch_out_of_memory(None))
    with pytest.raises(TrainingStopped, match=r"rerank is out of memory at 0 of 2 lists .*Lower decoding\.batch \(4\)"):
        rerank.run(job, Lines())
    assert not job.folder.exists()


def test_other_errors_are_left_as_they_are(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    def other(_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2") as raised:
        run_with(sft_job(words, rows, tmp_path), at_step(2, other))
    assert not isinstance(raised.value, TrainingStopped)


def test_a_process_that_cannot_go_on_says_why_in_one_line(words: ModelRef, tmp_path: Path) -> None:
    others = write_rows(tmp_path, "rl")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    job = sft_job(words, others, tmp_path)
    ended = subprocess.run(command(job), capture_output=True, text=True, env=environment)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"{others}: none of 0 sft rows fits the recipe: no row has split")


def test_a_disk_that_is_full_is_told_in_one_line_and_with_room_the_same_command_ends(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=200k none "$0" && exec "$@"',
    ]
    tried = subprocess.run([*mounted, str(disk), "true"], capture_output=True, text=True, check=False)
    if shutil.which("unshare") is None or tried.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {tried.stderr.strip()}")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words_of = command(sft_job(words, rows, disk))
    job_file = tmp_path / "job.json"
    shutil.copy(words_of[-1], job_file)  # on the disk it would not be seen
    going = [*words_of[:-1], str(job_file)]
    ended = subprocess.run([*mounted, str(disk), *going], capture_output=True, text=True, env=environment)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    told = ended.stderr.splitlines()[-1]
    assert told.startswith("sft: a disk is full (") and f"df -h {disk}" in told
    assert subprocess.run(going, capture_output=True, env=environment).returncode == 0


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/1: file write failed",
    ],
)
def test_a_library_s_own_words_for_a_full_disk_are_known(said: str, words: ModelRef, tmp_path: Path) -> None:
    def write() -> None:
        try:
            raise RuntimeError(said)
        except RuntimeError as error:
            raise ValueError("the checkpoint was not kept") from error

    reporter = Lines()
    assert attempted(write, sft_job(words, tmp_path, tmp_path), reporter) == 1
    assert reporter.notes[0].startswith("sft: a disk is full (the checkpoint was not kept)")


def test_what_explains_itself_is_told_as_an_error_and_anything_else_is_left_as_it_is(
    words: ModelRef, tmp_path: Path
) -> None:
    job = sft_job(words, tmp_path, tmp_path)

    def stop() -> None:
        raise TrainingStopped("sft stopped at step 3")

    def break_down() -> None:
        raise ZeroDivisionError

    reporter = Lines()
    assert (attempted(stop, job, reporter, PLAIN), reporter.notes) == (1, ["sft stopped at step 3"])
    assert attempted(list, job, reporter, PLAIN) == 0
    with pytest.raises(ZeroDivisionError):
        attempted(break_down, job, reporter, PLAIN)


def curve(*losses: float, kl: float = 0.0) -> list[dict[str, float]]:
    return [{"step": float(n), "loss": loss, "kl": kl} for n, loss in enumerate(losses, start=1)]


def test_a_loss_may_rise_for_a_while_and_a_small_one_may_double() -> None:
    start = [2.0] * OPENING
    assert diagnose("sft", curve(*start, *[7.0] * ON_END)) is not None
    assert diagnose("sft", curve(*start, *[7.0] * (ON_END - 1))) is None
    assert diagnose("sft", curve(*start, *[7.0] * (ON_END - 1), 5.9)) is None
    assert diagnose("sft", curve(*[0.01] * OPENING, *[2.9] * ON_END)) is None
    assert diagnose("sft", [{"step": 0.0, "dev_ndcg": 0.3}, *curve(*start, *[7.0] * ON_END)]) is not None


def test_a_policy_that_leaves_its_start_far_behind_is_stopped_and_its_loss_is_not_looked_at() -> None:
    assert diagnose("rl", curve(*[0.0] * OPENING, *[9.0] * ON_END)) is None
    assert "KL to the starting policy" in str(diagnose("rl", curve(*[0.0] * ON_END, kl=HIGHEST_KL + 1)))
    assert diagnose("rl", curve(*[0.0] * (ON_END - 1), kl=HIGHEST_KL + 1)) is None
