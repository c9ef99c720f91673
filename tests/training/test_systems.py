"""The six shipped systems, each trained and asked on a tiny random student: what each seam does is seen here."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from training_toys import RECIPE, Lines, row
from word_model import make_word_model

from training import rerank, rl, sft
from training.examples import build_examples, pair_groups, ranking_prompt, rl_prompts, sft_examples
from training.jobs import ModelRef, RerankJob, RlJob, SftJob
from training.recipes import SEAMS, Recipe, RecipeError, load_recipe

RECIPES = sorted(RECIPE.parent.glob("*.yaml"))
TINY = {
    "units": {
        "list": {"max_passages": 3, "passage_tokens": 16, "query_tokens": 16},
        "set": {"size": 3, "passage_tokens": 16, "query_tokens": 16},
        "pair": {"negatives": 2, "passage_tokens": 16, "query_tokens": 16},
    },
    "contract": {"listwise_think": {"chain_tokens": 32}, "score_think": {"chain_tokens": 32}},
    "objective": {
        name: {"lr": 3e-3, "epochs": 200, "batch": 4, "accumulation": 1, "scheduler": "constant", "max_tokens": 400}
        for name in ("cross_entropy", "first_token_ranknet", "softmax_cross_entropy")
    },
    "sampling": {
        "grpo": {"prompts": 3, "updates": 1, "rollouts": 2, "batch": 6, "max_completion_tokens": 12, "max_steps": 1}
    },
    "decoding": {
        "sliding_window": {"window": 3, "step": 2, "top": 4, "max_new_tokens": 60, "batch": 4},
        "setwise_heapsort": {"children": 2, "k": 2, "top": 4, "max_new_tokens": 12, "batch": 4},
        "first_token_window": {"window": 3, "step": 2, "top": 4, "batch": 4},
        "pointwise_logits": {"top": 4, "batch": 4},
        "pointwise_said": {"top": 4, "max_new_tokens": 60, "batch": 4},
    },
    "model": {"base": "smollm2", "gradient_checkpointing": False, "tuning": "full"},
}


# What reinforcement tells at each step, and the terms of each reward beside it.
TOLD = {"loss", "reward", "kl", "entropy", "malformed_rate", "groups_without_variance", "completion_tokens"}
TOLD |= {"tokens_per_second", "padding", "memory_gb"}
TERMS = {
    "multi_view": {"ndcg", "recall", "rbo"},
    "exact_label": {"exact"},
    "query_reciprocal_rank": {"reciprocal_rank"},
}


def system(name: str, **changes: Any) -> Recipe:
    return load_recipe(RECIPE.with_name(f"{name}.yaml"), TINY, changes)


def steps(count: int) -> dict[str, dict[str, dict[str, int]]]:
    names = ("cross_entropy", "first_token_ranknet", "softmax_cross_entropy")
    return {"objective": {name: {"max_steps": count} for name in names}}


def trained_and_asked(
    recipe: Recipe, rows: Path, candidates: Path, model: ModelRef, output: Path, reporter: Lines
) -> None:
    """Train a recipe's stages, and rerank with what comes out."""
    start = model
    given = {"recipe": recipe, "release": "toy", "rows": rows, "output": output, "seed": 1}
    if "sft" in recipe.stages:
        trained = sft.run(job := SftJob(model=model, **given), reporter)
        assert trained.steps == 2 and trained.rows_used == 4 and trained.rows_seen and trained.tokens > 0
        model = ModelRef(path=str(job.folder), sha256=trained.weights_sha256)
    if "rl" in recipe.stages:
        trained = rl.run(job := RlJob(model=model, **given), reporter)
        assert trained.steps == 1 and TOLD | TERMS[recipe.reward.name] <= trained.history[0].keys()
        model = ModelRef(path=str(job.folder), sha256=trained.weights_sha256)
    assert model != start
    asked = RerankJob(
        recipe=recipe,
        release="toy",
        candidates=candidates,
        candidates_sha256="toy",
        student=recipe.stages[-1],
        model=model,
        output=output,
        seed=1,
    )
    result = rerank.run(asked, reporter)
    run = pl.read_parquet(asked.folder / "run.parquet")
    first = pl.read_parquet(candidates)
    keys = ["domain", "qid", "docid"]
    assert run.select(keys).sort(keys).equals(first.select(keys).sort(keys))
    assert result.queries == 4 and result.calls == pl.read_parquet(asked.folder / "calls.parquet").height > 0
    single = recipe.units.name == "pair"
    assert (run["value"].null_count() == 0) == single or result.malformed_rate == 1.0


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_every_system_trains_its_stages_and_ranks(
    name: str, rows_path: Path, candidates_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    trained_and_asked(system(name, **steps(2)), rows_path, candidates_path, tiny, tmp_path, reporter)


def eight_rows() -> list[dict[str, Any]]:
    """Rows whose order and chain follow from the query alone."""
    rows = []
    for n in range(8):
        order = [(n + 1) % 3, (n + 2) % 3, n % 3] if n % 2 else [n % 3, (n + 2) % 3, (n + 1) % 3]
        best = order[0]
        rows.append(
            row(n)
            | {"query": f"question{n}", "passages": [f"text{n}{letter}" for letter in "abc"], "final_order": order}
            | {"relevant": [best], "reasoning": f"[{best + 1}] helps with question{n}."}
        )
    return rows


@pytest.mark.parametrize("name", [path.stem for path in RECIPES if "sft" in load_recipe(path).stages])
def test_eight_rows_are_learned_by_heart_and_answered_exactly(name: str, tmp_path: Path) -> None:
    from ranking.decoding.calls import Call, Task
    from training.rankers import ranker_for
    from training.student import load_student, load_tokenizer

    rows = eight_rows()
    texts = [f"{one['query']} {one['query']}. {' '.join(one['passages'])} helps with This" for one in rows]
    model = make_word_model(tmp_path / "words", texts)
    pl.DataFrame(rows).write_parquet(tmp_path / "eight.parquet")
    # The 24 passages of erank are more to learn; at the others' rate some seeds and processors are left with one.
    learning = {"cross_entropy": {"lr": 1e-3, "max_steps": 450}}
    recipe = system(name, **({"objective": learning} if name == "erank" else steps(300)))
    job = SftJob(recipe=recipe, release="toy", rows=tmp_path / "eight.parquet", model=model, output=tmp_path, seed=1)
    result = sft.run(job, Lines())
    assert result.rows_used == len(result.rows_seen) == 8 and not result.rows_left_out
    assert result.history[-1]["loss"] < 0.1
    tokenizer = load_tokenizer(job.folder)
    ranker = ranker_for(recipe, load_student(job.folder), tokenizer)
    for one in rows:
        if recipe.units.name == "list":
            prompt = ranking_prompt(tokenizer, recipe, one["query"], one["passages"])[0]
            ((_, answer),) = ranker.answer([prompt], [Call((0, 1, 2), Task.ORDER)])
            assert answer.reply.fault is None and list(answer.reply.order) == one["final_order"]
            continue
        prompts = [ranking_prompt(tokenizer, recipe, one["query"], [text])[0] for text in one["passages"]]
        calls = [Call((position,), Task.SCORE) for position in range(3)]
        scores = {number: answer.reply.score for number, answer in ranker.answer(prompts, calls)}
        assert None not in scores.values()
        assert max(scores, key=lambda number: scores[number] or 0.0) == one["final_order"][0]
        if name == "erank":
            said = [scores[position] for position in one["final_order"]]
            assert said == pytest.approx([10, 5, 0], abs=0.6)


def test_a_set_holds_one_relevant_passage_and_says_where(tokenizer: Any) -> None:
    recipe = system("rank-r1")
    rows = [row(n) | {"relevant": [1, 2], "final_order": [2, 1, 0]} for n in range(6)]
    prompts, left_out = rl_prompts(rows, recipe, tokenizer, 1)
    assert not left_out and all(len(prompt.relevant) == 1 for prompt in prompts)
    for one, prompt in zip(rows, prompts, strict=True):
        shown = prompt.prompt[-1]["content"]
        assert f"[{prompt.relevant[0] + 1}] {one['passages'][2]}" in shown and one["passages"][1] not in shown
    assert len({prompt.relevant for prompt in prompts}) > 1


def test_letters_name_the_passages_and_the_target_is_their_order(tokenizer: Any) -> None:
    (example,), _ = sft_examples([row(0)], system("first"), tokenizer, 1)
    assert "[B] All about rivers." in example.prompt[-1]["content"]
    assert example.completion[0]["content"] == "B > C > A"


def test_a_score_is_the_place_in_the_teachers_order_and_its_chain_what_was_said_of_the_passage(tokenizer: Any) -> None:
    examples = build_examples(row(0), system("erank"), tokenizer, 1, with_target=True)
    assert isinstance(examples, list) and len(examples) == 3
    said = {e.prompt[-1]["content"].split("Passage: ")[1].split("\n")[0]: e.completion[0]["content"] for e in examples}
    assert said["All about rivers."] == (
        "<think> This passage speaks of rivers. So this passage comes first. </think> <answer> 10 </answer>"
    )
    assert said["One word on rivers."] == "<think></think> <answer> 5 </answer>"
    assert said["Nothing of note."] == "<think></think> <answer> 0 </answer>"
    assert [e.relevant for e in examples] == [(0,), (), ()]


def test_a_group_opens_with_the_relevant_passage_and_a_row_without_others_is_left_out(tokenizer: Any) -> None:
    recipe = system("direct-point")
    groups, left_out = pair_groups([row(0), row(1) | {"relevant": [0, 1, 2]}], recipe, tokenizer, 1)
    ((group,), (gone,)) = groups, left_out
    assert "All about rivers." in group.prompts[0][-1]["content"] and len(group.prompts) == 3
    assert (gone.row_id, gone.reason) == ("toy/1", "every passage is relevant, so none is the one to find")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("direct-point", {"units": {"name": "list"}}, r"units: list does not work with the contract yes_no.*pair"),
        ("first", {"decoding": {"name": "sliding_window"}}, r"decoding: sliding_window .* with it do: first_token"),
        ("reasonrank", {"reward": {"name": "none"}}, r"reward none and sampling grpo"),
        ("direct-point", {"objective": {"name": "none"}}, r"objective: none does not work .* softmax_cross_entropy"),
        ("rank-r1", {"reward": {"name": "none"}, "sampling": {"name": "none"}}, r"nothing would be trained"),
        ("first", {"units": {"max_passages": 30}}, r"30, and there are 26 letters"),
        ("reasonrank", {"contract": {"template": "rank_studnet"}}, r"no prompt template at .*one of: .*rank_student,"),
        (
            "direct-point",
            {"contract": {"template": "rank_student"}},
            r"units: pair asks .*: judge_yes_no, score_student",
        ),
        (
            "first",
            {"contract": {"template": "mine_positives"}},
            r"mine_positives .*: rank_letters, .*singleturn_listwise",
        ),
        ("erank", {"sampling": {"prompts": 4, "batch": 8}}, r"multiple of units.negatives \+ 1 = 3"),
    ],
)
def test_choices_that_do_not_work_together_are_refused_with_those_that_do(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        system(name, **changes)


def test_a_profile_may_give_values_by_choice_and_for_one_recipe() -> None:
    by_choice = {"decoding": {"sliding_window": {"top": 7}, "pointwise_logits": {"top": 8}}}
    tops = [
        load_recipe(RECIPE.with_name(f"{name}.yaml"), by_choice).decoding.top for name in ("reasonrank", "direct-point")
    ]
    assert tops == [7, 8]
    assert load_recipe(RECIPE, by_choice, {"decoding": {"top": 9}}).decoding.top == 9
    both = {"decoding": {**by_choice["decoding"], "batch": 3}}
    assert (load_recipe(RECIPE, both).decoding.top, load_recipe(RECIPE, both).decoding.batch) == (7, 3)


def test_the_recipe_of_the_documentation_trains_and_ranks(
    rows_path: Path, candidates_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    text = (RECIPE.parents[1] / "docs" / "recipes.md").read_text("utf-8")
    (written,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("name:")]
    path = tmp_path / "direct-groups.yaml"
    path.write_text(written)
    recipe = load_recipe(path)
    assert (recipe.stages, recipe.decoding.name, recipe.fusion.name) == (("sft",), "random_groups", "rrf")
    small = {"decoding": {"size": 3, "repeats": 2, "top": 4, "max_new_tokens": 12, "batch": 4}}
    trained_and_asked(
        load_recipe(path, TINY, steps(2), small), rows_path, candidates_path, tiny, tmp_path / "models", reporter
    )


def test_every_choice_is_named_in_the_documentation() -> None:
    text = (RECIPE.parents[1] / "docs" / "recipes.md").read_text("utf-8")
    named = {
        name
        for names in re.findall(r"^\| `\w+` \|[^|]*\| (.*) \|$", text, re.M)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert {name for choices in SEAMS.values() for name in choices} <= named
