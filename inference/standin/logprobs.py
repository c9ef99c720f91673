"""Log-probabilities of the stand-in teacher's answers: its evidence shown as a distribution, not a language model's.

    token_logprobs("[2] > [1]", (("2", 2.65), ("1", 1.15)), top=5)

In a ranking every passage number, or letter, stands for a choice among the passages not yet placed; its distribution
is the softmax of their evidence, so `top_logprobs` lists the best of the rest, and a sound ranking takes the first of
them. Yes and no, and a score, are such choices, too. Every other token (brackets, signs, words) has no alternative:
its log-probability is 0.

Absent on purpose: a distribution over anything else. The tokens are words, numbers and signs, each with the white
space before it, so that they join to exactly the content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

_PIECE = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")

Ranked = Sequence[tuple[str, float]]


def token_logprobs(content: str, ranked: Ranked, top: int, bare: bool = False) -> list[dict[str, Any]]:
    """One entry per token; `ranked` holds the names that may stand at its places and their evidence, best first.

    Numbers of passages stand in brackets; `bare` are letters, yes, no and scores.
    """
    pieces = _PIECE.findall(content)
    rest = list(ranked)
    entries = []
    for before, piece, after in zip(["", *pieces], pieces, [*pieces[1:], ""], strict=False):
        # Brackets on both sides tell a placed passage from a number that was cut off or stands in a sentence.
        held = bare or (before.strip() == "[" and after == "]")
        place = _place(rest, piece.strip()) if held else None
        if place is None:
            entries.append({**_shown(piece, 0.0), "top_logprobs": [_shown(piece, 0.0)][:top]})
            continue
        logs = _log_softmax([evidence for _, evidence in rest])
        blank = piece[: len(piece) - len(piece.lstrip())]
        choices = [_shown(f"{blank}{name}", log) for (name, _), log in zip(rest, logs, strict=True)]
        entries.append({**choices[place], "top_logprobs": choices[:top]})
        del rest[place]
    return entries


def _place(rest: Ranked, name: str) -> int | None:
    return next((i for i, (other, _) in enumerate(rest) if other == name), None)


def _log_softmax(values: Sequence[float]) -> list[float]:
    most = max(values)
    total = most + math.log(math.fsum(math.exp(value - most) for value in values))
    return [value - total for value in values]


def _shown(token: str, logprob: float) -> dict[str, Any]:
    # -0.0 would be a second way to write certainty.
    return {"token": token, "logprob": min(0.0, logprob) + 0.0, "bytes": list(token.encode("utf-8", "replace"))}
