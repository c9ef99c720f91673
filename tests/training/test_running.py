"""How training processes run: the profile says it, the job carries it, and accelerate takes the configurations."""

import dataclasses
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pydantic import ValidationError
from word_stages import make_words, rl_job, run, sft_job, write_rows

from rankmill.settings import SettingsError, load_profile
from training import host, rl
from training.faults import TrainingStopped
from training.jobs import ModelRef, RlJob, SftJob, command, finished, weights_sha256
from training.recipes import RecipeError, load_recipe
from training.running import CONFIGURATIONS, Running, Vllm

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "reasonrank.yaml"


def job(kind: type[SftJob] | type[RlJob], output: Path, **running: Any) -> SftJob | RlJob:
    model = ModelRef(path="x", sha256="w")
    recipe = load_recipe(RECIPE)
    return kind(recipe=recipe, release="r", rows=output / "rows.parquet", model=model, output=output, **running)


def profile_file(folder: Path, **training: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "offline", "description": "Mine.", "training": training}))
    return str(path)


def test_what_a_profile_says_of_checkpoints_a_job_carries(tmp_path: Path) -> None:
    running = load_profile(profile_file(tmp_path, checkpoint_steps=7, checkpoint_seconds=60)).training
    made = SftJob.model_validate_json(job(SftJob, tmp_path, **dict(running)).model_dump_json())
    assert (made.checkpoint_steps, made.checkpoint_seconds, made.launch) == (7, 60.0, None)
    assert load_profile("offline").training.model_dump() == Running().model_dump()


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"checkpoint_steps": 0}, "greater than or equal to 1"),
        ({"checkpoint_minutes": 5}, "checkpoint_minutes"),
        ({"launch": "zero9"}, "known: ddp, fsdp, zero3, or the path of a .yaml file"),
        ({"vllm": {"mode": "server"}}, "url: http://127.0.0.1:8000"),
        ({"vllm": {"url": "http://127.0.0.1:8000"}}, "url belongs to mode: server"),
    ],
)
def test_a_profile_that_cannot_run_says_why(training: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        load_profile(profile_file(tmp_path, **training))


def test_a_configuration_says_how_many_processes_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: -1\n")
    with pytest.raises(ValidationError, match="num_processes is -1; say how many processes"):
        Running(launch=path)


@pytest.mark.parametrize("name", ["zero3", "fsdp", "ddp"])
def test_accelerate_takes_the_shipped_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    read = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))
    kinds = {"zero3": DistributedType.DEEPSPEED, "fsdp": DistributedType.FSDP, "ddp": DistributedType.MULTI_GPU}
    assert read.distributed_type == kinds[name] and read.num_processes == 8 and read.mixed_precision == "bf16"
    if name == "zero3":
        assert read.deepspeed_config["zero_stage"] == 3 and read.deepspeed_config["zero3_save_16bit_model"]
    if name == "fsdp":
        assert read.fsdp_config["fsdp_version"] == 2 and read.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def test_a_profile_that_names_one_is_started_by_accelerate_and_reranking_is_not(tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser

    plain, launched = job(SftJob, tmp_path), job(SftJob, tmp_path, launch="zero3")
    assert command(plain)[1:3] == ["-m", "training.sft"]
    words = command(launched)
    assert words[1:4] == ["-m", "accelerate.commands.accelerate_cli", "launch"]
    read = launch_command_parser().parse_args(words[4:])
    assert read.config_file == str(CONFIGURATIONS / "zero3.yaml") and read.module
    assert read.training_script == "training.sft"
    (path,) = read.training_script_args
    assert SftJob.model_validate_json(Path(path).read_bytes()) == launched


@pytest.mark.parametrize(
    ("seen", "kept"),
    [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "2,3"}, "2"), ({"CUDA_VISIBLE_DEVICES": ""}, ""),
     ({"CUDA_VISIBLE_DEVICES": "2,3", "WORLD_SIZE": "2"}, "2,3"), ({"WORLD_SIZE": "2"}, None)],
)  # fmt: skip
def test_a_process_without_others_keeps_one_gpu(
    seen: dict[str, str], kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in seen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.excepthook", None)
    host.settle()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == kept


def test_only_what_shapes_a_result_is_part_of_its_hash(tmp_path: Path) -> None:
    plain = job(RlJob, tmp_path)
    assert plain.sha256 == job(RlJob, tmp_path, checkpoint_seconds=1.0).sha256
    assert job(RlJob, tmp_path, launch="zero3").sha256 == job(RlJob, tmp_path, launch="fsdp").sha256 != plain.sha256
    written = job(RlJob, tmp_path, vllm={"mode": "colocate"})
    assert written.sha256 == job(RlJob, tmp_path, vllm={"mode": "colocate", "memory": 0.5}).sha256 != plain.sha256
    assert job(SftJob, tmp_path, vllm={}).sha256 == job(SftJob, tmp_path).sha256


def test_the_32b_profile_is_the_papers() -> None:
    from rankmill.settings import Settings

    settings = Settings.load().model_copy(update={"profile_name": "gpu-32b"})
    for other in map(settings.recipe, settings.recipes()):  # no GPU holds a whole one that ranks dev rows
        assert [other.selecting(stage) for stage in other.stages] == [None] * len(other.stages)
    recipe = settings.recipe("reasonrank")
    model, sft, rl = recipe.model, recipe.supervised, recipe.grpo
    assert (model.base, model.tuning, model.rank, model.alpha) == ("Qwen/Qwen2.5-32B-Instruct", "lora", 32, 32)
    assert (sft.lr, sft.epochs, sft.batch, sft.accumulation, sft.max_tokens) == (1e-4, 4, 1, 8, 23_552)
    assert (rl.lr, rl.prompts, rl.rollouts, rl.kl, rl.clip, rl.max_steps) == (1e-5, 16, 8, 0.001, 0.2, 400)
    seven = load_recipe(RECIPE)
    assert (seven.supervised.lr, seven.supervised.epochs, seven.grpo.lr) == (5e-6, 5, 1e-6)


@pytest.mark.parametrize("profile", ["offline", "proof", "gpu", "gpu-32b"])
def test_every_recipes_rollouts_can_be_shared_out_among_a_profiles_processes(profile: str) -> None:
    from rankmill.settings import Settings

    settings = Settings.load().model_copy(update={"profile_name": profile})
    processes = settings.profile_that_buys_nothing.training.processes
    assert processes == (8 if "gpu" in profile else 1)
    recipes = [settings.recipe(name) for name in settings.recipes()]
    for recipe in [recipe for recipe in recipes if "rl" in recipe.stages]:
        assert rl.accumulated(recipe, processes) >= 1, recipe.name


def test_rollouts_that_cannot_be_shared_out_say_what_to_change() -> None:
    recipe = load_recipe(RECIPE.with_name("erank.yaml"))
    with pytest.raises(RecipeError, match=r"prompts is 16; 8 processes with 8 prompts of a query .* multiple of 64"):
        rl.accumulated(recipe, 8)
    with pytest.raises(RecipeError, match=r"128 completions do not divide into 2 updates of 3 processes' batches of 8"):
        rl.accumulated(recipe, 3)


@pytest.mark.parametrize("vllm", [Vllm(), Vllm(mode="server", url="http://127.0.0.1:8000")])
def test_what_is_said_of_vllm_is_what_trl_knows(vllm: Vllm) -> None:
    from trl.trainer.grpo_config import GRPOConfig

    assert vllm.arguments().keys() <= {field.name for field in dataclasses.fields(GRPOConfig)}
    assert vllm.arguments()["vllm_mode"] == vllm.mode


def test_rollouts_by_vllm_where_there_is_none_are_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"\(docs/recipes\.md has the command\), or set training\.vllm to null"):
        rl.vllm_arguments(job(RlJob, tmp_path, vllm={"mode": "colocate"}))


