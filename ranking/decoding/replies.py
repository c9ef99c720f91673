"""What a model's words, or its logits, mean as a `Reply`; what is malformed keeps the order shown and is named.

    read_order(call, text, think)                      # [2] > [1] > [3]                   Task.ORDER
    read_list(call, text)                              # the same without tags, as a teacher replies
    read_pick(call, text, think)                       # [2]                               Task.BEST and Task.WORST
    read_first_token(call, logprobs)                   # A 0.7, C 0.2, B 0.1               Task.FIRST_TOKEN
    read_grade(call, logprobs, {"0": 0, ..., "4": 4})  # expected grade                    Task.SCORE
    read_said_score(call, text, probability, 10)       # the score said x its probability  Task.SCORE

Faults are `tags` and `list` (ranking.parsing) for words, `unlisted` where the logits have not all identifiers or no
score token at all, `no_score` where a score is not said or out of its range. Answers stand in tags as `parse_answer`
wants them.

An endpoint lists the likeliest tokens alone, 20 at most, and a token may be written with blanks before it
(`by_word`). What it does not list is less likely than what it does: an identifier that is not there stands behind
those that are, in the order shown, and is counted; a score token that is not there counts with the most probability
that it can have (`absent`), so that a score errs towards the middle and never beyond what is known. Absent on purpose:
asking for logits, which each backend does in its own way.
"""

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ranking.decoding.calls import Call, Reply, Task
from ranking.parsing import Answer, Fault, parse_answer, parse_ids, parse_ranking, recover_order

LETTERS = string.ascii_uppercase
UNLISTED = "unlisted"
NO_SCORE = "no_score"
_THINK_ANSWER = re.compile(r"\s*<think>.*?</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_ANSWER = re.compile(r"\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")
_NUMBER = re.compile(r"\d{1,6}(?:\.\d{1,6})?")


@dataclass(frozen=True)
class Mass:
    """An expected value and the probability of the tokens that it was read from."""

    value: float
    covered: float


def read_order(call: Call, text: str, think: bool = True) -> Reply:
    """A permutation of the passages shown; of a malformed one what can be recovered, then the order shown."""
    return _ordered(call, text, parse_answer(text, len(call.positions), think))


def read_list(call: Call, text: str) -> Reply:
    """A bare permutation without tags; of a malformed one what can be recovered, then the order shown."""
    return _ordered(call, text, parse_ranking(text, len(call.positions)))


def _ordered(call: Call, text: str, answer: Answer) -> Reply:
    order = recover_order(text, len(call.positions)) if answer.order is None else answer.order
    return Reply(tuple(call.positions[place] for place in order), fault=answer.fault)


def read_pick(call: Call, text: str, think: bool = True) -> Reply:
    """The one passage that is named as best (or worst); without one, the first (or last) of the order shown.

    More than one name is Fault.LIST, and the first of them counts.
    """
    answer = (_THINK_ANSWER if think else _ANSWER).fullmatch(text)
    fault = Fault.TAGS if answer is None or len(_TAG.findall(text)) != (4 if think else 2) else None
    named = parse_ids(answer["answer"], len(call.positions)) if fault is None and answer else None
    if fault is None and (named is None or len(named) != 1):
        fault = Fault.LIST
    if not named:
        # What recover_order puts first was named, or else is what stood first in the order shown.
        first = recover_order(text, len(call.positions))[0]
        named = (first,) if f"[{first + 1}]" in text.rsplit("</think>", 1)[-1] else ()
    if not named:
        return Reply(call.positions, fault=fault)
    chosen = call.positions[named[0]]
    others = tuple(position for position in call.positions if position != chosen)
    return Reply((*others, chosen) if call.task is Task.WORST else (chosen, *others), fault=fault)


def read_first_token(call: Call, logprobs: Mapping[str, float], identifiers: str = LETTERS) -> Reply:
    """Passages by the log probability of their identifiers, falling (FIRST, section 3); passage i is identifiers[i].

    Identifiers that are not among `logprobs` (an endpoint lists its 20 most likely) stand behind, as they were shown.
    Raises ValueError where there are more passages than identifiers.
    """
    if len(call.positions) > len(identifiers):
        raise ValueError(f"{len(call.positions)} passages want as many identifiers; there are {len(identifiers)}.")
    listed = {letter: logprob for letter, logprob in logprobs.items() if not math.isnan(logprob)}
    known = [listed.get(letter) for letter, _ in zip(identifiers, call.positions, strict=False)]
    order = sorted(range(len(known)), key=lambda place: (known[place] is None, -(known[place] or 0.0)))
    return Reply(tuple(call.positions[place] for place in order), fault=UNLISTED if None in known else None)


def read_grade(
    call: Call, logprobs: Mapping[str, float], grades: Mapping[str, float], absent: float = -math.inf
) -> Reply:
    """The expected grade over the score tokens of `grades`; with {"yes": 1, "no": 0} it is the probability of yes."""
    mass = expected(logprobs, grades, absent)
    return Reply(call.positions, fault=UNLISTED) if mass is None else Reply(call.positions, mass.value)


def expected(logprobs: Mapping[str, float], values: Mapping[str, float], absent: float = -math.inf) -> Mass | None:
    """Expectation of `values` over their tokens, probabilities renormalised; None where none of them is listed.

    `absent` is the most that the log probability of a token can be that is not listed; such tokens count with it.
    """
    listed = {token: math.exp(p) for token in values if not math.isnan(p := logprobs.get(token, math.nan))}
    covered = sum(listed.values())
    if not covered > 0:
        return None
    weights = {token: listed.get(token, math.exp(absent)) for token in values}
    return Mass(sum(weight * values[token] for token, weight in weights.items()) / sum(weights.values()), covered)


def by_word(top: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The log probability of each word, of tokens as an endpoint writes them: with or without blanks around it."""
    words: dict[str, float] = {}
    for token, logprob in top:
        word = token.strip()
        words[word] = _log_add(words[word], logprob) if word in words else logprob
    return words


def _log_add(one: float, other: float) -> float:
    return max(one, other) + math.log1p(math.exp(-abs(one - other)))


def number_places(written: Sequence[str]) -> list[int]:
    """Which tokens say the number in `<answer>`; `written` is what stands there after each token."""
    digits = [sum(sign.isdigit() for sign in text.partition("<answer>")[2].partition("<")[0]) for text in written]
    return [place for place, count in enumerate(digits) if count > (digits[place - 1] if place else 0)]


def read_said_score(call: Call, text: str, probability: float, highest: float, think: bool = True) -> Reply:
    """The score said, from 0 to `highest`, times the probability of the tokens that say it (ERank)."""
    answer = (_THINK_ANSWER if think else _ANSWER).fullmatch(text)
    said = answer["answer"].strip() if answer else ""
    if answer is None:
        return Reply(call.positions, fault=Fault.TAGS)
    if not _NUMBER.fullmatch(said) or float(said) > highest:
        return Reply(call.positions, fault=NO_SCORE)
    return Reply(call.positions, float(said) * probability)
