"""What a model's answer to a call means under a recipe's contract, whoever was asked.

    reply = read_written(recipe, call, text, confidence)         # words; `confidence()` is asked where a score is said
    reply = read_token(recipe, call, logprobs, absent)           # the log probabilities of one token

Both a local model (training.rankers) and one behind an endpoint (training.requests) are read here, so that their
malformed answers are counted alike. Deliberately absent: how an answer is got.
"""

import math
from collections.abc import Callable, Mapping

from ranking.decoding.calls import Call, Reply
from ranking.decoding.replies import LETTERS, read_first_token, read_grade, read_order, read_pick, read_said_score
from training.recipes import Recipe
from training.seams import Contract, Letters, ScoreThink, SetwiseThink, TeacherScore, YesNo

YES, NO = "yes", "no"


def read_by_token(contract: Contract) -> bool:
    """Whether answers under a contract are read off the probabilities of one token, and nothing is written."""
    return isinstance(contract, Letters | YesNo)


def highest_score(recipe: Recipe) -> float | None:
    """The top of the scale on which a pointwise model scores a passage; None where it is asked for orders."""
    if isinstance(recipe.contract, YesNo):
        return 1.0
    if isinstance(recipe.contract, ScoreThink) and isinstance(recipe.labels, TeacherScore):
        return float(recipe.labels.highest)
    return None


def tokens_read(recipe: Recipe) -> tuple[str, ...]:
    """The tokens whose probabilities count under such a contract."""
    if isinstance(recipe.contract, YesNo):
        return YES, NO
    return tuple(LETTERS[: recipe.decoding.widest])


def read_token(recipe: Recipe, call: Call, logprobs: Mapping[str, float], absent: float = -math.inf) -> Reply:
    """A reply off log probabilities by token; `absent` is the most that one can have which is not among them."""
    if isinstance(recipe.contract, YesNo):
        return read_grade(call, logprobs, {YES: 1.0, NO: 0.0}, absent)
    return read_first_token(call, logprobs)


def told(logprobs: Mapping[str, float]) -> str:
    """Log probabilities as a row of calls tells them."""
    return " ".join(f"{token} {logprob:.3f}" for token, logprob in logprobs.items())


def read_written(recipe: Recipe, call: Call, text: str, confidence: Callable[[], float]) -> Reply:
    """A reply off a text; `confidence` gives the probability of the tokens that say a score."""
    contract, labels = recipe.contract, recipe.labels
    if isinstance(contract, SetwiseThink):
        return read_pick(call, text, contract.think)
    if isinstance(contract, ScoreThink):
        assert isinstance(labels, TeacherScore)  # by the contract's `fits`
        reply = read_said_score(call, text, 1.0, labels.highest)
        return reply if not reply.score else read_said_score(call, text, confidence(), labels.highest)
    return read_order(call, text, contract.think)
