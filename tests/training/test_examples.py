"""Examples: what a student reads and writes, and which rows are left out by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_toys import RECIPE, SMALL, row

from ranking.parsing import parse_answer
from ranking.responses import renumber_chain
from training.examples import (
    cut,
    keep_positions,
    pair_groups,
    prompt_length,
    rl_prompts,
    sft_examples,
    shorten_chain,
)
from training.recipes import Recipe, load_recipe, merge
from training.shortened import Shortened


def recipe_with(**changes: Any) -> Recipe:
    return load_recipe(RECIPE, merge(SMALL, changes))


@st.composite
def long_rows(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 20))
    relevant = draw(st.sets(st.integers(0, count - 1), min_size=1))
    cited = draw(st.lists(st.integers(1, count), max_size=5))
    return {
        "row_id": draw(st.text("abc", max_size=5)),
        "final_order": draw(st.permutations(range(count))),
        "relevant": sorted(relevant),
        "reasoning": " ".join(f"[{n}] helps." for n in cited),
    }


@given(long_rows(), st.integers(2, 20), st.integers(0, 3))
def test_a_shortened_list_keeps_its_order_and_both_labels(row: dict[str, Any], limit: int, seed: int) -> None:
    kept = keep_positions(row, limit, seed)
    assert list(kept) == sorted(set(kept)) and len(kept) == min(limit, len(row["final_order"]))
    assert set(kept) & set(row["relevant"])
    if len(row["relevant"]) < len(row["final_order"]):
        assert set(kept) - set(row["relevant"])
    assert kept == keep_positions(row, limit, seed)


def test_a_chain_is_renumbered_to_the_kept_passages() -> None:
    assert renumber_chain("We ask. [5] and [2, 7] help. So [5] wins.", [1, 4, 6]) == (
        "We ask. [2] and [1, 3] help. So [2] wins."
    )


def test_a_sentence_that_cites_a_lost_passage_goes_whole() -> None:
    assert renumber_chain("About it. [3] helps! [1] does not.", [0]) == "About it. [1] does not."


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sets(st.integers(0, 8), min_size=1))
def test_every_citation_left_names_the_same_passage_as_before(cited: list[int], kept: set[int]) -> None:
    order = sorted(kept)
    texts = renumber_chain(" ".join(f"[{n}] is word{n}." for n in cited), order)
    expected = [f"[{order.index(n - 1) + 1}] is word{n}." for n in cited if n - 1 in kept]
    assert texts == " ".join(expected)


def test_tags_inside_a_chain_cannot_break_the_answers_tags() -> None:
    assert renumber_chain("<think>One.</think> <answer>Two.", [0]) == "One. Two."


def test_a_chain_is_cut_at_a_sentence_end(tokenizer: Any) -> None:
    chain = "One two three. Four five six. Seven eight nine."
    assert shorten_chain(tokenizer, chain, None) == chain
    assert shorten_chain(tokenizer, chain, 9) == "One two three. Four five six."
    assert shorten_chain(tokenizer, chain, 2) == ""


def test_a_text_is_cut_to_a_prefix_of_itself(tokenizer: Any) -> None:
    texts = ["short", "a much longer text, with ünïcode and 数学, that has to go", ""]
    for text, short in zip(texts, cut(tokenizer, texts, 6), strict=True):
        assert text.startswith(short)
        assert len(tokenizer(short, add_special_tokens=False)["input_ids"]) <= 6
    assert cut(tokenizer, texts, None) == texts


def test_positions_in_the_answer_match_the_passages_of_the_prompt(tokenizer: Any) -> None:
    source = row(0)
    source["passages"] = [f"text-{letter}" for letter in "abcdefgh"]
    source |= {"final_order": [6, 3, 0, 1, 2, 4, 5, 7], "relevant": [6], "reasoning": "[7] beats [4]. So [7] is first."}
    (example,), left_out = sft_examples([source], recipe_with(), tokenizer, seed=1)
    assert not left_out
    prompt = example.prompt[-1]["content"]
    answer = parse_answer(example.completion[0]["content"], 3)
    assert answer.order == example.teacher_order and answer.order is not None
    shown = {n: next(x for x in "abcdefgh" if f"[{n}] text-{x}" in prompt) for n in (1, 2, 3)}
    best, second = (shown[place + 1] for place in answer.order[:2])
    assert (best, second) == ("g", "d")
    assert answer.chain.startswith(f"[{answer.order[0] + 1}] beats [{answer.order[1] + 1}].")
    assert [shown[place + 1] for place in example.relevant] == ["g"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"relevant": []}, "no relevant passage"),
        ({"final_order": [0, 0, 1]}, "not a permutation"),
        ({"reasoning": ""}, "the chain is empty"),
        ({"reasoning": "word " * 200 + "."}, "first sentence exceeds contract.chain_tokens"),
    ],
)
def test_a_row_that_does_not_fit_is_left_out_by_name(tokenizer: Any, fault: dict[str, Any], reason: str) -> None:
    examples, left_out = sft_examples([row(0), row(1) | fault], recipe_with(), tokenizer, seed=1)
    assert [example.row_id for example in examples] == ["toy/0"]
    assert [item.row_id for item in left_out] == ["toy/1"] and reason in left_out[0].reason


def test_a_row_over_the_token_limit_is_left_out_and_never_truncated(tokenizer: Any) -> None:
    examples, left_out = sft_examples([row(0)], recipe_with(objective={"max_tokens": 64}), tokenizer, seed=1)
    assert examples == [] and "objective.max_tokens is 64" in left_out[0].reason
    examples, left_out = rl_prompts([row(0)], recipe_with(sampling={"max_prompt_tokens": 32}), tokenizer, seed=1)
    assert examples == [] and "sampling.max_prompt_tokens is 32" in left_out[0].reason


def test_a_prompt_without_a_usable_chain_still_serves_reinforcement(tokenizer: Any) -> None:
    (example,), left_out = rl_prompts([row(0) | {"reasoning": ""}], recipe_with(), tokenizer, seed=1)
    assert not left_out and example.completion == [] and example.relevant == (1,)


def test_long_passages_and_queries_stay_inside_their_budgets_and_a_cut_query_is_counted(tokenizer: Any) -> None:
    long = row(0) | {"passages": ["word " * 500] * 3, "query": "why " * 500}
    (short_one, long_one), _ = sft_examples([row(1), long], recipe_with(), tokenizer, seed=1)
    assert (short_one.shortened.queries, long_one.shortened.queries) == ((0, 1), (1, 1))
    long_length, short_length = (prompt_length(tokenizer, recipe_with(), one.prompt) for one in (long_one, short_one))
    assert long_length < short_length + 3 * 16 + 2 * 16


def test_the_direct_contract_has_no_chain(tokenizer: Any) -> None:
    direct = recipe_with(contract={"name": "listwise_direct"})
    (example,), _ = sft_examples([row(0)], direct, tokenizer, seed=1)
    assert example.completion[0]["content"] == "<answer> [2] > [3] > [1] </answer>"
    assert "think" not in example.prompt[0]["content"]


@pytest.mark.parametrize(
    ("changes", "budgets", "told"),
    [
        ({}, {}, {}),
        ({"passages": ["word " * 30] * 2 + ["short"]}, {}, {"passages": (2, 6)}),
        ({"query": "why " * 30}, {}, {"queries": (1, 2)}),
        ({}, {"contract": {"chain_tokens": 14}}, {"chains": (2, 2)}),
        ({}, {"units": {"max_passages": 2}}, {"lists": (2, 2), "passages": (0, 4)}),
        # The third passage goes, and with it the sentence about it.
        (
            {"reasoning": "[2] and [1] help. [3] does not."},
            {"units": {"max_passages": 2}},
            {"lists": (2, 2), "passages": (0, 4), "chains": (1, 2)},
        ),
    ],
)
def test_whatever_is_shortened_is_counted_and_of_how_many(
    tokenizer: Any, changes: dict[str, Any], budgets: dict[str, Any], told: dict[str, tuple[int, int]]
) -> None:
    examples, left_out = sft_examples([row(0), row(1) | changes], recipe_with(**budgets), tokenizer, seed=1)
    whole = {"lists": (0, 2), "passages": (0, 6), "queries": (0, 2), "chains": (0, 2)}
    assert not left_out and Shortened.of(examples) == Shortened(**(whole | told))


def test_a_row_of_several_examples_is_one_list_and_one_query(tokenizer: Any) -> None:
    pair = {"name": "pair", "positives": 2, "negatives": 1, "passage_tokens": 16, "query_tokens": 16}
    changes = {"units": pair, "contract": {"name": "yes_no"}}
    recipe = load_recipe(RECIPE.with_name("direct-point.yaml"), changes)
    wide = row(0) | {"passages": ["a", "b", "c", "word " * 30], "final_order": [1, 3, 2, 0], "relevant": [1, 3]}
    groups, _ = pair_groups([wide | {"query": "why " * 30}], recipe, tokenizer, seed=1)
    told = Shortened.of(groups)
    assert len(groups) == 2 and (told.queries, told.passages, told.chains) == ((1, 1), (1, 4), (0, 0))
    shown = {p.strip() for group in groups for prompt in group.prompts for p in [prompt[-1]["content"]]}
    assert told.lists == (int(len(shown) < 4), 1)
