"""From a released training row to what a student reads and writes, by the recipe's units, labels and contract.

    examples, left_out = sft_examples(rows, recipe, tokenizer, seed)     # prompt, completion
    prompts, left_out = rl_prompts(rows, recipe, tokenizer, seed)        # prompt, relevant, teacher_order
    groups, left_out = pair_groups(rows, recipe, tokenizer, seed)        # a relevant passage's prompt, and others'

Texts are cut by the tokenizer to the recipe's budgets, whole words of the source kept as they are. A list longer than
`units.max_passages` loses passages by a seeded choice that keeps the relevant and the cited ones first, and the
chain's `[n]` are renumbered to match; what each example lost so is counted on it (training/shortened.py). A row that
still does not fit is left out by name and reason.

Deliberately absent: tokenization of whole examples for cross-entropy (TRL does it, with the loss on the completion
only).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ranking.decoding.replies import LETTERS
from ranking.prompts import load_template, passage_text, plain_text
from ranking.responses import CITATION, SENTENCE_END, renumber_chain, response, scored_response, sentences_on
from training.chat import prompt_ids, whole_ids
from training.jobs import LeftOut
from training.recipes import Recipe
from training.seams import Contract, Letters, ListUnits, ListwiseThink, PairUnits, ScoreThink, SetUnits, TeacherScore
from training.shortened import NONE, WHOLE, Share, Shortened, share

Messages = list[dict[str, str]]
Made = TypeVar("Made")


@dataclass(frozen=True)
class RankingExample:
    """What one call of a student shows, and what it should answer; positions are 0-based in this prompt."""

    row_id: str
    prompt: Messages
    completion: Messages
    relevant: tuple[int, ...]
    teacher_order: tuple[int, ...]
    shortened: Shortened = WHOLE


@dataclass(frozen=True)
class PairGroup:
    """Prompts of single passages of one query, the relevant one's first."""

    row_id: str
    prompts: tuple[Messages, ...]
    shortened: Shortened = WHOLE


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
) -> tuple[Messages, Shortened]:
    """The messages a student is asked with, and which of their texts had to be cut.

    Texts are sanitised before they are counted, so that the budget holds for what the model really reads.
    """
    template = load_template(recipe.contract.template)
    clean_query = plain_text(query)
    (short_query,) = cut(tokenizer, [clean_query], recipe.units.query_tokens)
    clean = [passage_text(text) for text in passages]
    short = cut(tokenizer, clean, passage_tokens or recipe.units.passage_tokens)
    names = LETTERS if isinstance(recipe.contract, Letters) else None
    told = Shortened(passages=share(short, clean), queries=share([short_query], [clean_query]))
    return template.messages(short_query, short, names=names), told


def target(
    tokenizer: Any, contract: Contract, chain: str, kept: Sequence[int], count: int, order: Sequence[int]
) -> tuple[str, Share] | Unfit:
    """The response to learn, in the contract's grammar, and whether its chain, where it has one, is not whole.

    It is the order, after as much as fits of what the chain says of the `kept` among the `count` passages.
    """
    if isinstance(contract, Letters):
        return " > ".join(LETTERS[position] for position in order), NONE
    if not isinstance(contract, ListwiseThink):
        return response(order), NONE
    said = renumber_chain(chain, kept)
    short = shorten_chain(tokenizer, said, contract.chain_tokens)
    if not short:
        return Unfit("the chain's first sentence exceeds contract.chain_tokens" if said else "the chain is empty")
    whole = renumber_chain(chain, range(count))
    return response(order, short), (int(len(short.split()) < len(whole.split())), 1)


def prompt_length(tokenizer: Any, recipe: Recipe, prompt: Messages) -> int:
    """Tokens of a prompt with the chat template around it."""
    return len(prompt_ids(tokenizer, prompt, recipe.contract.think))


