"""What the stand-in says to the prompts that trained rerankers read: a list, a pick, letters, yes or no, a score.

    said = student_answer(system, user)        # None where it is no such prompt

It judges by the same `lexical` evidence as ever; of a single passage that is the share of the query's words that it
holds. Where the prompt asks for reasoning first, the chain comes beside the answer, as from an endpoint that parses
reasoning; letters and yes or no come without any, so that an answer of one token is whole.

Absent on purpose: knowledge of the templates. It reads the form that the words of a prompt ask for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from inference.standin.lexical import best_first, weigh

_LISTED = re.compile(r"^(?:Rank all|Which of the) \d+ passages\b.* (?:for|answer) the query:", re.M)
_SINGLE = re.compile(r"^(?P<how>Does|How much does) the passage help to answer the query\?", re.M)
_PASSAGE = re.compile(r"^\[(\d+|[A-Z])\] ?(.*)$", re.M)
_HIGHEST = re.compile(r"to (\d+) \(fully\)")
# How sure a share of the query's words makes: half of them is as good as none known.
STEEP = 6.0


@dataclass(frozen=True)
class StudentSaid:
    """A chain, an answer, and what could stand at its places with its evidence, best first; `bare`: not in brackets."""

    reasoning: str
    content: str
    ranked: tuple[tuple[str, float], ...]
    bare: bool = True


def student_answer(system: str, user: str) -> StudentSaid | None:
    """The answer to a prompt for a trained reranker, or None where it is none."""
    if not user.startswith("Query:"):
        return None
    if listed := _LISTED.search(user):
        query, _, listing = user[: listed.start()].rpartition("\nPassages:\n")
        return _of_a_list(system, query.removeprefix("Query:"), listing, listed[0].startswith("Which"))
    if single := _SINGLE.search(user):
        query, _, text = user[: single.start()].rpartition("\nPassage: ")
        return _of_one(system, query.removeprefix("Query:"), text, single["how"] == "Does")
    return None


def _of_a_list(system: str, query: str, listing: str, pick: bool) -> StudentSaid | None:
    shown = _PASSAGE.findall(listing)
    if not shown:
        return None
    weighed = weigh(query, None, [text for _, text in shown])
    order = best_first(weighed.evidence)
    ranked = tuple((shown[i][0], weighed.evidence[i].total) for i in order)
    if shown[0][0] == "A":
        return StudentSaid("", " > ".join(name for name, _ in ranked), ranked)
    named = [f"[{name}]" for name, _ in ranked]
    chain = f"{named[0]} shares most with the query." if "<think>" in system else ""
    return StudentSaid(chain, f"<answer> {' > '.join(named[:1] if pick else named)} </answer>", ranked, bare=False)


def _of_one(system: str, query: str, text: str, yes_or_no: bool) -> StudentSaid:
    weighed = weigh(query, None, [text])
    share = len(set(weighed.evidence[0].shared)) / max(1, len(weighed.topic))
    if yes_or_no:
        # The softmax of the two is the logistic function of the first.
        answers = sorted((("yes", STEEP * (share - 0.5)), ("no", 0.0)), key=lambda said: -said[1])
        return StudentSaid("", answers[0][0], tuple(answers))
    found = _HIGHEST.search(system)
    highest = int(found[1]) if found else 10
    scores = sorted(((str(n), -abs(n - share * highest)) for n in range(highest + 1)), key=lambda said: -said[1])
    chain = f"The passage holds {math.floor(100 * share)} % of the query's words." if "<think>" in system else ""
    return StudentSaid(chain, f"<answer> {scores[0][0]} </answer>", tuple(scores))
