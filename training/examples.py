"""From a released training row to what a student reads and writes.

    examples, left_out = sft_examples(rows, recipe, tokenizer, seed)     # prompt, completion
    prompts, left_out = rl_prompts(rows, recipe, tokenizer, seed)        # prompt, relevant, teacher_order

Texts are cut by the tokenizer to the recipe's budgets, whole words of the source kept as they are. A list longer than
`units.max_passages` loses passages by a seeded choice that keeps the relevant and the cited ones first, and the
chain's `[n]` are renumbered to match. A row that still does not fit is left out by name and reason, never truncated.

Deliberately absent: tokenization of whole examples (TRL does it, with the loss on the completion only).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranking.prompts import load_template, passage_text, plain_text
from ranking.responses import CITATION, SENTENCE_END, renumber_chain, response
from training.jobs import LeftOut
from training.recipes import ListwiseDirect, ListwiseThink, Recipe

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class RankingExample:
    """One list as a student sees it; positions are 0-based and count the passages of this prompt."""

    row_id: str
    prompt: Messages
    completion: Messages
    relevant: tuple[int, ...]
    teacher_order: tuple[int, ...]
    query_cut: bool


@dataclass(frozen=True)
class Unfit:
    """Why a row makes no target."""

    reason: str


def cut(tokenizer: Any, texts: Sequence[str], tokens: int | None) -> list[str]:
    """Each text, or the longest prefix of it that is at most `tokens` tokens long."""
    if tokens is None or not texts:
        return list(texts)
    offsets = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        text if len(spans) <= tokens else text[: spans[tokens - 1][1]].rstrip()
        for text, spans in zip(texts, offsets, strict=True)
    ]


def keep_positions(row: Mapping[str, Any], limit: int, seed: int) -> tuple[int, ...]:
    """At most `limit` positions of a row's list, in the list's own order, with both labels where the row has both.

    Relevant passages come first in the teacher's order (up to half of the places), then those the chain cites, then
    a choice seeded by the row's id, so that the same row makes the same list on any machine.
    """
    order, relevant = list(row["final_order"]), set(row["relevant"])
    if len(order) <= limit:
        return tuple(range(len(order)))
    rest = sorted(order)
    random.Random(f"{seed}:{row['row_id']}").shuffle(rest)
    wanted = [p for p in order if p in relevant][: max(1, limit // 2)]
    others = [p for p in dict.fromkeys([*_cited(row["reasoning"]), *rest]) if 0 <= p < len(order) and p not in relevant]
    kept = (wanted + others + [p for p in order if p in relevant][len(wanted) :])[:limit]
    return tuple(sorted(kept))


def shorten_chain(tokenizer: Any, chain: str, tokens: int | None) -> str:
    """As many whole sentences from the chain's start as fit; empty when not even the first one does."""
    if tokens is None:
        return chain
    kept = ""
    for sentence in SENTENCE_END.split(chain):
        longer = f"{kept} {sentence}".strip()
        if len(tokenizer(longer, add_special_tokens=False)["input_ids"]) > tokens:
            break
        kept = longer
    return kept


def ranking_prompt(
    tokenizer: Any, recipe: Recipe, query: str, passages: Sequence[str], passage_tokens: int | None = None
) -> tuple[Messages, bool]:
    """The messages a student is asked with, and whether the query had to be cut.

    Texts are sanitised before they are counted, so that the budget holds for what the model really reads.
    """
    template = load_template(recipe.contract.template)
    clean_query = plain_text(query)
    (short_query,) = cut(tokenizer, [clean_query], recipe.units.query_tokens)
    short = cut(tokenizer, [passage_text(text) for text in passages], passage_tokens or recipe.units.passage_tokens)
    return template.messages(short_query, short), short_query != clean_query


def target(tokenizer: Any, contract: ListwiseThink | ListwiseDirect, chain: str, order: Sequence[int]) -> str | Unfit:
    """The response to learn, in the contract's grammar: the order, after as much of the chain as fits."""
    if not isinstance(contract, ListwiseThink):
        return response(order)
    short = shorten_chain(tokenizer, chain, contract.chain_tokens)
    if not short:
        return Unfit("the chain's first sentence exceeds contract.chain_tokens" if chain else "the chain is empty")
    return response(order, short)


def prompt_length(tokenizer: Any, prompt: Messages) -> int:
    """Tokens of a prompt with the chat template around it."""
    return len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False))


def build_example(
    row: Mapping[str, Any], recipe: Recipe, tokenizer: Any, seed: int, with_chain: bool
) -> RankingExample | LeftOut:
    """One example, or the reason why the row makes none; without a chain there is no completion to learn from."""
    kept = keep_positions(row, recipe.units.max_passages, seed)
    place = {old: new for new, old in enumerate(kept)}
    order = tuple(place[position] for position in row["final_order"] if position in place)
    if sorted(order) != list(range(len(kept))):
        return LeftOut(row_id=row["row_id"], reason="final_order is not a permutation of the row's passages")
    relevant = tuple(sorted(place[position] for position in row["relevant"] if position in place))
    if not relevant:
        return LeftOut(row_id=row["row_id"], reason="no relevant passage in the list")
    prompt, query_cut = ranking_prompt(tokenizer, recipe, row["query"], [row["passages"][p] for p in kept])
    completion: Messages = []
    if with_chain:
        text = target(tokenizer, recipe.contract, renumber_chain(row["reasoning"], kept), order)
        if isinstance(text, Unfit):
            return LeftOut(row_id=row["row_id"], reason=text.reason)
        completion = [{"role": "assistant", "content": text}]
    return RankingExample(row["row_id"], prompt, completion, relevant, order, query_cut)


def sft_examples(
    rows: Sequence[Mapping[str, Any]], recipe: Recipe, tokenizer: Any, seed: int
) -> tuple[list[RankingExample], list[LeftOut]]:
    """Examples of the supervised stage; prompt and response together hold at most `objective.max_tokens`."""
    examples, left_out = [], []
    for row in rows:
        example = build_example(row, recipe, tokenizer, seed, with_chain=True)
        if isinstance(example, RankingExample):
            whole = tokenizer.apply_chat_template(
                [*example.prompt, *example.completion], tokenize=True, return_dict=False
            )
            if len(whole) <= recipe.objective.max_tokens:
                examples.append(example)
                continue
            reason = f"{len(whole)} tokens, objective.max_tokens is {recipe.objective.max_tokens}"
            example = LeftOut(row_id=row["row_id"], reason=reason)
        left_out.append(example)
    return examples, left_out


def rl_prompts(
    rows: Sequence[Mapping[str, Any]], recipe: Recipe, tokenizer: Any, seed: int
) -> tuple[list[RankingExample], list[LeftOut]]:
    """Prompts of the reinforcement stage; each holds at most `sampling.max_prompt_tokens`."""
    examples, left_out = [], []
    for row in rows:
        # A rollout writes its own chain, so a row whose chain does not fit is still a good prompt.
        example = build_example(row, recipe, tokenizer, seed, with_chain=False)
        if isinstance(example, RankingExample):
            length = prompt_length(tokenizer, example.prompt)
            if length <= recipe.sampling.max_prompt_tokens:
                examples.append(example)
                continue
            reason = f"prompt of {length} tokens, sampling.max_prompt_tokens is {recipe.sampling.max_prompt_tokens}"
            example = LeftOut(row_id=row["row_id"], reason=reason)
        left_out.append(example)
    return examples, left_out


def _cited(chain: str) -> list[int]:
    numbers = [int(number) for group in CITATION.findall(chain) for number in group.split(",")]
    return [number - 1 for number in dict.fromkeys(numbers)]
