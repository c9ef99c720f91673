"""What the stand-in teacher says: it reads a mining or ranking prompt and answers in the form that is asked for.

The prompt shows `Query:`, perhaps `Answer:`, then `Passages:` with one `[n] text` a line, and a line `Task:` whose
opening words name the task. The chain cites, for the best few passages, the words that they share with the query (and
with the answer, where one is shown), so that a reader can follow every judgement. Prompts that trained rerankers read
are answered by `students`.

It judges by `lexical` evidence and is not a language model. It does not read anything but the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.standin.lexical import Evidence, Weighed, best_first, helpful, misleading, weigh
from inference.standin.students import student_answer

VERSION = "stand-in-lexical-1"
_TASK = re.compile(r"^Task: (choose the passages that help|choose the passages that mislead|rank the passages)", re.M)
_PASSAGE = re.compile(r"^\[(\d+)\] ?(.*)$")
CITED, WORDS = 4, 5


@dataclass(frozen=True)
class Prompt:
    """The parts of a prompt that the stand-in reads; passages keep the numbers they stand under."""

    task: str
    query: str
    answer: str | None
    numbers: tuple[int, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """A chain and an answer; also what could stand at the answer's places with its evidence, best first.

    Of a ranking that is every passage by its number, of yes or no and of a score every answer; `bare` ones stand
    without brackets.
    """

    reasoning: str
    content: str
    ranked: tuple[tuple[str, float], ...] = ()
    bare: bool = False


def answer(messages: Sequence[Mapping[str, str]]) -> Said:
    """Answer the last prompt among the user's messages; a conversation without one gets a sentence that says so."""
    system = "\n".join(message.get("content") or "" for message in messages if message.get("role") == "system")
    for message in reversed(messages):
        if message.get("role") != "user":
            continue
        text = message.get("content") or ""
        if (prompt := read_prompt(text)) is not None:
            return _judge(prompt)
        if (said := student_answer(system, text)) is not None:
            return Said(said.reasoning, said.content, said.ranked, said.bare)
    return Said("", "The stand-in teacher answers only prompts that list passages and name a task.")


def read_prompt(text: str) -> Prompt | None:
    """The parts of a prompt, or None where the text is no such prompt."""
    task = _TASK.search(text)
    start = re.search(r"^Query: ?", text, re.M)
    if task is None or start is None:
        return None
    question, found, listing = text[start.end() : task.start()].rpartition("\nPassages:\n")
    if not found:
        return None
    query, shown, gold = question.partition("\nAnswer:")
    lines = [match for line in listing.splitlines() if (match := _PASSAGE.match(line))]
    return Prompt(
        task=task.group(1),
        query=query.strip(),
        answer=gold.strip() if shown else None,
        numbers=tuple(int(match.group(1)) for match in lines),
        passages=tuple(match.group(2) for match in lines),
    )


def _judge(prompt: Prompt) -> Said:
    weighed = weigh(prompt.query, prompt.answer, prompt.passages)
    if prompt.task.startswith("rank"):
        order = best_first(weighed.evidence)
        content = " > ".join(f"[{prompt.numbers[i]}]" for i in order)
        ranked = tuple((str(prompt.numbers[i]), weighed.evidence[i].total) for i in order)
        return Said(_ranking_chain(prompt, weighed, order), content, ranked)
    chosen = (helpful if prompt.task.endswith("help") else misleading)(weighed.evidence)
    content = " ".join(f"[{prompt.numbers[i]}]" for i in sorted(chosen, key=lambda i: prompt.numbers[i])) or "None"
    return Said(_mining_chain(prompt, weighed, chosen), content)


def _ranking_chain(prompt: Prompt, weighed: Weighed, order: Sequence[int]) -> str:
    sentences = [_about(weighed)]
    cited = [i for i in order[:CITED] if weighed.evidence[i].shared]
    sentences += [f"[{prompt.numbers[i]}] speaks of {_words(weighed.evidence[i])}." for i in cited]
    # The tempting one: the best passage further down that still shares a word.
    weak = next((i for i in reversed(order[CITED:]) if weighed.evidence[i].shared), None)
    if weak is not None:
        sentences.append(f"[{prompt.numbers[weak]}] shares little but '{weighed.evidence[weak].shared[0]}'.")
    if not cited:
        sentences.append("No passage shares a telling word with it, so the order is arbitrary.")
    else:
        places = [f"[{prompt.numbers[i]}]" for i in cited]
        then = f", then {' and '.join(places[1:3])}" if len(places) > 1 else ""
        sentences.append(f"So {places[0]} comes first{then}; the others share less.")
    return " ".join(sentences)


def _mining_chain(prompt: Prompt, weighed: Weighed, chosen: Sequence[int]) -> str:
    verdict = "" if prompt.task.endswith("help") else ", yet not what helps"
    sentences = [_about(weighed)]
    sentences += [f"[{prompt.numbers[i]}] shares {_words(weighed.evidence[i])}{verdict}." for i in chosen[:CITED]]
    if not chosen:
        sentences.append("No passage stands out.")
    return " ".join(sentences)


def _about(weighed: Weighed) -> str:
    return f"The query is about {_listed(weighed.topic[:3])}." if weighed.topic else "The query holds no telling word."


def _words(evidence: Evidence) -> str:
    return ", ".join(evidence.shared[:WORDS]) or "nothing"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