def on_the_cpu(name: str, folder: Path) -> Path:
    """A shipped configuration for two processes of this machine's CPU."""
    shipped = yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**shipped, "use_cpu": True, "num_processes": 2, "mixed_precision": "no"}))
    return path


def launched(job: SftJob | RlJob, killed_at: int | None = None) -> list[str]:
    """Do a job by its command, or kill all of its processes as soon as a step is told; the steps that were told."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(command(job), stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if killed_at is not None and line.startswith(f"sft {killed_at}/"):
            whole = psutil.Process(process.pid)
            for one in [*whole.children(recursive=True), whole]:
                one.kill()
    assert process.wait() == (0 if killed_at is None else -signal.SIGKILL), "".join(said)
    return re.findall(r"^sft (\d+)/", "".join(said), re.MULTILINE)


def shared_out(name: str) -> None:
    """Skip where the shipped configuration wants what is not installed."""
    if name == "zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed; `make test-places` installs it")


# Killed at a step, all weights whole in each process (ddp), or shared out over them.
@pytest.mark.parametrize(("name", "killed_at"), [("ddp", None), ("fsdp", 5), ("zero3", 5)])
def test_two_processes_learn_and_choose_what_one_with_twice_the_batch_does_and_one_of_them_tells(
    name: str, killed_at: int | None, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    shared_out(name)
    words, rows = make_words(tmp_path / "words"), write_rows(tmp_path, "sft", "dev")
    steps = {"max_steps": 20, "evaluate_every": 4}
    exact = {"bf16": False}  # rounded, halves of a batch add up to something else
    shared = sft_job(words, rows, tmp_path, "direct-point", {**steps, "batch": 2}, exact,
                     launch=on_the_cpu(name, tmp_path), checkpoint_steps=2)  # fmt: skip
    if killed_at is not None:
        launched(shared, killed_at)
        assert finished(shared) is None
    told = launched(shared)
    result = finished(shared)
    assert result is not None
    # What was told last before the end may lie behind the step that was waited for.
    (went_on_at,) = (0,) if killed_at is None else result.went_on_at
    # The dev rows are ranked before the first step, too.
    assert told == [str(step) for step in range(went_on_at + 1 if went_on_at else 0, 21)]
    assert went_on_at >= (killed_at or 1) - 1

    alone = sft_job(words, rows, tmp_path, "direct-point", {**steps, "batch": 4}, exact)
    whole = run(alone)
    assert (result.rows_seen, result.tokens, result.steps) == (whole.rows_seen, whole.tokens, whole.steps)
    for figure in ("loss", "dev_ndcg"):
        drawn, expected = ([one[figure] for one in each.history if figure in one] for each in (result, whole))
        assert drawn == pytest.approx(expected, abs=1e-3) and len(set(drawn)) > 1
    assert (result.chosen_step, result.dev_ndcg) == (whole.chosen_step, pytest.approx(whole.dev_ndcg))
    ours, theirs = (load_file(job.folder / "model.safetensors") for job in (shared, alone))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in ours)
    assert not shared.resume.exists()


@pytest.mark.parametrize("name", ["fsdp", "zero3"])
def test_two_processes_that_share_the_weights_out_reinforce_and_choose(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shared_out(name)
    words, rows = make_words(tmp_path / "words"), write_rows(tmp_path, "rl", "dev")
    drawn = {"prompts": 4, "updates": 1, "rollouts": 4, "batch": 4, "max_steps": 2, "evaluate_every": 1, "dev_rows": 5}
    job = rl_job(words, rows, tmp_path, sampling=drawn, launch=on_the_cpu(name, tmp_path))
    launched(job)
    result = finished(job)
    assert result is not None and result.steps == 2
    assert [entry["step"] for entry in result.history if "dev_ndcg" in entry] == [0, 1, 2]
    assert result.rows_seen and result.chosen_step in (0, 1, 2)
    kept = load_file(job.folder / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in kept.values())
    if result.chosen_step == 0 and name == "fsdp":  # zero3 hands its weights over in the precision that it computes in
        assert weights_sha256(job.folder) == words.sha256