def build_examples(
    row: Mapping[str, Any], recipe: Recipe, tokenizer: Any, seed: int, with_target: bool
) -> list[RankingExample] | LeftOut:
    """The examples of a row, several only where single passages are asked about, or why it makes none.

    Without a chain there is nothing to learn for a contract that wants one; `with_target` says whether that counts.
    """
    count = len(row["passages"])
    if sorted(row["final_order"]) != list(range(count)):
        return LeftOut(row_id=row["row_id"], reason="final_order is not a permutation of the row's passages")
    if not any(0 <= position < count for position in row["relevant"]):
        return LeftOut(row_id=row["row_id"], reason="no relevant passage in the list")
    if isinstance(recipe.units, PairUnits):
        return _scored(row, recipe, tokenizer, seed)
    kept = _shown(row, recipe, seed)
    if isinstance(kept, LeftOut):
        return kept
    place = {old: new for new, old in enumerate(kept)}
    order = tuple(place[position] for position in row["final_order"] if position in place)
    relevant = tuple(sorted(place[position] for position in row["relevant"] if position in place))
    prompt, told = ranking_prompt(tokenizer, recipe, row["query"], [row["passages"][p] for p in kept])
    told += Shortened(lists=(int(len(kept) < count), 1))
    completion: Messages = []
    if with_target:
        made = target(tokenizer, recipe.contract, row["reasoning"], kept, count, order)
        if isinstance(made, Unfit):
            return LeftOut(row_id=row["row_id"], reason=made.reason)
        text, chains = made
        told += Shortened(chains=chains)
        completion = [{"role": "assistant", "content": text}]
    return [RankingExample(row["row_id"], prompt, completion, relevant, order, told)]


def _shown(row: Mapping[str, Any], recipe: Recipe, seed: int) -> tuple[int, ...] | LeftOut:
    """The positions of a row that one list or set shows."""
    if isinstance(recipe.units, ListUnits):
        return keep_positions(row, recipe.units.max_passages, seed)
    assert isinstance(recipe.units, SetUnits)  # pairs are asked about one by one
    first, others = _groups(row, recipe.units.size - 1, 1, seed)[0]
    if not others:
        return LeftOut(row_id=row["row_id"], reason="every passage is relevant, so none is the one to find")
    shown = [first, *others]
    random.Random(f"{seed}:{row['row_id']}:shown").shuffle(shown)
    return tuple(shown)


def _groups(row: Mapping[str, Any], negatives: int, most: int, seed: int) -> list[tuple[int, list[int]]]:
    """Up to `most` relevant positions in the teacher's order, each beside up to `negatives` that are not relevant."""
    relevant = set(row["relevant"])
    others = [position for position in range(len(row["passages"])) if position not in relevant]
    groups = []
    for first in [position for position in row["final_order"] if position in relevant][:most]:
        dice = random.Random(f"{seed}:{row['row_id']}:{first}")
        groups.append((first, dice.sample(others, min(negatives, len(others)))))
    return groups


def _list_shown(row: Mapping[str, Any], groups: Sequence[tuple[int, list[int]]]) -> Shortened:
    """Whether groups leave a passage of a row's list out."""
    shown = {position for first, others in groups for position in (first, *others)}
    return Shortened(lists=(int(len(shown) < len(row["passages"])), 1))


def _scored(row: Mapping[str, Any], recipe: Recipe, tokenizer: Any, seed: int) -> list[RankingExample] | LeftOut:
    """One example a passage of a group, with the score of its place in the teacher's order.

    A row that cannot fill its groups is left out: a reward over a query wants groups of one size.
    """
    units, labels, contract = recipe.units, recipe.labels, recipe.contract
    assert isinstance(units, PairUnits) and isinstance(labels, TeacherScore) and isinstance(contract, ScoreThink)
    place = {position: rank for rank, position in enumerate(row["final_order"])}
    last = max(1, len(place) - 1)
    examples = []
    groups = _groups(row, units.negatives, units.positives, seed)
    lists = _list_shown(row, groups)
    for first, others in groups:
        if len(others) < units.negatives:
            reason = f"{len(others)} passages are not relevant, units.negatives is {units.negatives}"
            return LeftOut(row_id=row["row_id"], reason=reason)
        for position in (first, *others):
            prompt, told = ranking_prompt(tokenizer, recipe, row["query"], [row["passages"][position]])
            score = round(labels.highest * (last - place[position]) / last)
            said = sentences_on(row["reasoning"], position)
            chain = shorten_chain(tokenizer, said, contract.chain_tokens)
            told += Shortened(chains=(int(chain != said), int(bool(said)))) + lists
            completion = [{"role": "assistant", "content": scored_response(score, chain)}]
            relevant = (0,) if position == first else ()
            examples.append(RankingExample(row["row_id"], prompt, completion, relevant, (0,), told))
    return examples


