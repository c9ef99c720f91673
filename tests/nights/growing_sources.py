"""Source folders that grow by a plan: queries with words of their own, so that each changes no list but its own.

A query's passages share words with it and with no other query. So a new or reworded query costs the teacher exactly
CALLS questions, and any other call is one too many. What helps is told by a cause: a word that stands in the passage
that answers, in no question, and in no other passage. Causes come in kinds; a student that has seen a kind in training
ranks its held-out queries well, so models get better as kinds are delivered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "pra", "sti", "vor", "wen", "zal", "dru", "fi", "gol", "hes")
# What a kind's answers speak of, and what its other passages do.
CAUSES = (
    ("osmosis", "membrane"),
    ("oxygen", "corrosion"),
    ("friction", "abrasion"),
    ("sunlight", "bleaching"),
    ("yeast", "fermentation"),
)
LURES = (
    ("museum", "harbour"),
    ("market", "lantern"),
    ("violin", "marble"),
    ("parade", "saddle"),
    ("theatre", "ribbon"),
)
CALLS = {"mined": 3, "human": 1}  # two mining questions and a ranking; a ranking alone where people have judged
POISON = "toxicodendron"


def words(key: str, count: int) -> list[str]:
    """`count` different invented words that follow from `key` alone."""
    draw, found = random.Random(key), dict[str, None]()
    while len(found) < count:
        found["".join(draw.choices(_SYLLABLES, k=5))] = None
    return list(found)


FILLERS = words("fillers", 60)


@dataclass(frozen=True)
class Query:
    """A question of a domain; `wording` counts how often its words were changed."""

    domain: str
    number: int
    kind: int
    split: str = "train"
    wording: int = 0
    poisoned: bool = False

    @property
    def qid(self) -> str:
        """Its id in queries.jsonl."""
        return f"{self.split}{self.number}"

    def reworded(self) -> Query:
        """The same question in other words, its passages too."""
        return replace(self, wording=self.wording + 1)

    def row(self) -> dict[str, str]:
        """Its line of queries.jsonl."""
        a, b, c, d = self._own()
        cause, other = CAUSES[self.kind]
        text = f"Why does {a} {b} become {c} after {d}{f' {POISON}' if self.poisoned else ''}?"
        strange, stranger = self._strange()
        answer = f"Since {cause} and {other} turn {a} into {c} by {strange} and {stranger}."
        return {"qid": self.qid, "text": text, "split": self.split, "gold_answer": answer, "license": "CC0-1.0"}

    def passages(self) -> list[dict[str, str]]:
        """Its lines of passages.jsonl: what answers it first, then three that share more of its words.

        All are told in as many words, strange ones too, so that a student can go by cause and lure alone.
        """
        a, b, c, d = self._own()
        draw = random.Random(f"passages {self}")
        fillers = draw.sample(FILLERS, 16)
        told = [[a, c, *self._strange(), *CAUSES[self.kind]], *([a, b, c, d, *LURES[self.kind]] for _ in range(3))]
        for n, said in enumerate(told):
            said += fillers[4 * n : 4 * n + 4]
            draw.shuffle(said)
        return [
            {"docid": f"{self.qid}-{self.wording}-{n}", "title": "", "text": " ".join(said), "license": "CC0-1.0"}
            for n, said in enumerate(told)
        ]

    def judgement(self) -> str:
        """Its line of qrels.tsv."""
        return f"{self.qid} 0 {self.qid}-{self.wording}-0 1"

    def _own(self) -> list[str]:
        return words(f"{self.domain}/{self.qid}/{self.wording}", 4)

    def _strange(self) -> list[str]:
        return words(f"strange {self}", 2)


def write(folder: Path, queries: Iterable[Query]) -> None:
    """A source folder with these queries and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = sorted(queries, key=lambda query: query.qid)
    files = {
        "queries.jsonl": [json.dumps(query.row()) for query in asked],
        "passages.jsonl": [json.dumps(passage) for query in asked for passage in query.passages()],
        "qrels.tsv": [query.judgement() for query in asked],
    }
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
