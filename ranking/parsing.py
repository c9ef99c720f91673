"""From what a model wrote to what it meant: strict parsers for labels and rewards, a lenient one for inference.

A list is right only if it is exactly a permutation of [1] … [n] in the grammar `[i] > [j] > …`. There is no digit
hunting, and `[0]` is a fault (both are bugs of ReasonRank's released reward, METHOD section 4). Positions are
0-based everywhere outside the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# One form for grammar and reader: an id that one takes and the other skips would pass a wrong list for right.
_ID = r"\[(?:0|[1-9][0-9]{0,5})\]"
_LIST = re.compile(rf"\s*{_ID}(\s*>\s*{_ID})*\s*")
_IDS = re.compile(rf"\s*{_ID}([\s,]*{_ID})*\s*\.?\s*")
_NUMBER = re.compile(r"\[(0|[1-9][0-9]{0,5})\]")
_TAGS = _THINK, _END_THINK, _ANSWER, _END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
_THINK_SIZE, _END_THINK_SIZE, _ANSWER_SIZE, _END_ANSWER_SIZE = map(len, _TAGS)


class Fault(StrEnum):
    """What is wrong with an answer: the outer form (the tags) or the inner one (the list)."""

    TAGS = "tags"
    LIST = "list"


@dataclass(frozen=True)
class Answer:
    """A parsed answer. `order` holds 0-based positions, best first, and is None exactly when there is a fault."""

    order: tuple[int, ...] | None
    chain: str
    fault: Fault | None


def parse_ranking(text: str, count: int) -> Answer:
    """A bare list as a teacher replies it, strictly a permutation of [1] … [count]."""
    if not _LIST.fullmatch(text):
        return Answer(None, "", Fault.LIST)
    order = tuple(int(number) - 1 for number in _NUMBER.findall(text))
    if sorted(order) != list(range(count)):
        return Answer(None, "", Fault.LIST)
    return Answer(order, "", None)


def answer_within_tags(text: str, think: bool = True) -> str | None:
    """The answer of `<think> chain </think> <answer> answer </answer>`, or of `<answer> answer </answer>` alone.

    None where the tags are missing, doubled or out of order, or where anything but white space stands beside them.
    """
    body = text.strip()
    opens = body.rfind(_ANSWER)
    if opens < 0 or not body.endswith(_END_ANSWER):
        return None
    answer = body[opens + _ANSWER_SIZE : -_END_ANSWER_SIZE]
    closed, tags, another = 0, 2, "<" in answer
    if think:
        closes = body.rfind(_END_THINK, 0, opens)
        if closes < 0 or not body.startswith(_THINK):
            return None
        closed, tags = closes + _END_THINK_SIZE, 4
        another = another or body.find("<", _THINK_SIZE, closes) >= 0
    if closed != opens and not body[closed:opens].isspace():
        return None
    # Whether another < is one tag too many is the dearer question.
    return None if another and sum(map(body.count, _TAGS)) != tags else answer


def parse_answer(text: str, count: int, think: bool = True) -> Answer:
    """A student's `<think> chain </think> <answer> list </answer>`, or without the chain where `think` is False.

    Fault.TAGS when the tags are missing, doubled or out of order (reward -1); Fault.LIST when the tags are right and
    the list is not a permutation (reward 0).
    """
    listed = answer_within_tags(text, think)
    if listed is None:
        return Answer(None, "", Fault.TAGS)
    chain = text.partition(_END_THINK)[0].lstrip().removeprefix(_THINK) if think else ""
    inner = parse_ranking(listed, count)
    return Answer(inner.order, chain.strip(), inner.fault)


def parse_answers(
    texts: Sequence[str], counts: Sequence[int], think: bool = True
) -> tuple[NDArray[np.int64], tuple[Fault | None, ...]]:
    """What parse_answer gives, for B texts at a fraction of the time: orders (B, N) and faults.

    N is the largest count; a row holds its 0-based positions, best first, filled up with -1, and -1 alone where there
    is a fault.
    """
    answers = [answer_within_tags(text, think) for text in texts]
    listed = ["" if answer is None else answer.strip() for answer in answers]
    orders, fine = _read_spaced(listed, np.asarray(counts, np.int64))
    # What is written in another way may be right as well.
    for row in np.flatnonzero(~fine).tolist():
        if listed[row] and (order := parse_ranking(listed[row], counts[row]).order) is not None:
            orders[row, : counts[row]] = order
            fine[row] = True
    return orders, faults_of(answers, fine)


def faults_of(answers: Sequence[str | None], fine: NDArray[np.bool_]) -> tuple[Fault | None, ...]:
    """Of B answers (None where their tags are wrong), those that are not `fine` have a fault: of the tags or inside."""
    told = zip(answers, fine.tolist(), strict=True)
    return tuple([None if right else Fault.TAGS if answer is None else Fault.LIST for answer, right in told])


def _read_spaced(texts: Sequence[str], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Orders (B, N) of those texts that are letter for letter what format_order writes, up to [99]; and which they are.

    All are read at once, as bytes: `[`, one digit or two, `]`, and then either ` > [` or the end of the text.
    """
    # A line break stands where a text ends, and zeros where the last one's end is looked past.
    data = np.frombuffer("\n".join([*texts, "\0" * 8]).encode("ascii", "replace"), np.uint8)
    four = np.ndarray(len(data) - 3, "<u4", data, strides=(1,))  # the four bytes from each place on
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(sizes + 1) - 1
    opens = np.flatnonzero(data == ord("["))
    upto = np.searchsorted(opens, ends)
    lengths = np.diff(upto, prepend=0)
    tens, ones = data[opens + 1] - np.uint8(ord("0")), data[opens + 2] - np.uint8(ord("0"))
    short = ones == ord("]") - ord("0")
    behind = opens + 4 - short
    right = (tens > 0) & (tens < 10) & (short | (ones < 10)) & (data[behind - 1] == ord("]"))
    right &= (four[behind] == int.from_bytes(b" > [", "little")) | (behind == np.repeat(ends, lengths))
    number = np.where(short, tens, 10 * tens + ones)
    width = counts.max(initial=0)
    position = np.where(right & (number <= width), number, 0).astype(np.int64) - 1
    # A place for each position and one behind them, which is where -1 comes to lie.
    seen = np.zeros((len(texts), width + 1), bool)
    seen.ravel()[np.repeat(np.arange(len(texts)) * (width + 1), lengths) + position] = True
    shown = np.arange(width) < counts[:, None]
    fine = (lengths == counts) & ((seen[:, :width] & shown).sum(axis=1) == counts)
    fine &= np.append(opens, -1)[upto - lengths] == ends - sizes
    orders = np.full(shown.shape, -1)
    orders[shown & fine[:, None]] = position[np.repeat(fine, lengths)]
    return orders, fine


