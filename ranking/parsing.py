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

# One form for grammar and reader: an id that one takes and the other skips would pass a wrong list for right.
_ID = r"\[(?:0|[1-9][0-9]{0,5})\]"
_LIST = re.compile(rf"\s*{_ID}(\s*>\s*{_ID})*\s*")
_IDS = re.compile(rf"\s*{_ID}([\s,]*{_ID})*\s*\.?\s*")
_NUMBER = re.compile(r"\[(0|[1-9][0-9]{0,5})\]")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


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
    chain, opening, rest = body.partition("<answer>")
    if not opening or not rest.endswith("</answer>"):
        return None
    chain = chain.rstrip()
    if not (chain.startswith("<think>") and chain.endswith("</think>") if think else chain == ""):
        return None
    if sum(map(body.count, _TAGS)) != (4 if think else 2):
        return None
    return rest.removesuffix("</answer>").strip()


def parse_answer(text: str, count: int, think: bool = True) -> Answer:
    """A student's `<think> chain </think> <answer> list </answer>`, or without the chain where `think` is False.

    Fault.TAGS when the tags are missing, doubled or out of order (reward -1); Fault.LIST when the tags are right and
    the list is not a permutation (reward 0).
    """
    listed = answer_within_tags(text, think)
    if listed is None:
        return Answer(None, "", Fault.TAGS)
    chain = text.partition("</think>")[0].lstrip().removeprefix("<think>") if think else ""
    inner = parse_ranking(listed, count)
    return Answer(inner.order, chain.strip(), inner.fault)


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
