"""Log-probabilities of an answer's tokens: as an endpoint tells them, as the store keeps them, as a caller reads them.

    kept = keep(choice["logprobs"])          # a text for the store, or None where the endpoint told none
    for token in tokens(exchange.logprobs):
        token.text, token.logprob, token.top

An endpoint lists the most likely tokens at a place, at most MOST_TOP by OpenAI's rules; whatever is not among them is
less likely than the last of them, and no more is known of it (`Token.most_absent`). Texts are the endpoint's: two
tokens may read alike, and a token that is a part of a letter reads as a replacement character.

Absent on purpose: what the tokens mean (`ranking.decoding.replies`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MOST_TOP = 20
# What vLLM and OpenAI write for a probability of nothing, which JSON has no word for.
NEVER = -9999.0


@dataclass(frozen=True)
class Token:
    """A token that was written, its log-probability, and the most likely tokens at its place with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]

    @property
    def most_absent(self) -> float:
        """The most that the log-probability of a token can be that is not among `top`.

        It is at most the least of those listed, and at most what all of them leave.
        """
        left = 1.0 - math.fsum(math.exp(logprob) for _, logprob in self.top)
        # The probabilities of a whole vocabulary add up to 1 only as far as their writer rounds.
        rest = math.log(left) if left > 1e-9 else NEVER
        return min([rest, *(logprob for _, logprob in self.top)])


def keep(told: Any) -> str | None:
    """The `logprobs` of a choice as a text; None where there are none. Raises ValueError, TypeError or LookupError."""
    content = told.get("content") if isinstance(told, Mapping) else None
    if not content:
        return None
    rows = [[*_shown(token), [_shown(other) for other in token.get("top_logprobs") or ()]] for token in content]
    return orjson.dumps(rows).decode()


def tokens(kept: str | None) -> tuple[Token, ...]:
    """The tokens of a stored answer; none where no log-probabilities are stored."""
    return tuple(
        Token(text, logprob, tuple((other, value) for other, value in top))
        for text, logprob, top in (orjson.loads(kept) if kept else ())
    )


def _shown(token: Mapping[str, Any]) -> list[Any]:
    text, logprob = token["token"], token["logprob"]
    if not isinstance(text, str):
        raise TypeError("a token is no text")
    # A log-probability of minus infinity, where a server writes what JSON has no word for.
    return [text, NEVER if logprob is None else float(logprob)]