def parse_ids(text: str, count: int) -> tuple[int, ...] | None:
    """The 0-based positions of a mining reply such as `[2] [4]`, () for `None`, and None for anything else."""
    if text.strip().rstrip(".").lower() == "none":
        return ()
    if not _IDS.fullmatch(text):
        return None
    positions = tuple(int(number) - 1 for number in _NUMBER.findall(text))
    if len(set(positions)) != len(positions) or any(not 0 <= position < count for position in positions):
        return None
    return positions


def recover_order(text: str, count: int) -> tuple[int, ...]:
    """The best order a malformed answer still gives: its valid ids in order, then the window's order for the rest.

    METHOD section 5: a malformed answer keeps the window's order for what is missing. Read after the last `<answer>`
    or, without one, after `</think>`; a chain that mentions ids is never read as a ranking.
    """
    tail = text.rsplit("<answer>", 1)[-1] if "<answer>" in text else text.rsplit("</think>", 1)[-1]
    if "<think>" in tail:
        tail = ""
    named = [int(number) - 1 for number in _NUMBER.findall(tail)]
    kept = list(dict.fromkeys(position for position in named if 0 <= position < count))
    return tuple(kept + [position for position in range(count) if position not in set(kept)])


def describe_list_fault(text: str, count: int) -> str | None:
    """What is wrong with a bare list, in words that a repair turn can show to the teacher; None when it is right."""
    # As nearly every teacher writes it; the grammar below takes five times as long.
    listed = text.split(" > ")
    if len(listed) == count and _ids(count) == set(listed):
        return None
    if not text.strip():
        return "the reply is empty"
    if not _LIST.fullmatch(text):
        return "the reply must hold the identifiers alone, in the form [2] > [1] > [3]"
    numbers = [int(number) for number in _NUMBER.findall(text)]
    if sorted(numbers) == list(range(1, count + 1)):
        return None
    unknown = sorted({number for number in numbers if not 1 <= number <= count})
    if unknown:
        return f"there is no passage {_join(unknown)}; the identifiers run from [1] to [{count}]"
    repeated = sorted({number for number in numbers if numbers.count(number) > 1})
    if repeated:
        return f"{_join(repeated)} stands more than once"
    return f"{_join(sorted(set(range(1, count + 1)) - set(numbers)))} is missing"


@lru_cache(maxsize=64)
def _ids(count: int) -> frozenset[str]:
    return frozenset(f"[{number}]" for number in range(1, count + 1))


def describe_ids_fault(text: str, count: int) -> str | None:
    """What is wrong with a mining reply, in words for a repair turn; None when it is right."""
    if parse_ids(text, count) is not None:
        return None
    return f"the reply must hold identifiers from [1] to [{count}], each at most once, as in [2] [4], or the word None"


def format_order(order: Sequence[int]) -> str:
    """0-based positions as `[i] > [j] > …`; the inverse of parse_ranking."""
    return " > ".join(f"[{position + 1}]" for position in order)


def _join(numbers: Sequence[int]) -> str:
    return " ".join(f"[{number}]" for number in numbers)
