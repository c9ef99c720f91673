"""A recipe's contract over an endpoint: a decoder's calls as requests, and what the answers mean.

    asking = Asking(recipe, "deepseek-chat", prompt)
    answered = await decode_over([engine], desk, asking.ask, asking.read, forgo=asking.forgo)

Answers are read as a local model's are (training.readings): strictly, greedily asked for, and never asked for twice.
What is read off one token is asked for as one token with the MOST_TOP likeliest beside it, and a said score with the
log-probabilities of its own tokens; so any OpenAI-compatible endpoint that tells them will do, a vLLM server too. Two
tokens that differ in blanks alone are one here, where a local model's are told apart.

Deliberately absent: the engine (training.endpoint hands it in), and how texts are cut (`prompt` does it).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from inference.endpoint import refused_as
from inference.exchange import Exchange, Failure, Request, Sampling
from inference.logprobs import MOST_TOP, Token, tokens
from ranking.decoding.calls import Reply
from ranking.decoding.desk import Ticket
from ranking.decoding.replies import by_word, number_places
from training.endpoint import request_id, spoken
from training.readings import read_by_token, read_token, read_written, tokens_read, told
from training.recipes import Recipe
from training.seams import ScoreThink, Written

Messages = list[dict[str, str]]
REFUSED = "refused"
STOP = "</answer>"


class NoLogprobs(RuntimeError):
    """The endpoint answers, and tells no log-probabilities where a contract is read from them."""


@dataclass(frozen=True)
class Asking:
    """How a model behind an endpoint is asked by a recipe; `prompt` makes the messages of a ticket's call."""

    recipe: Recipe
    model: str
    prompt: Callable[[Ticket], Messages]

    @cached_property
    def sampling(self) -> Sampling:
        """The parameters of every request: greedy, as long as the recipe lets answers be."""
        decoding = self.recipe.decoding
        if read_by_token(self.recipe.contract):
            return Sampling(self.model, 0.0, 1.0, max_tokens=1, top_logprobs=MOST_TOP)
        assert isinstance(decoding, Written)  # by the contract's `fits`
        scored = 0 if isinstance(self.recipe.contract, ScoreThink) else None
        return Sampling(self.model, 0.0, 1.0, decoding.max_new_tokens, top_logprobs=scored)

    def ask(self, ticket: Ticket) -> Request:
        """The request of a call. A malformed answer is counted, and never mended."""
        return Request(request_id(ticket), tuple(self.prompt(ticket)), self.sampling, mend=False)

    def read(self, ticket: Ticket, exchange: Exchange) -> Reply:
        """What an answer means. Raises NoLogprobs."""
        if read_by_token(self.recipe.contract):
            token = self._first(exchange)
            if token is None:
                return read_token(self.recipe, ticket.call, {})
            return read_token(self.recipe, ticket.call, by_word(token.top), token.most_absent)
        return read_written(self.recipe, ticket.call, self.text(exchange), lambda: self._confidence(exchange))

    def told(self, exchange: Exchange) -> str:
        """An answer as a row of calls tells it: the words, or the probabilities that were read."""
        if read_by_token(self.recipe.contract):
            token = self._first(exchange)
            words = {} if token is None else by_word(token.top)
            return told({word: words[word] for word in tokens_read(self.recipe) if word in words})
        return self.text(exchange)

    def text(self, exchange: Exchange) -> str:
        """What was written, up to the end of its answer: there a local model is stopped."""
        text = spoken(exchange) if self.recipe.contract.think else exchange.content
        before, stop, _ = text.partition(STOP)
        return before + stop

    def forgo(self, ticket: Ticket, failure: Failure) -> Reply | None:
        """A call that the endpoint refuses, being too long say, keeps the order shown and is counted."""
        return Reply(ticket.call.positions, fault=REFUSED) if refused_as(failure.kind) is not None else None

    def _first(self, exchange: Exchange) -> Token | None:
        """The first token with the likeliest beside it; None where the endpoint withheld the answer."""
        written = tokens(exchange.logprobs)
        if written and written[0].top:
            return written[0]
        if exchange.finish_reason in ("content_filter", "refusal"):
            return None
        raise self._no_logprobs(exchange)

    def _confidence(self, exchange: Exchange) -> float:
        """The probability with which the number in `<answer>` is said: the product over its tokens (ERank)."""
        written, said, texts = tokens(exchange.logprobs), "", []
        for token in written:
            said += token.text
            texts.append(said)
        places = number_places(texts)
        if not places:
            raise self._no_logprobs(exchange)
        return math.exp(sum(written[place].logprob for place in places))

    def _no_logprobs(self, exchange: Exchange) -> NoLogprobs:
        return NoLogprobs(
            f"{exchange.served_model or self.model} told no log-probabilities of its answer, and the contract "
            f"{self.recipe.contract.name} of {self.recipe.name} is read from them. Ask a model whose endpoint tells "
            "them (vLLM does, reasoning models of several providers do not), or by a recipe whose answers are written, "
            "such as reasonrank. All answers are kept."
        )
