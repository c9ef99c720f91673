"""Rerankers made of a formula: perfect, reversed, random and garbage-talking, for any decoder.

`worth` says of each position how much it helps: higher is better, and no two are alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ranking.decoding.calls import Call, Decoder, Ranked, Reply, Task
from ranking.decoding.desk import Desk, Ticket
from ranking.decoding.replies import read_order, read_pick, read_said_score

Answer = Callable[[Call], Reply]


def perfect(worth: Sequence[float]) -> Answer:
    """Says what is true."""

    def answer(call: Call) -> Reply:
        order = tuple(sorted(call.positions, key=lambda position: -worth[position]))
        return Reply(order, score=worth[order[0]] if call.task is Task.SCORE else None)

    return answer


def reversed_of(worth: Sequence[float]) -> Answer:
    """Says the opposite."""
    return perfect([-value for value in worth])


def at_random(seed: int) -> Answer:
    """Says anything, in the right form."""
    dice = random.Random(seed)

    def answer(call: Call) -> Reply:
        order = tuple(dice.sample(call.positions, len(call.positions)))
        return Reply(order, score=dice.random() if call.task is Task.SCORE else None)

    return answer


def garbage(call: Call) -> Reply:
    """Talks about something else, and is read as a model's words are."""
    text = "As an AI I find all of these passages [very] interesting 0.7."
    if call.task in (Task.BEST, Task.WORST):
        return read_pick(call, text)
    if call.task is Task.SCORE:
        return read_said_score(call, text, 0.9, 10)
    return read_order(call, text)


@dataclass
class Decoded:
    """The orders that came out, and how they came about."""

    ranked: list[Ranked]
    tickets: list[Ticket] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """The final orders alone."""
        return [one.order for one in self.ranked]


def decode(counts: Sequence[int], decoder: Decoder, answer: Answer, seed: int | None = None) -> Decoded:
    """Run a desk to its end; with a seed, calls are taken and answered in a random order, a few at a time."""
    desk, dice = Desk(counts, decoder), random.Random(seed)
    in_hand: list[Ticket] = []
    seen: list[Ticket] = []
    while not desk.done:
        taken = desk.take(None if seed is None else dice.randint(0 if in_hand else 1, 3))
        in_hand += taken
        seen += taken
        place = 0 if seed is None else dice.randrange(len(in_hand))
        ticket = in_hand.pop(place)
        desk.put(ticket, answer(ticket.call))
    return Decoded(desk.ranked, seen, desk.rounds, dict(desk.faults))
