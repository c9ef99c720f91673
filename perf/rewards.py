"""Judging rollouts, side by side: ranking.rewards on a whole batch, and ReasonRank's reward answer by answer.

    python perf/rewards.py [--completions 4096] [--passages 20] [--chain 1500] [--rounds 5] [--repeats 3]

Well-formed completions of random orders, eight to a prompt, each with a chain before its list. `ours` is one call of
MultiViewReward. `one by one` is what ReasonRank's released reward does to each answer, in other words: a search for the
tags, the digits between them letter by letter, a pytrec_eval evaluator of one query for NDCG@10 and Recall@10, and a
RankingSimilarity of the rbo package. Both run in this process; a figure is the quickest of the repeats of a round, a
ratio the median over the rounds. Exits with 1 where the rewards differ by more than 1e-9 or ours is not at least 30
times as quick.

Absent on purpose: malformed answers, for which the released reward pays by mistake (the tests show it).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

import numpy as np
import pytrec_eval
from numpy.typing import ArrayLike
from rbo import RankingSimilarity

from ranking.parsing import format_order
from ranking.rewards import MultiViewReward

LEAST_RATIO = 30
LARGEST_DIFFERENCE = 1e-9
TAGGED = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)
THOUGHT = "the passage says that plants need light so it helps more than [2] or [7] which only name it"


@dataclass(frozen=True)
class Rollouts:
    """B completions, and of the window of each: the good positions, the teacher's order, and that order as text."""

    texts: list[str]
    relevant: list[list[int]]
    teacher_order: list[list[int]]
    labels: list[str]


def rollouts(completions: int, passages: int, chain_chars: int, group: int = 8, seed: int = 0) -> Rollouts:
    """Well-formed completions, `group` of them for each prompt, with chains of about `chain_chars` characters."""
    dice = random.Random(seed)
    words = THOUGHT.split()
    texts, relevant, teachers = [], [], []
    for number in range(completions):
        if number % group == 0:
            teacher = dice.sample(range(passages), passages)
            good = dice.sample(range(passages), dice.randint(1, passages // 2))
        chain = " ".join(dice.choices(words, k=chain_chars // 5))
        order = dice.sample(range(passages), passages)
        texts.append(f"<think> {chain} </think>\n<answer> {format_order(order)} </answer>")
        relevant.append(good)
        teachers.append(teacher)
    return Rollouts(texts, relevant, teachers, [format_order(teacher) for teacher in teachers])


def one_by_one(batch: Rollouts) -> list[float]:
    """The released reward of each answer in its turn."""
    return [_released(*row) for row in zip(batch.texts, batch.labels, batch.relevant, strict=True)]


def _released(text: str, label: str, relevant: Sequence[int]) -> float:
    found = TAGGED.search(text)
    if found is None:
        return -1.0
    said, wanted = _digits(found[1]), _digits(label)
    if len(said) != len(wanted) or len(set(said)) != len(set(wanted)):
        return 0.0
    run = {"1": {str(int(number) - 1): -rank for rank, number in enumerate(said, start=1)}}
    qrels = {"1": {str(position): 1 for position in relevant}}
    values = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10"}).evaluate(run)["1"]
    return values["ndcg_cut_10"] + 0.2 * values["recall_10"] + 0.1 * RankingSimilarity(said, wanted).rbo()


def _digits(text: str) -> list[str]:
    return "".join(letter if letter.isdigit() else " " for letter in text).split()


def quickest(judge: Callable[[], ArrayLike], repeats: int) -> tuple[float, ArrayLike]:
    """Seconds of the quickest of `repeats` calls, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        rewards = judge()
        seconds.append(time.perf_counter() - started)
    return min(seconds), rewards


def main() -> None:
    parser = argparse.ArgumentParser(description="Judging rollouts, all at once and one by one.")
    parser.add_argument("--completions", type=int, default=4_096)
    parser.add_argument("--passages", type=int, default=20, help="passages a completion ranks")
    parser.add_argument("--chain", type=int, default=1_500, help="characters of a chain, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="in a round; the quickest counts")
    given = parser.parse_args()

    batch = rollouts(given.completions, given.passages, given.chain)
    reward = MultiViewReward()
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    print(f"{given.completions} completions of {given.passages} passages, chains of about {given.chain} characters;")
    print(f"{machine}, load {os.getloadavg()[0]:.1f} at the start.")
    print(f"pytrec_eval {version('pytrec-eval-terrier')}, rbo {version('rbo')}, NumPy {np.__version__}.\n")

    ours, theirs, gaps = [], [], []
    for _ in range(given.rounds):
        seconds, values = quickest(
            lambda: reward(batch.texts, batch.relevant, batch.teacher_order).total, given.repeats
        )
        other, expected = quickest(lambda: one_by_one(batch), given.repeats)
        ours.append(seconds)
        theirs.append(other)
        gaps.append(float(np.abs(np.asarray(values) - np.asarray(expected)).max()))
    ratios = [other / seconds for other, seconds in zip(theirs, ours, strict=True)]
    print("| contestant | ms | min to max | µs a completion |\n| --- | ---: | ---: | ---: |")
    for name, all_seconds in (("ours", ours), ("one by one", theirs)):
        ms = [1000 * seconds for seconds in all_seconds]
        each = 1000 * median(ms) / given.completions
        print(f"| {name} | {median(ms):,.1f} | {min(ms):,.1f} to {max(ms):,.1f} | {each:,.1f} |")
    print(f"\nratio {median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), largest difference {max(gaps):.1e}")
    if median(ratios) < LEAST_RATIO or max(gaps) > LARGEST_DIFFERENCE:
        sys.exit(f"Not as it has to be: a ratio of {LEAST_RATIO}, and rewards equal to {LARGEST_DIFFERENCE:.0e}.")


if __name__ == "__main__":
    main()
