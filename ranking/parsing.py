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
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

# One form for grammar and reader: an id that one takes and the other skips would pass a wrong list for right.
_ID = r"\[(?:0|[1-9][0-9]{0,5})\]"
_LIST = re.compile(rf"\s*{_ID}(\s*>\s*{_ID})*\s*")
_IDS = re.compile(rf"\s*{_ID}([\s,]*{_ID})*\s*\.?\s*")
_NUMBER = re.compile(r"\[(0|[1-9][0-9]{0,5})\]")
_TAGS = _THINK, _END_THINK, _ANSWER, _END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
_THINK_SIZE, _END_THINK_SIZE, _ANSWER_SIZE, _END_ANSWER_SIZE = map(len, _TAGS)
_WHITE = np.array([chr(byte).isspace() for byte in range(128)] + [False] * 128)


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
    """What stands in `<think> chain </think> <answer> … </answer>`, or in `<answer> … </answer>` alone; stripped.

    None where the tags are missing, doubled or out of order, or where anything but white space stands beside them.
    """
    body = text.strip()
    opens = body.rfind(_ANSWER)
    if opens < 0 or not body.endswith(_END_ANSWER):
        return None
    answer = body[opens + _ANSWER_SIZE : -_END_ANSWER_SIZE].strip()
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
    count = np.asarray(counts, np.int64)
    orders = np.full((len(texts), count.max(initial=0)), -1)
    faults: list[Fault | None] = [None] * len(texts)
    for row in np.flatnonzero(~_read_usual(texts, count, think, orders)).tolist():
        answer = parse_answer(texts[row], counts[row], think)
        faults[row] = answer.fault
        if answer.order is not None:
            orders[row, : len(answer.order)] = answer.order
    return orders, tuple(faults)


def _read_usual(
    texts: Sequence[str], counts: NDArray[np.int64], think: bool, orders: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of B texts are right in the usual form, which is read here: what they say is put into `orders` (B, N).

    A chain without `<`; tags with two white spaces at most beside them; between them just what format_order writes, up
    to [99]. From the end of the chain on, all texts are read at once, as bytes.
    """
    bodies = list(map(str.strip, texts))
    begins = map(str.find, bodies, repeat("<"), repeat(_THINK_SIZE if think else 0))
    tails = [body[begin:] for body, begin in zip(bodies, begins, strict=True)]
    usual = np.fromiter(map(str.startswith, bodies, repeat(_THINK if think else _ANSWER)), bool, len(texts))
    # A line break stands where a text ends, and zeros where the last one's end is looked past.
    data = np.frombuffer("\n".join([*tails, "\0" * 16]).encode("ascii", "replace"), np.uint8)
    four, eight = (
        np.ndarray(len(data) - 7, kind, data, strides=(1,)) for kind in ("<u4", "<u8")
    )  # bytes from there on
    ends = np.cumsum(np.fromiter(map(len, tails), np.int64, len(tails)) + 1) - 1

    def blank(start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
        long, white = stop - start, _WHITE[data[start]]
        return (long == 0) | white & ((long == 1) | (long == 2) & _WHITE[data[start + 1]])

    tags = np.flatnonzero(data == ord("<"))
    upto = np.searchsorted(tags, ends)
    usual &= np.diff(upto, prepend=0) == (3 if think else 2)
    chain_end, answer, answer_end = (np.append(tags, [0, 0, 0])[upto - back] for back in (3, 2, 1))
    usual &= (eight[answer] == _bytes(_ANSWER)) & (eight[answer_end] == _bytes(_END_ANSWER[:8]))
    usual &= (data[answer_end + 8] == ord(">")) & (answer_end + _END_ANSWER_SIZE == ends)
    if think:
        usual &= (eight[chain_end] == _bytes(_END_THINK)) & blank(chain_end + _END_THINK_SIZE, answer)

    ids = np.flatnonzero(data == ord("["))
    upto = np.searchsorted(ids, ends)
    lengths = np.diff(upto, prepend=0)
    begun = four[ids]
    tens, ones, last = ((begun >> bits).astype(np.uint8) for bits in (8, 16, 24))
    short = ones == ord("]")
    behind = ids + 4
    behind -= short
    tens, ones = tens - np.uint8(ord("0")), ones - np.uint8(ord("0"))
    right = (tens > 0) & (tens < 10) & (short | (ones < 10) & (last == ord("]")))
    followed = four[behind] == _bytes(" > [")
    followed[upto[lengths > 0] - 1] = True
    usual &= (lengths > 0) & (lengths == counts)
    usual &= blank(answer + _ANSWER_SIZE, np.append(ids, 0)[upto - lengths])
    usual &= blank(np.append(behind, 0)[upto - 1], answer_end)

    width = orders.shape[1]
    number = np.where(short, tens, 10 * tens + ones)
    position = np.where(right & followed & (number <= width), number, 0).astype(np.int64)
    position -= 1
    # A place for each position and one behind them, which is where -1 comes to lie.
    seen = np.zeros((len(texts), width + 1), bool)
    place = np.repeat(np.arange(len(texts)) * (width + 1), lengths)
    place += position
    seen.ravel()[place] = True
    shown = np.arange(width) < counts[:, None]
    usual &= (seen[:, :width] & shown).sum(axis=1) == counts
    orders[shown & usual[:, None]] = position[np.repeat(usual, lengths)]
    return usual


def _bytes(text: str) -> int:
    return int.from_bytes(text.encode("ascii"), "little")


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
