"""Thirty nights of a house, as data: what is delivered, what goes wrong, and a ledger of what is owed.

The plan is the oracle: it knows which questions are new or changed, so how many calls a night may buy, which rows a
release may hold, and which model is the worse one, without asking the factory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from growing_sources import CALLS, Query

FIRST = date(2031, 1, 8)
NIGHT_USD, MONTH_USD = 0.6, 2.3
HELD_OUT = 20  # dev queries a domain, of all kinds from the beginning
HUMAN = "sea"


@dataclass(frozen=True)
class Night:
    """What differs from a night in which nothing changed.

    `new` are kinds of new training queries by domain, `reworded` and `taken` how many are changed or taken out. A `bad`
    domain's folder is delivered with poisoned queries and a judgement that is none. `arrives` come by the watched
    folder on the day before; `broken` ones among them cannot be read.
    """

    about: str
    new: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reworded: Mapping[str, int] = field(default_factory=dict)
    taken: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[str, ...] = ()
    outage: bool = False
    rough: bool = False
    worse: bool = False
    arrives: Mapping[str, Sequence[int]] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    outage_by_day: bool = False

    @property
    def delivers(self) -> bool:
        """Whether queries or passages come or go, which changes what is ranked, whoever asks a teacher about them."""
        return bool(self.new or self.arrives or self.reworded or self.taken)


NOTHING = Night("nothing has changed")
NIGHTS = (
    Night("the first delivery", new={"land": [0] * 14, "sea": [0] * 14}),
    NOTHING,
    Night("a few queries more", new={"land": [0] * 3}),
    Night("the teacher is down", new={"land": [0] * 2, "sea": [0] * 2}, outage=True),
    Night("the teacher is back"),
    Night("another kind of question", new={"land": [1] * 8, "sea": [1] * 8}),
    Night("one source turns bad, the other grows", new={"sea": [1, 1]}, bad=("land",)),
    Night("it is bad still", bad=("land",)),
    Night("it is mended, and grows", new={"land": [1, 1]}),
    Night("training is spoilt", new={"land": [0], "sea": [0]}, worse=True),
    Night("training is as it was"),
    Night("questions are put in other words", reworded={"land": 3, "sea": 2}),
    Night("another kind, and a teacher in a bad mood", new={"land": [2] * 8, "sea": [2] * 8}, rough=True),
    NOTHING,
    Night("more than a night can pay for", new={"land": [2] * 40}),
    Night("the rest of it"),
    Night("the rest of it, if there is any"),
    Night(
        "a newcomer by the watched folder, and one that cannot be read",
        arrives={"moor": [0, 1, 2, 0, 1, 2]}, broken=("swamp",),
    ),
    Night("another kind", new={"land": [3] * 8, "sea": [3] * 8}),
    Night(
        "a newcomer comes while the teacher is down, and is bad before it was ever labelled",
        arrives={"fen": [0, 1, 2, 3]}, outage_by_day=True, bad=("fen",), new={"sea": [3]},
    ),
    Night("the newcomer is mended"),
    Night("queries are taken out", taken={"land": 2}),
    NOTHING,
    Night("more than the month can pay for", new={"land": [3] * 20}),
    Night("the month begins"),
    Night("the last kind", new={"land": [4] * 8, "sea": [4] * 8}),
    Night("new ones and other words", new={"moor": [4, 4]}, reworded={"land": 1, "moor": 1}),
    Night("the teacher is down again", new={"land": [4]}, outage=True),
    Night("it is back, and there is more", new={"sea": [4]}),
    Night("the last delivery", new={"land": [4], "fen": [4]}),
)  # fmt: skip


def date_of(number: int) -> str:
    """The date of the n-th night, from 0."""
    return (FIRST + timedelta(days=number)).isoformat()


@dataclass
class Ledger:
    """What was delivered in good order, and what of it the teacher has been asked."""

    delivered: dict[str, dict[str, Query]] = field(default_factory=dict)
    asked: set[Query] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)

    def deliver(self, night: Night) -> dict[str, tuple[list[Query], list[Query]]]:
        """Take a night's deliveries into the books; gives, by domain, what came or changed, and what was taken out."""
        changed: dict[str, tuple[list[Query], list[Query]]] = {}
        for domain in {**night.new, **night.arrives, **night.reworded, **night.taken}:
            held = self.delivered.setdefault(domain, {})
            came = [] if held else [Query(domain, n, n % 5, "dev") for n in range(HELD_OUT)]
            trained = sorted((q for q in held.values() if q.split == "train"), key=lambda q: q.number)
            taken = trained[: night.taken.get(domain, 0)]
            came += [
                query.reworded() for query in trained[-night.reworded.get(domain, 0) :] if night.reworded.get(domain)
            ]
            for kind in (*night.new.get(domain, ()), *night.arrives.get(domain, ())):
                number = self.numbers.get(domain, 0)
                self.numbers[domain] = number + 1
                came.append(Query(domain, number, kind))
            held.update({query.qid: query for query in came})
            for query in taken:
                del held[query.qid]
            changed[domain] = (came, taken)
        return changed

    def owed(self, domains: Sequence[str]) -> list[Query]:
        """Training queries of these domains, as they are worded now, that the teacher was not asked yet."""
        held = [query for domain in domains for query in self.delivered[domain].values()]
        return [query for query in held if query.split == "train" and query not in self.asked]

    def bought(self, queries: Sequence[Query]) -> None:
        """Take down that the teacher was asked all that these cost."""
        self.asked.update(queries)

    def calls(self, queries: Sequence[Query]) -> int:
        """How many calls these cost."""
        return sum(CALLS["human" if query.domain == HUMAN else "mined"] for query in queries)

    def answered(self) -> set[tuple[str, str]]:
        """Domain and qid of every training query that stands, and that the teacher was asked as it is worded now."""
        held = [query for queries in self.delivered.values() for query in queries.values()]
        return {(query.domain, query.qid) for query in held if query in self.asked}
