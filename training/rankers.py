"""A local model as the one who answers a decoder's calls, by the recipe's contract.

    ranker = ranker_for(recipe, model, tokenizer)
    for number, answer in ranker.answer(prompts, calls):         # batch by batch
        answer.reply, answer.text, answer.seconds

`Words` writes answers out and reads them strictly; `Logits` reads the first token's probabilities and writes nothing.
Deliberately absent: endpoints (training.endpoint), and which calls are open (ranking.decoding.desk).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ranking.decoding.calls import Call, Reply
from ranking.decoding.replies import LETTERS, read_first_token, read_grade, read_order, read_pick, read_said_score
from training.examples import prompt_length, ranking_prompt
from training.first_token import FirstToken
from training.generate import Completion, Decoding, Writer
from training.recipes import Recipe
from training.seams import Letters, ScoreThink, SetwiseThink, TeacherScore, Written, YesNo

Messages = list[dict[str, str]]
YES, NO = "yes", "no"


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
    """The ranker that a recipe's contract asks for; `exact`: see training.ties.

    Raises SeveralTokensError where the tokenizer has no single token for what the contract reads.
    """
    contract, decoding = recipe.contract, recipe.decoding
    if isinstance(contract, Letters):
        return Logits(recipe, FirstToken(model, tokenizer, LETTERS[: decoding.widest]))
    if isinstance(contract, YesNo):
        return Logits(recipe, FirstToken(model, tokenizer, (YES, NO)))
    assert isinstance(decoding, Written)  # by the contract's `fits`
    how = Decoding(max_new_tokens=decoding.max_new_tokens, batch=decoding.batch, exact=exact)
    return Words(recipe, Writer(model, tokenizer), how)


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
            reply = self._read(calls[number], written)
            yield number, Answered(reply, written.text, len(written.prompt_ids), len(written.ids), written.seconds)

    def _read(self, call: Call, written: Completion) -> Reply:
        contract, labels = self.recipe.contract, self.recipe.labels
        if isinstance(contract, SetwiseThink):
            return read_pick(call, written.text, contract.think)
        if isinstance(contract, ScoreThink):
            assert isinstance(labels, TeacherScore)  # by the contract's `fits`
            reply = read_said_score(call, written.text, 1.0, labels.highest)
            if not reply.score:
                return reply
            return read_said_score(call, written.text, self.writer.confidence(written), labels.highest)
        return read_order(call, written.text, contract.think)


@dataclass
class Logits:
    """Answers that are read off one forward pass."""

    recipe: Recipe
    first: FirstToken
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
        for number, read in self.first.read(prompts, self.recipe.decoding.batch):
            if isinstance(self.recipe.contract, YesNo):
                reply = read_grade(calls[number], read.logprobs, {YES: 1.0, NO: 0.0})
            else:
                reply = read_first_token(calls[number], read.logprobs)
            told = " ".join(f"{token} {logprob:.3f}" for token, logprob in read.logprobs.items())
            yield number, Answered(reply, told, read.prompt_tokens, 0, read.seconds)


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
    length = prompt_length(ranker.tokenizer, call_prompt(recipe, ranker.tokenizer, query, longest))
    length += decoding.max_new_tokens if isinstance(decoding, Written) else 0
    return f"a call may take {length} tokens, the model holds {room}" if length > room else None
