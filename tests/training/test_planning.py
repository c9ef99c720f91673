"""Plans: what is counted is what training then reads, and what is reckoned follows the model and the devices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_systems import eight_rows, steps, system
from training_toys import Lines
from word_model import make_word_model

from training import sft
from training.checkpoints import read_rows
from training.jobs import ModelRef, SftJob
from training.planning import ACCELERATORS, KNOWN, Plan, Shape, StagePlan, plan_of
from training.recipes import Recipe
from training.running import Running, Vllm
from training.student import load_student, load_tokenizer

QWEN = KNOWN["Qwen/Qwen2.5-7B-Instruct"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, Path]:
    rows = eight_rows()
    folder = tmp_path_factory.mktemp("words")
    model = make_word_model(folder / "model", [f"{one['query']} {' '.join(one['passages'])}" for one in rows])
    both = rows + [one | {"row_id": f"{one['row_id']}/rl", "split": "rl"} for one in rows]
    pl.DataFrame(both).write_parquet(folder / "rows.parquet")
    return model, folder / "rows.parquet"


def planned(
    recipe: Recipe,
    words: tuple[ModelRef, Path],
    shape: Shape = QWEN,
    count: int = 1,
    **running: Any,
) -> Plan:
    rows = {split: read_rows(words[1], split) for split in ("sft", "rl")}
    devices, tokenizer = ACCELERATORS["h100"], load_tokenizer(words[0].path)
    return plan_of(recipe, rows, tokenizer, shape, devices, count, 1, Running(**running))


@pytest.mark.parametrize("name", ["reasonrank", "first", "direct-point", "erank"])
def test_the_tokens_of_a_plan_are_those_that_training_reads(
    name: str, words: tuple[ModelRef, Path], tmp_path: Path
) -> None:
    recipe = system(name, **steps(4))
    stage = planned(recipe, words).stages[0]
    job = SftJob(recipe=recipe, release="toy", rows=words[1], model=words[0], output=tmp_path, seed=1)
    result = sft.run(job, Lines())
    assert (stage.rows, stage.steps) == (result.rows_used, result.steps)
    assert stage.tokens == pytest.approx(result.tokens, rel=0.1)


def test_the_shape_of_a_config_has_the_models_weights(words: tuple[ModelRef, Path]) -> None:
    model = load_student(words[0].path)
    assert Shape.of(model.config).parameters == pytest.approx(model.num_parameters(), rel=0.01)


def test_more_devices_take_less_memory_and_time_each_and_longer_passages_more(words: tuple[ModelRef, Path]) -> None:
    recipe = system("reasonrank")
    one, eight = planned(recipe, words), planned(recipe, words, count=8)
    for few, many in zip(one.stages, eight.stages, strict=True):
        assert many.memory < few.memory and many.hours < few.hours
        assert not few.fits(one.device) and many.fits(one.device)
    whole = sum(stage.hours for stage in planned(recipe, words, replace(QWEN, parameters=2 * QWEN.parameters)).stages)
    assert whole > sum(stage.hours for stage in one.stages)


@pytest.mark.parametrize(("launch", "sharded"), [("zero3", True), ("fsdp", True), ("ddp", False), (None, True)])
def test_what_a_launch_shares_out_is_read_from_its_configuration(launch: str | None, sharded: bool) -> None:
    assert Running(launch=launch).sharded is sharded


def test_weights_that_are_not_sharded_take_each_device_as_much_as_one_alone(words: tuple[ModelRef, Path]) -> None:
    for name, model in (("reasonrank", {}), ("first", {"tuning": "lora"})):
        recipe = system(name, model=model)
        one, whole = planned(recipe, words), planned(recipe, words, count=8, launch="ddp")
        shared = planned(recipe, words, count=8)
        for each, part in zip(whole.stages, shared.stages, strict=True):
            assert each.memory > part.memory and each.hours == part.hours
        assert whole.stages[0].memory == one.stages[0].memory


def test_no_step_is_planned_where_training_would_make_none(words: tuple[ModelRef, Path]) -> None:
    few = system("reasonrank", sampling={"prompts": 9, "rollouts": 2, "batch": 6})
    supervised, reinforced = planned(few, words).stages
    assert supervised.steps > 0 and (reinforced.examples, reinforced.steps, reinforced.hours) == (8, 0, 0.0)
    none = system("first", objective={"max_tokens": 64}, units={"passage_tokens": 500, "query_tokens": 500})
    rows = {"sft": [one | {"passages": ["text0a " * 80] * 3} for one in eight_rows()], "rl": []}
    plan = plan_of(none, rows, load_tokenizer(words[0].path), QWEN, ACCELERATORS["h100"], 1, 1)
    assert [(stage.rows, stage.left_out, stage.steps) for stage in plan.stages] == [(0, 8, 0)]


def test_adapters_and_checkpointing_save_memory(words: tuple[ModelRef, Path]) -> None:
    def memory(**model: Any) -> float:
        return planned(system("first", model=model), words).stages[0].memory

    assert memory(tuning="lora") < memory(tuning="full") / 3
    assert memory(gradient_checkpointing=True) < memory(gradient_checkpointing=False)


def test_vllm_takes_its_share_of_the_memory_where_it_lies(words: tuple[ModelRef, Path]) -> None:
    def rl(vllm: Vllm | None) -> tuple[float, float]:
        stage = planned(system("reasonrank"), words, count=8, vllm=vllm).stages[1]
        return stage.memory, stage.hours

    alone, whole = rl(Vllm(mode="server", url="http://127.0.0.1:8000"))[0], ACCELERATORS["h100"].memory
    assert rl(Vllm(memory=0.3))[0] == pytest.approx(alone + 0.3 * whole)
    # Asleep it takes the place of activations, and nothing of what the policy holds.
    assert rl(Vllm(memory=0.01, sleep=True))[0] == alone
    assert 0.9 * whole < rl(Vllm(memory=0.9, sleep=True))[0] < alone + 0.9 * whole
    assert rl(None)[0] > alone
    assert rl(Vllm(tensor_parallel=4))[1] < rl(Vllm())[1] == rl(None)[1]


def test_weights_that_do_not_learn_are_counted_as_they_are_held_and_adapters_as_they_are_merged(
    words: tuple[ModelRef, Path],
) -> None:
    recipe, whole = system("reasonrank", model={"tuning": "lora"}), QWEN.parameters
    alone = planned(recipe, words).stages[0].memory
    assert alone > 4 * whole
    by_fsdp, by_zero3 = (planned(recipe, words, count=8, launch=name).stages[0].memory for name in ("fsdp", "zero3"))
    assert by_fsdp - by_zero3 == pytest.approx((4 - 2) * whole / 8)
    own = Vllm(memory=0.1, sleep=True)
    full = planned(system("reasonrank"), words, count=8, launch="zero3", vllm=own).stages[1].memory
    merged = planned(recipe, words, count=8, launch="zero3", vllm=own).stages[1].memory
    assert merged > 2 * whole + 0.1 * ACCELERATORS["h100"].memory > full - 16 * whole / 8


def test_rollouts_without_vllm_are_counted_as_they_are_written(words: tuple[ModelRef, Path]) -> None:
    def memory(batch: int, **running: Any) -> float:
        recipe = system("reasonrank", sampling={"prompts": 8, "rollouts": 8, "batch": batch})
        return planned(recipe, words, replace(QWEN, cache=10**8), **running).stages[1].memory

    assert memory(8) > memory(2)  # a batch at a time
    assert memory(8, count=2, launch="zero3") == memory(2, count=2, launch="zero3")  # all of a device's at once


def test_a_copy_that_ranks_dev_rows_is_reckoned_with_and_rollouts_without_vllm_have_one_anyway(
    words: tuple[ModelRef, Path],
) -> None:
    def stages(vllm: Vllm | None, **every: int) -> tuple[StagePlan, ...]:
        return planned(system("reasonrank-direct", objective=every, sampling=every), words, vllm=vllm).stages

    server = Vllm(mode="server", url="http://127.0.0.1:8000")
    for plain, chosen in zip(stages(server), stages(server, evaluate_every=5), strict=True):
        calls = system("reasonrank-direct").decoding.batch * plain.longest * (QWEN.cache + 34 * QWEN.hidden)
        assert chosen.memory - plain.memory == pytest.approx(2 * QWEN.parameters + calls)
    assert stages(None, evaluate_every=5)[1].memory == stages(None)[1].memory
