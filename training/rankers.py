"""A local model as the one who answers a decoder's calls, by the recipe's contract.

    ranker = ranker_for(recipe, model, tokenizer)
    for number, answer in ranker.answer(prompts, calls):         # batch by batch
        answer.reply, answer.text, answer.seconds

`Words` writes answers out and reads them strictly; `Logits` reads the first token's probabilities and writes nothing.
Deliberately absent: endpoints (training.requests), what an answer means (training.readings), and which calls are open
(ranking.decoding.desk).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ranking.decoding.calls import Call, Reply
from training.examples import prompt_length, ranking_prompt
from training.first_token import FirstToken
from training.generate import Completion, Decoding, Writer
from training.readings import read_by_token, read_token, read_written, tokens_read, told
from training.recipes import Recipe
from training.seams import Written

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answered:
    """What a call brought; `text` is what was written, or the probabilities that were read."""

    reply: Reply
    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Ranker(Protocol):
    """Whoever answers calls."""

    model: Any
    tokenizer: Any

    def answer(
        self,
        prompts: Sequence[Messages],
        calls: Sequence[Call],
        abandoned: Callable[[int], bool] | None = None,
    ) -> Iterator[tuple[int, Answered]]:
        """(number, answer) of every call, batch by batch; of `abandoned` ones nobody wants the answer any more."""


def ranker_for(recipe: Recipe, model: Any, tokenizer: Any, exact: bool = False) -> Ranker:
    """The ranker that a recipe's contract asks for; `exact`: its answers do not depend on the batch.

    Written ones are settled as training.ties says, and what is read off logits is asked a prompt at a time.

    Raises SeveralTokensError where the tokenizer has no single token for what the contract reads.
    """
    decoding = recipe.decoding
    if read_by_token(recipe.contract):
        # Beside others a prompt's logits move by rounding, and passages of one text would stand as the batch has it.
        return Logits(recipe, FirstToken(model, tokenizer, tokens_read(recipe)), 1 if exact else decoding.batch)
    assert isinstance(decoding, Written)  # by the contract's `fits`
    how = Decoding(max_new_tokens=decoding.max_new_tokens, batch=decoding.batch, exact=exact)
    return Words(recipe, Writer(model, tokenizer, recipe.contract.think), how)


@dataclass
class Words:
    """Answers that are written out."""

    recipe: Recipe
    writer: Writer
    how: Decoding
    model: Any = field(init=False)
    tokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.tokenizer = self.writer.model, self.writer.tokenizer

    def answer(
        self,
        prompts: Sequence[Messages],
        calls: Sequence[Call],
        abandoned: Callable[[int], bool] | None = None,
    ) -> Iterator[tuple[int, Answered]]:
        """(number, answer) of every call, longest prompts first."""
        for number, written in self.writer.write(prompts, self.how, abandoned):
            reply = read_written(self.recipe, calls[number], written.text, partial(self._confidence, written))
            yield number, Answered(reply, written.text, len(written.prompt_ids), len(written.ids), written.seconds)

    def _confidence(self, written: Completion) -> float:
        return self.writer.confidence(written)


@dataclass
class Logits:
    """Answers that are read off one forward pass."""

    recipe: Recipe
    first: FirstToken
    batch: int
    model: Any = field(init=False)
    tokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.tokenizer = self.first.model, self.first.tokenizer

    def answer(
        self,
        prompts: Sequence[Messages],
        calls: Sequence[Call],
        abandoned: Callable[[int], bool] | None = None,
    ) -> Iterator[tuple[int, Answered]]:
        """(number, answer) of every call, longest prompts first."""
        for number, read in self.first.read(prompts, self.batch):
            reply = read_token(self.recipe, calls[number], read.logprobs)
            yield number, Answered(reply, told(read.logprobs), read.prompt_tokens, 0, read.seconds)


def call_prompt(recipe: Recipe, tokenizer: Any, query: str, passages: Sequence[str]) -> Messages:
    """The messages of one call, its texts cut to the recipe's budgets."""
    return ranking_prompt(tokenizer, recipe, query, passages, recipe.decoding.passage_tokens)[0]


def misfit(recipe: Recipe, ranker: Ranker, query: str, passages: Sequence[str]) -> str | None:
    """Why some call on these candidates would be longer than the model holds, or None."""
    room = getattr(ranker.model.config, "max_position_embeddings", None)
    if room is None:
        return None
    decoding = recipe.decoding
    # A budget that bounds every call spares tokenizing all of them: passages, query and instructions.
    longest = sorted(passages[: decoding.top], key=len)[-decoding.widest :]
    length = prompt_length(ranker.tokenizer, recipe, call_prompt(recipe, ranker.tokenizer, query, longest))
    length += decoding.max_new_tokens if isinstance(decoding, Written) else 0
    return f"a call may take {length} tokens, the model holds {room}" if length > room else None
