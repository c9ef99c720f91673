"""Lexical evidence: how the stand-in teacher judges passages without any language model.

Words are stemmed, weighted by how rare they are among the passages at hand and by their length, and counted where a
passage shares them with the query, or, when it is shown, with the answer, whose words count more. Two shared words
that stand side by side in both count once more. The same text always gives the same numbers; ties are broken by a
hash of the passage, not by its place in the prompt.

Absent on purpose: any knowledge of what words mean.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import Stemmer

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_FUNCTION_WORDS = (
    "a about after all also am an and any are as at be because been before being between both but by can could did do "
    "does doing done down during each few for from further get give given go had has have having he her here hers him "
    "his how however i if in into is it its itself just like make many may me might more most much must my no nor not "
    "of off on once one only or other our out over own per please same say she should since so some such than that the "
    "their them then there these they thing this those through to too two under until up upon us use used using very "
    "want was way we were what when where whether which while who whom whose why will with within without would you "
    "your yes true false let thus hence therefore s t re ve d ll m don isn doesn didn"
)
STOP = frozenset(_FUNCTION_WORDS.split())
# Saturation and length normalisation as in BM25; the rest was tuned for NDCG@10 on lists of 20 from four domains.
K1, B = 2.0, 0.75
BIGRAM = 1.5
LEAD, LEAD_STEMS = 1.0, 8
QUERY_BESIDE_ANSWER = 0.35
# What helps: near the best, well above the middle, and the best one stands out. What misleads: the reverse.
NEAR_BEST, ABOVE_MIDDLE, STANDS_OUT = 0.75, 2.0, 0.46
TEMPTING, FAR_FROM_BEST = 0.3, 0.6


@dataclass(frozen=True)
class Text:
    """A text as stems in order; `spoken` gives a readable word for each stem."""

    stems: tuple[str, ...]
    spoken: Mapping[str, str]


@dataclass(frozen=True)
class Evidence:
    """What one passage shares with the query and with the answer: scores, and the shared words, weightiest first."""

    query: float
    answer: float
    shared: tuple[str, ...]
    tie: str

    @property
    def total(self) -> float:
        return self.answer + QUERY_BESIDE_ANSWER * self.query


@dataclass(frozen=True)
class Weighed:
    """The passages of one prompt: the query's words, most telling first, and each passage's evidence."""

    topic: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def weigh(query: str, answer: str | None, passages: Sequence[str]) -> Weighed:
    """The evidence of every passage, in the order given, and what the query is about."""
    texts = [read(p) for p in passages]
    asked = read(query)
    # A bare number or a yes says nothing about what a passage is about.
    answered = read(re.sub(r"\d+", " ", answer)) if answer else Text((), {})
    found_in = Counter(stem for text in texts for stem in set(text.stems))
    mean = sum(len(text.stems) for text in texts) / max(1, len(texts)) or 1.0
    weight = {stem: _weight(stem, n, len(texts)) for stem, n in found_in.items()}
    spoken = {**answered.spoken, **asked.spoken}
    evidence = []
    for passage, text in zip(passages, texts, strict=True):
        norm = K1 * (1 - B + B * len(text.stems) / mean)
        part = {s: weight[s] * n * (K1 + 1) / (n + norm) for s, n in Counter(text.stems).items()}
        shared = sorted((s for s in part if s in spoken), key=lambda s: (-part[s], s))
        evidence.append(
            Evidence(
                query=_overlap(asked, text, part, weight),
                answer=_overlap(answered, text, part, weight),
                shared=tuple(spoken[s] for s in shared),
                tie=hashlib.sha256(passage.encode("utf-8", "replace")).hexdigest(),
            )
        )
    topic = sorted(set(asked.stems), key=lambda s: (-weight.get(s, 0.0), s))
    return Weighed(tuple(asked.spoken[s] for s in topic), tuple(evidence))


def best_first(evidence: Sequence[Evidence]) -> list[int]:
    """Positions in the order of their evidence; equal evidence in the order of the passages' hashes."""
    return sorted(range(len(evidence)), key=lambda i: (-evidence[i].total, evidence[i].tie))


def helpful(evidence: Sequence[Evidence]) -> list[int]:
    """Positions whose evidence is near the best one's, provided that the best one stands out; best first."""
    scores = [e.total for e in evidence]
    if not scores or max(scores) <= 0:
        return []
    best, middle = max(scores), statistics.median(scores)
    spread = statistics.pstdev(scores)
    # In a list of n no score can lie more than sqrt(n - 1) deviations above the mean.
    stands_out = best - statistics.fmean(scores) >= STANDS_OUT * math.sqrt(len(scores) - 1) * spread
    floor = max(NEAR_BEST * best, ABOVE_MIDDLE * middle if len(scores) > 2 else 0.0)
    return [i for i in best_first(evidence) if stands_out and scores[i] >= floor]


def misleading(evidence: Sequence[Evidence]) -> list[int]:
    """Positions that share much with the query but, all evidence counted, are far from helping; worst first."""
    if not evidence:
        return []
    chosen = set(helpful(evidence))
    best, most = max(e.total for e in evidence), max(e.query for e in evidence)
    tempting = [
        i
        for i, e in enumerate(evidence)
        if i not in chosen and e.query >= TEMPTING * most and e.total < FAR_FROM_BEST * best and e.query > 0
    ]
    return sorted(tempting, key=lambda i: (-evidence[i].query, evidence[i].tie))[: max(1, len(evidence) // 2)]


def _weight(stem: str, found_in: int, passages: int) -> float:
    """How much a stem says: rare among these passages, and long."""
    idf = math.log(1 + (passages - found_in + 0.5) / (found_in + 0.5))
    return (0.3 + idf) * min(1.0, 0.2 + 0.12 * len(stem))


def _overlap(wanted: Text, text: Text, part: Mapping[str, float], weight: Mapping[str, float]) -> float:
    """What a passage shares with a text: words, words side by side, and words in its opening, where a title stands."""
    # Repeated words are asked for more, but not in proportion.
    asked = {stem: 1 + math.log(n) for stem, n in Counter(wanted.stems).items()}
    words = sum(part[s] * w for s, w in asked.items() if s in part)
    pairs = set(pairwise(wanted.stems)) & set(pairwise(text.stems))
    opening = sorted(set(text.stems[:LEAD_STEMS]) & asked.keys())
    return (
        words
        + BIGRAM * math.fsum(min(weight[a], weight[b]) for a, b in pairs)
        + LEAD * math.fsum(weight[s] * asked[s] for s in opening)
    )


@lru_cache(maxsize=1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("english")


def read(text: str) -> Text:
    """Stems of the words that carry meaning, in order."""
    words = [w for w in _WORD.findall(text.lower()) if w not in STOP and (len(w) > 1 or w.isdigit())]
    stems = _stemmer().stemWords(words)
    return Text(tuple(stems), dict(zip(reversed(stems), reversed(words), strict=True)))
