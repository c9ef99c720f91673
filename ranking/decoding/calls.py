"""What a decoder asks of a model, and what it hears: `Call`, `Reply`, `Ranked`, and the protocol between them.

A decoder is a state machine for one query, written as a generator: it yields a batch of calls that do not depend on
each other, is sent their replies in the same order, and returns the final order. It knows positions only (0 is the
first stage's best), no texts, no model and no clock; so the same decoder runs over a local model, over an endpoint or
over a formula in a test. Who asks the calls of many queries together is `ranking.decoding.desk`; what a model's words
mean is `ranking.decoding.replies`.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum

Order = tuple[int, ...]


class Task(StrEnum):
    """What a call asks about its passages."""

    ORDER = "order"  # all of them, best first
    FIRST_TOKEN = "first_token"  # the same, read off the logits of the answer's first token
    BEST = "best"  # the one that helps most: the reply's first
    WORST = "worst"  # the one that helps least: the reply's last
    SCORE = "score"  # a single passage: how much it helps


@dataclass(frozen=True)
class Call:
    """One question to a model. `positions` are shown in this order; `ranker` is which of several models is asked."""

    positions: Order
    task: Task = Task.ORDER
    ranker: int = 0


@dataclass(frozen=True)
class Reply:
    """What a call brought: its positions in their new order, and for Task.SCORE the score (None: none was given).

    `fault` is the kind of a malformed answer; what such an answer leaves open keeps the order shown (METHOD section 5).
    """

    order: Order
    score: float | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Ranked:
    """A query's final order; `scores` go with it, falling, where the decoder has any beyond the order itself."""

    order: Order
    scores: tuple[float, ...] | None = None


Steps = Generator[tuple[Call, ...], Sequence[Reply], Ranked]
Decoder = Callable[[int], Steps]


def by_score(scores: Sequence[float | None]) -> Ranked:
    """Positions by score, falling, ties as the first stage has them; those without a score behind, in its order too.

    A position without a score is given the lowest score that there is.
    """
    known = [score for score in scores if score is not None]
    order = sorted(range(len(scores)), key=lambda position: (scores[position] is None, -(scores[position] or 0.0)))
    lowest = min(known, default=0.0)
    return Ranked(tuple(order), tuple(lowest if (score := scores[p]) is None else score for p in order))
