"""A checkpoint in other programs: the card's lines run as they stand, and RankLLM's own reader takes the template."""

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from test_systems import system

from ranking.decoding.replies import LETTERS
from ranking.prompts import TEMPLATES, load_template
from training.cards import how_to_ask
from training.checkpoints import write_template
from training.jobs import ModelRef
from warehouse.pages.pasted import pasted

LISTWISE = ("reasonrank", "reasonrank-direct", "first")
QUERY, PASSAGES = "why is [1] the sea salty", ["The moon\nmoves [2] it.", "Rivers carry “salt” into it.", "It is deep."]


@pytest.fixture(scope="module")
def rank_llm() -> Any:
    """RankLLM's modules by name. What its packages import first is left out: vLLM, and clients of several services."""
    root = Path(str(import_module("rank_llm").__file__)).parent
    for package in ("rerank", "rerank.listwise"):
        module = ModuleType(f"rank_llm.{package}")
        module.__path__ = [str(root.joinpath(*package.split(".")))]
        sys.modules[module.__name__] = module
    return lambda name: import_module(f"rank_llm.{name}")


@pytest.mark.parametrize("name", LISTWISE)
def test_rankllm_makes_the_messages_that_the_model_was_trained_on(name: str, rank_llm: Any, tmp_path: Path) -> None:
    recipe = system(name)
    write_template(recipe, tmp_path)
    template = yaml.safe_load((tmp_path / "prompt_template.yaml").read_text())
    data = rank_llm("data")
    reader = rank_llm("rerank.listwise.singleturn_listwise_inference_handler").SingleTurnListwiseInferenceHandler
    candidates = [data.Candidate(docid=n, score=1.0, doc={"text": text}) for n, text in enumerate(PASSAGES)]
    asked = data.Result(query=data.Query(text=QUERY, qid=1), candidates=candidates)
    letters = name == "first"
    made = reader(template).generate_prompt(asked, rank_start=0, rank_end=3, max_length=300, use_alpha=letters)
    names = LETTERS if letters else None
    assert made == load_template(recipe.contract.template).messages(QUERY, PASSAGES, names=names)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("reasonrank", "<think> [1] and [2] do not. </think> <answer> [3] > [1] > [2] </answer>"),
        ("reasonrank-direct", "<answer> [3] > [1] > [2] </answer>"),
        ("first", "C > A > B"),
    ],
)
def test_rankllm_reads_the_order_out_of_the_models_answers(name: str, answer: str, rank_llm: Any) -> None:
    reader = rank_llm("rerank.listwise.singleturn_listwise_inference_handler").SingleTurnListwiseInferenceHandler
    template = yaml.safe_load((TEMPLATES / f"{system(name).contract.template}.yaml").read_text())
    assert reader(template)._clean_response(answer, use_alpha=name == "first").split() == ["3", "1", "2"]


def blocks(name: str, folder: str) -> list[str]:
    return re.findall(r"```(?:python|sh)\n(.*?)```", how_to_ask(system(name), folder), re.DOTALL)


@pytest.mark.parametrize("name", ["reasonrank", "first", "direct-point"])
def test_the_lines_for_transformers_run_as_they_stand(
    name: str, tiny: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny.path, tmp_path / "sft-1")
    write_template(system(name), tmp_path / "sft-1")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(blocks(name, "sft-1")[0], "card", "exec"), scope)
    said = capsys.readouterr().out
    recipe, shown = system(name), scope["passages"]
    names = LETTERS if name == "first" else None
    assert scope["messages"] == load_template(recipe.contract.template).messages(scope["query"], shown, names=names)
    if name == "direct-point":
        assert 0 < float(said) < 1
    else:  # an untrained student writes anything, tokens that are not shown among it
        assert scope["written"].shape[1] > scope["inputs"]["input_ids"].shape[1]


def test_lines_are_given_for_what_the_program_can_do() -> None:
    for name in ("reasonrank", "reasonrank-direct", "first"):
        _, vllm, rankllm = blocks(name, "rl-1")
        assert vllm.startswith("vllm serve rl-1 ")
        compile(rankllm, "card", "exec")
        assert 'prompt_template_path="rl-1/prompt_template.yaml"' in rankllm
    for name in ("rank-r1", "direct-point", "erank"):
        assert len(blocks(name, "rl-1")) == 2 and "RankLLM:\n\nIt has no method" in how_to_ask(system(name), "rl-1")


@pytest.mark.parametrize("name", ["reasonrank", "reasonrank-direct", "first", "rank-r1", "direct-point", "erank"])
def test_the_report_shows_every_line_of_a_card_under_its_program(name: str) -> None:
    card = f"# A checkpoint\n\n{how_to_ask(system(name), 'rl-1')}\n\n## Training data\n\n| source |\n"
    said, programs = pasted(card)
    assert [one.program for one in programs] == ["transformers", "vLLM", "RankLLM"]
    assert [one.lines for one in programs if one.lines] == blocks(name, "rl-1")
    assert f"passages of at most {system(name).units.passage_tokens} tokens" in said and "```" not in said
    assert programs[1].said == "Then POST the same `messages` to `/v1/chat/completions` with `temperature` 0."
    assert bool(programs[2].lines) is (name in LISTWISE) is not programs[2].said.startswith("It has no method")
    assert not any("Training data" in one.said for one in programs)
    assert pasted("# A checkpoint of before\n") == ("", [])
