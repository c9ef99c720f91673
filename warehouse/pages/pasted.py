"""How other programs ask a checkpoint: the lines of its card (training.cards) that a person pastes.

    for one in pasted(card):                 # transformers, vLLM, RankLLM
        one.program, one.lines, one.said

Deliberately absent: the lines themselves. They are written when a model is trained, with what it was trained on.
"""

import re
from dataclasses import dataclass

SECTION = re.compile(r"^## How to ask it\n(?P<told>.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"^(?P<name>\w+):\n(?P<told>.*?)(?=^\w+:\n|\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```\w+\n(?P<lines>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Pasted:
    """A program, lines that it can be given as they stand (empty: it has no way), and what is said beside them."""

    program: str
    lines: str
    said: str


def pasted(card: str) -> tuple[str, list[Pasted]]:
    """What holds for all programs, and the lines for each; empty where the card says nothing of them."""
    section = SECTION.search(card)
    if section is None:
        return "", []
    # A program's name stands at the beginning of a line only outside of code.
    told = BLOCK.sub(lambda block: block[0].replace("\n", "\n\t"), section["told"])
    found = []
    for program in PROGRAM.finditer(told):
        words = program["told"].replace("\n\t", "\n")
        lines = "".join(block["lines"] for block in BLOCK.finditer(words))
        found.append(Pasted(program["name"], lines, " ".join(BLOCK.sub("", words).split())))
    return " ".join(PROGRAM.split(told)[0].split()), found