def sft_examples(
    rows: Sequence[Mapping[str, Any]], recipe: Recipe, tokenizer: Any, seed: int
) -> tuple[list[RankingExample], list[LeftOut]]:
    """Examples of the supervised stage; prompt and response together hold at most `objective.max_tokens`."""
    limit = recipe.supervised.max_tokens
    return _fitting(
        rows,
        lambda row: build_examples(row, recipe, tokenizer, seed, with_target=True),
        lambda example: whole_length(tokenizer, recipe, example),
        limit,
        "objective.max_tokens",
    )


def rl_prompts(
    rows: Sequence[Mapping[str, Any]], recipe: Recipe, tokenizer: Any, seed: int
) -> tuple[list[RankingExample], list[LeftOut]]:
    """Prompts of the reinforcement stage; each holds at most `sampling.max_prompt_tokens`.

    A rollout writes its own chain, so a row whose chain does not fit is still a good prompt.
    """
    return _fitting(
        rows,
        lambda row: build_examples(row, recipe, tokenizer, seed, with_target=False),
        lambda example: prompt_length(tokenizer, recipe, example.prompt),
        recipe.grpo.max_prompt_tokens,
        "sampling.max_prompt_tokens",
    )


def pair_groups(
    rows: Sequence[Mapping[str, Any]], recipe: Recipe, tokenizer: Any, seed: int
) -> tuple[list[PairGroup], list[LeftOut]]:
    """Groups of a relevant passage and some that are not; each prompt holds at most `objective.max_tokens`."""
    units = recipe.units
    assert isinstance(units, PairUnits)

    def build(row: Mapping[str, Any]) -> list[PairGroup] | LeftOut:
        groups = []
        chosen = _groups(row, units.negatives, units.positives, seed)
        for first, others in chosen:
            asked = [ranking_prompt(tokenizer, recipe, row["query"], [row["passages"][p]]) for p in (first, *others)]
            told = sum((told for _, told in asked), _list_shown(row, chosen))
            groups.append(PairGroup(row["row_id"], tuple(prompt for prompt, _ in asked), told))
        if not groups:
            return LeftOut(row_id=row["row_id"], reason="no relevant passage in the list")
        if len(groups[0].prompts) < 2:
            return LeftOut(row_id=row["row_id"], reason="every passage is relevant, so none is the one to find")
        return groups

    def length(group: PairGroup) -> int:
        return max(prompt_length(tokenizer, recipe, prompt) for prompt in group.prompts)

    return _fitting(rows, build, length, recipe.supervised.max_tokens, "objective.max_tokens")


def whole_length(tokenizer: Any, recipe: Recipe, example: RankingExample) -> int:
    """Tokens of prompt and response with the chat template around them."""
    return len(whole_ids(tokenizer, [*example.prompt, *example.completion], recipe.contract.think))


def _fitting(
    rows: Sequence[Mapping[str, Any]],
    build: Callable[[Mapping[str, Any]], list[Made] | LeftOut],
    length: Callable[[Made], int],
    limit: int,
    limit_name: str,
) -> tuple[list[Made], list[LeftOut]]:
    """What rows make, and the rows that make nothing or of which something is too long."""
    kept: list[Made] = []
    left_out: list[LeftOut] = []
    for row in rows:
        made = build(row)
        if isinstance(made, LeftOut):
            left_out.append(made)
        elif (longest := max(map(length, made))) > limit:
            left_out.append(LeftOut(row_id=row["row_id"], reason=f"{longest} tokens, {limit_name} is {limit}"))
        else:
            kept += made
    return kept, left_out


def _cited(chain: str) -> list[int]:
    numbers = [int(number) for group in CITATION.findall(chain) for number in group.split(",")]
    return [number - 1 for number in dict.fromkeys(numbers)]
