"""What a student is taught to write: the order in its tags, after a chain whose numbers are those of its prompt.

    response(order, renumber_chain(chain, kept))      # <think> chain </think> <answer> [2] > [1] </answer>
    response(order)                                   # <answer> [2] > [1] </answer>
    scored_response(7, sentences_on(chain, 2))        # <think> what the chain says of [3] </think> <answer> 7 </answer>

Training and export make their targets here, so that a row reads alike in both. Deliberately absent: budgets of tokens,
which need a tokenizer (training/examples.py).
"""

import re
from collections.abc import Mapping, Sequence

from ranking.parsing import format_order

CITATION = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TAG = re.compile(r"</?(?:think|answer)>")


def response(order: Sequence[int], chain: str | None = None) -> str:
    """The response for a 0-based `order`, opened by `chain` where one is given."""
    answer = f"<answer> {format_order(order)} </answer>"
    return answer if chain is None else f"<think> {chain} </think> {answer}"


def renumber_chain(chain: str, kept: Sequence[int]) -> str:
    """The chain with its `[n]` renumbered to the kept positions; a sentence that cites a lost passage goes whole."""
    place = {old + 1: new + 1 for new, old in enumerate(kept)}
    sentences = []
    for sentence in SENTENCE_END.split(" ".join(_TAG.sub(" ", chain).split())):
        cited = [int(number) for group in CITATION.findall(sentence) for number in group.split(",")]
        if all(number in place for number in cited):
            sentences.append(CITATION.sub(lambda match: _renumbered(match[1], place), sentence))
    return " ".join(sentences).strip()


def scored_response(score: int, chain: str) -> str:
    """The response that gives one passage's score."""
    return (
        f"<think> {chain} </think> <answer> {score} </answer>"
        if chain
        else f"<think></think> <answer> {score} </answer>"
    )


def sentences_on(chain: str, position: int) -> str:
    """The sentences of a listwise chain that cite one passage alone, its number written as `this passage`."""
    said = []
    for sentence in SENTENCE_END.split(" ".join(_TAG.sub(" ", chain).split())):
        cited = {int(number) for group in CITATION.findall(sentence) for number in group.split(",")}
        if cited == {position + 1}:
            named = CITATION.sub("this passage", sentence)
            said.append(named[:1].upper() + named[1:])
    return " ".join(said)


def _renumbered(group: str, place: Mapping[int, int]) -> str:
    return "[" + ", ".join(str(place[int(number)]) for number in group.split(",")) + "]"
