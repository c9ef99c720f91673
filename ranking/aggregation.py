"""One order from several: what a teacher says who ranked one list many times, each time shown another order.

    order = aggregate(samples, "rrf")
    chain = chains[closest(samples, order)]      # the reasoning that argues best for the merged order
    trust = kendalls_w(samples)                  # 1: the order shown changed nothing

A ranking is a sequence of docids, best first; all rankings of one call hold the same docids, each once. Nothing here
depends on the order of the samples, save which of two equally close ones `closest` names. Absent: partial rankings and
ties within one, which the parser never lets through, and weights for samples, which are draws from one teacher.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ranking.lists import seed_of

Ints = NDArray[np.int64]


def aggregate(rankings: Sequence[Sequence[str]], method: Literal["rrf", "borda"], k: int = 60) -> tuple[str, ...]:
    """The docids in the order of their summed points, most first.

    "rrf": 1 / (k + rank) a ranking (reciprocal rank fusion; Cormack et al. 2009), so that one high place outweighs one
    low place. "borda": the number of passages ranked below, which orders by mean rank; k plays no part. Equal points go
    to the better median rank, then to the smaller hash of the docid: neither a place in a shown order nor the spelling
    of an id, which often tells the source of a passage, decides. Raises ValueError where a ranking is not a permutation
    of the first.
    """
    docids, ranks = _ranks(rankings)
    points = _points(method, len(docids), k)
    places = dict(zip(docids, ranks.T.tolist(), strict=True))
    return tuple(
        sorted(
            docids,
            key=lambda docid: (
                -sum(points[rank - 1] for rank in places[docid]),
                statistics.median(places[docid]),
                seed_of(docid, 0),
            ),
        )
    )


def kendalls_w(rankings: Sequence[Sequence[str]]) -> float:
    """Kendall's coefficient of concordance: from 0 (no agreement) to 1 (all alike).

    W = 12 S / (m^2 (n^3 - n)) for m rankings of n items, S being the sum of squared deviations of the items' rank sums
    from their mean m (n + 1) / 2 (Kendall and Babington Smith 1939; no ties). Unrelated rankings average 1 / m, so
    compare values of one m. One ranking agrees with itself, and one item has but one order: both are 1.0.
    """
    docids, ranks = _ranks(rankings)
    m, n = len(rankings), len(docids)
    if n <= 1:
        return 1.0
    # Twice the deviations are whole numbers, which keeps 0 and 1 exact: 12 S = 3 sum((2 d)^2).
    doubled = 2 * ranks.sum(axis=0) - m * (n + 1)
    return 3 * int((doubled**2).sum()) / (m**2 * (n**3 - n))


def kendall_tau(left: Sequence[str], right: Sequence[str]) -> float:
    """From 1 (the same order) to -1 (turned round): pairs that both have alike less those they have not, of all pairs.

    One item has but one order: 1.0. Raises ValueError where one is no permutation of the other.
    """
    docids, ranks = _ranks([left, right])
    n = len(docids)
    if n <= 1:
        return 1.0
    signs = _pair_signs(ranks)
    return int((signs[0] * signs[1]).sum()) / (n * (n - 1))


def closest(rankings: Sequence[Sequence[str]], order: Sequence[str]) -> int:
    """Index of the ranking with the highest Kendall tau to `order`, the first of those that share it.

    Raises ValueError where `order` or a ranking is not a permutation of the first ranking.
    """
    docids, ranks = _ranks(rankings)
    aim = np.array(_ranks_of("the order", order, docids), dtype=np.int64)
    # Without ties tau is this sum over the one number n (n - 1), so the sum alone decides, without rounding.
    return int((_pair_signs(ranks) * _pair_signs(aim)).sum(axis=(-2, -1)).argmax())


def _points(method: str, size: int, k: int) -> list[int]:
    """What ranks 1 … size earn, in whole numbers: sums of fractions would round ties apart, and by sample order."""
    if method == "borda":
        return list(range(size - 1, -1, -1))
    if method != "rrf":
        raise ValueError(f"unknown way to aggregate rankings: {method!r}. Known: rrf, borda.")
    if k < 0:
        raise ValueError(f"reciprocal rank fusion adds k to every rank, so k must be 0 or more, got {k}.")
    unit = math.lcm(*range(k + 1, k + size + 1))
    return [unit // (k + rank) for rank in range(1, size + 1)]


def _ranks(rankings: Sequence[Sequence[str]]) -> tuple[list[str], Ints]:
    """The docids, sorted, and their ranks (1 = best) in each of m rankings; shape (m, n)."""
    if not len(rankings):
        raise ValueError("there are no rankings to compare. Give at least one.")
    docids = sorted(set(rankings[0]))
    rows = [_ranks_of(f"ranking {number}", ranking, docids) for number, ranking in enumerate(rankings)]
    return docids, np.array(rows, dtype=np.int64)


def _ranks_of(name: str, ranking: Sequence[str], docids: list[str]) -> list[int]:
    given, expected = Counter(ranking), Counter(docids)
    if given != expected:
        raise ValueError(
            f"{name} is not a permutation of the {len(docids)} passages of ranking 0: missing "
            f"{sorted(expected - given)}, too many {sorted((given - expected).elements())}. "
            f"Recover or reject malformed answers before they are compared."
        )
    place = {docid: rank for rank, docid in enumerate(ranking, start=1)}
    return [place[docid] for docid in docids]


def _pair_signs(ranks: Ints) -> Ints:
    """For ranks of shape (…, n) the sign of every difference, shape (…, n, n): -1 where row stands above column."""
    return np.sign(ranks[..., :, None] - ranks[..., None, :])
