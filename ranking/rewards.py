"""What rollouts are worth (METHOD sections 4 and 6), a batch at a time: texts in, one reward a rollout out.

    MultiViewReward(k=10)(texts, relevant, teacher_order)         # ReasonRank; over the completion
    exact_label(texts, gold, counts)                              # Rank-R1; over the completion
    query_reciprocal_rank(texts, positive, groups, highest)       # ERank; over all rollouts of a query

A reward is a weighted sum of terms behind gates: an answer whose form is wrong earns what the gate says, whatever it
holds. The terms `ndcg`, `recall` and `rank_biased_overlap` take padded arrays (`padded`, `mask`): a row a rollout,
0-based positions in their window, best first, filled up with -1. Every function is pure, and a reward over the
completion is the same in every batch. Absent on purpose: any digit that is read out of malformed text, and a learned
reward model.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ranking.batch_parsing import parse_answers
from ranking.parsing import Fault, answer_within_tags, parse_ids

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SCORE = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of B rollouts, shape (B,): `total` with gates, and each of `terms` without (0 where malformed)."""

    total: Floats
    terms: Mapping[str, Floats]
    faults: tuple[Fault | None, ...]


@dataclass(frozen=True)
class MultiViewReward:
    """ReasonRank's reward (section 3.3) with its weights and gates; scope: the completion.

        R_m = NDCG@k + recall_weight * Recall@k + rbo_weight * RBO(prediction, teacher's order)
        R   = R_m if tags and list are right, list_fault if only the tags are, tags_fault if the tags are wrong

    Only the top half of a window goes on to the next one, so what survives the cut counts beside the order. The
    maximum is 1 + recall_weight + rbo_weight (1.3 as published).
    """

    k: int = 10
    recall_weight: float = 0.2
    rbo_weight: float = 0.1
    rbo_p: float = 1.0
    list_fault: float = 0.0
    tags_fault: float = -1.0
    think: bool = True

    def __call__(
        self, texts: Sequence[str], relevant: Sequence[Sequence[int]], teacher_order: Sequence[Sequence[int]]
    ) -> RewardBatch:
        """Rewards of B answers; window b holds len(teacher_order[b]) passages, those at relevant[b] being good.

        Raises ValueError where the three are not equally long, or a relevant position is not in its window.
        """
        _same_length(texts=texts, relevant=relevant, teacher_order=teacher_order)
        orders, faults = parse_answers(texts, [len(order) for order in teacher_order], self.think)
        teacher = padded(teacher_order)
        good = mask(relevant, _lengths(teacher))
        fine = np.array([fault is None for fault in faults], bool)
        teacher[~fine] = -1
        gains, wanted = _gains(orders, good, self.k), good.sum(axis=1)
        terms = {
            "ndcg": _ndcg(gains, wanted, self.k),
            "recall": _recall(gains, wanted),
            "rbo": np.where(fine, rank_biased_overlap(orders, teacher, self.rbo_p), 0.0),
        }
        total = terms["ndcg"] + self.recall_weight * terms["recall"] + self.rbo_weight * terms["rbo"]
        return RewardBatch(_gated(total, faults, self.tags_fault, self.list_fault), terms, faults)


def exact_label(texts: Sequence[str], gold: Sequence[int], counts: Iterable[int], think: bool = True) -> RewardBatch:
    """1 where exactly one of the counts[b] passages is named and it is gold[b] (0-based), else 0; Rank-R1, section 3.2.

    Scope: the completion. Wrong tags, no name, several, or one that is not there are faults, and earn 0 as well. Raises
    ValueError where a gold passage is not among those shown.
    """
    shown = np.fromiter(counts, np.int64)
    _same_length(texts=texts, gold=gold, counts=shown)
    wanted = np.asarray(gold, np.int64)
    if (outside := np.flatnonzero((wanted < 0) | (wanted >= shown))).size:
        row = outside[0]
        raise ValueError(f"Rollout {row} was shown {shown[row]} passages, and number {wanted[row]} is to be the best.")
    answers = [answer_within_tags(text, think) for text in texts]
    named = [None if a is None else parse_ids(a, count) for a, count in zip(answers, shown.tolist(), strict=True)]
    picked = np.array([-1 if ids is None or len(ids) != 1 else ids[0] for ids in named], np.int64)
    exact = (picked == wanted).astype(np.float64)
    return RewardBatch(exact, {"exact": exact}, _faults(answers, picked >= 0))


def query_reciprocal_rank(
    texts: Sequence[str],
    positive: Sequence[bool],
    groups: Sequence[Hashable],
    highest: float,
    think: bool = True,
    fault: float = -1.0,
) -> RewardBatch:
    """A rollout's score (0 to `highest`) by its rank among all rollouts of its query; ERank, section 3.3.

    Scope: the query. groups[b] names the query of rollout b, and positive[b] says whether its passage is relevant; the
    rollouts of a query need not stand together, and malformed ones have no rank.

    As in the paper: a rollout of a relevant passage earns 1 / its rank among all rollouts of all passages of the query
    (equal scores share the best of their ranks); one of any other passage is punished unless it stands below every
    rollout of the relevant ones; a malformed one earns a fixed `fault`. Ours: the punishment is -1 / (the rank among
    the rollouts of relevant passages, equal scores counting half), so that it is worst above them all and grows less
    with each that is passed on the way down; and there is none below them, where the paper draws the score towards
    that of the supervised model by squared error, which is here the business of the KL term alone.
    """
    _same_length(texts=texts, positive=positive, groups=groups)
    answers = [answer_within_tags(text, think) for text in texts]
    scores = np.array([float(a) if a and _SCORE.fullmatch(a) else np.nan for a in answers], np.float64)
    fine = scores <= highest
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    query = np.array([names[name] for name in groups], np.int64)[fine]
    relevant = np.asarray(positive, bool)[fine]
    # One whole number orders all scores of all queries: query by query, and by score within one.
    levels, level = np.unique(scores[fine], return_inverse=True)
    first, behind = query * len(levels), (query + 1) * len(levels)
    at = first + level
    of_relevant = np.sort(at[relevant])
    above, _ = _standing(at, behind, np.sort(at))
    above_relevant, equal_relevant = _standing(at, behind, of_relevant)
    below_all = above_relevant == _standing(first - 1, behind, of_relevant)[0]
    punished = np.where(below_all, 0.0, -1.0 / (1 + above_relevant + 0.5 * equal_relevant))
    term = _spread(np.where(relevant, 1.0 / (1 + above), punished), fine)
    faults = _faults(answers, fine)
    return RewardBatch(_gated(term, faults, fault, fault), {"reciprocal_rank": term}, faults)


def ndcg(orders: Ints, relevant: Bools, k: int = 10) -> Floats:
    """NDCG@k of B orders (B, N) against binary relevance by position (B, N); 0 where nothing is relevant."""
    return _ndcg(_gains(orders, relevant, k), relevant.sum(axis=1), k)


def recall(orders: Ints, relevant: Bools, k: int = 10) -> Floats:
    """Share of the relevant positions (B, N) that stand in the first k of B orders (B, N); 0 where there are none."""
    return _recall(_gains(orders, relevant, k), relevant.sum(axis=1))


def rank_biased_overlap(left: Ints, right: Ints, p: float = 1.0) -> Floats:
    """RBO of B pairs of equally long lists without ties (B, N), to their full depth n (Webber et al. 2010).

    p = 1 is the average overlap of the depths 1 … n, as ReasonRank's released code computes. For p < 1 the overlap at
    depth d weighs p^(d-1), normalised over the n depths, so that identical lists score 1 for every p; empty ones do
    too. Raises ValueError for another p, and for lists that are not equally long.
    """
    if not 0.0 < p <= 1.0:
        raise ValueError(f"RBO's persistence p must be in (0, 1], got {p}.")
    lengths, others = _lengths(left), _lengths(right)
    if (unequal := np.flatnonzero(lengths != others)).size:
        row = unequal[0]
        raise ValueError(f"RBO wants lists of one length, got {lengths[row]} and {others[row]} in row {row}.")
    depths = lengths.max(initial=0)
    left, right, depth = left[:, :depths], right[:, :depths], np.arange(depths, dtype=np.int32)
    # Where `right` has each item; nowhere is behind all depths. The padding, -1, has the place behind the last item's.
    places = max(left.max(initial=-1), right.max(initial=-1)) + 2
    row = np.arange(len(left))[:, None] * places
    place = np.full(len(left) * places, depths, np.int32)
    at = right + row
    place[at] = depth
    met_at = place[np.add(left, row, out=at)]
    np.minimum(np.maximum(met_at, depth, out=met_at), lengths[:, None].astype(np.int32), out=met_at)
    # An item that both lists have by depth m adds p^(d-1) / d at each depth d from there on; added[d] sums the first d.
    added = np.append(0.0, np.cumsum(p**depth / (depth + 1.0)))
    shares = added[met_at]
    overlap = _sum(np.subtract(added[lengths, None], shares, out=shares))
    # What equal lists of each length come to, added up in the same steps, so that they score 1 and nothing more.
    equal_lists = np.append(1.0, np.diagonal(np.cumsum(added[1:, None] - added[:-1], axis=1)))
    return np.where(lengths > 0, overlap, 1.0) / equal_lists[lengths]


def padded(rows: Sequence[Sequence[int]]) -> Ints:
    """Rows of uneven length as one array (B, N), N being the longest; filled up with -1."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    every = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    if len(every) == len(rows) * lengths.max(initial=0):
        return every.reshape(len(rows), lengths.max(initial=0))
    array = np.full((len(rows), lengths.max(initial=0)), -1)
    array[np.arange(array.shape[1]) < lengths[:, None]] = every
    return array


def mask(positions: Sequence[Sequence[int]], lengths: Ints) -> Bools:
    """True at each row's positions, shape (B, longest length); ValueError for one outside its row's length."""
    marked = np.fromiter(map(len, positions), np.int64, len(positions))
    row = np.repeat(np.arange(len(positions)), marked)
    column = np.fromiter(chain.from_iterable(positions), np.int64, len(row))
    if (outside := np.flatnonzero((column < 0) | (column >= lengths[row]))).size:
        at = outside[0]
        raise ValueError(f"Position {column[at]} of row {row[at]} is not within its {lengths[row[at]]} passages.")
    array = np.zeros((len(positions), lengths.max(initial=0)), bool)
    array[row, column] = True
    return array


def _ndcg(gains: Bools, wanted: Ints, k: int) -> Floats:
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.append(0.0, np.cumsum(discount))[np.minimum(wanted, k)]
    return _ratio(_sum(gains * discount[: gains.shape[1]]), ideal)


def _recall(gains: Bools, wanted: Ints) -> Floats:
    return _ratio(gains.sum(axis=1), wanted)


def _gains(orders: Ints, relevant: Bools, k: int) -> Bools:
    """Whether what stands at each of the first k places of B orders is relevant, (B, k)."""
    top = orders[:, :k]
    return relevant[np.arange(len(top))[:, None], top] & (top >= 0)


def _lengths(rows: Ints) -> Ints:
    """Positions in each of B rows. Most are whole windows, which need no counting."""
    if rows.shape[1] and (rows[:, -1] >= 0).all():
        return np.full(len(rows), rows.shape[1])
    return np.count_nonzero(rows >= 0, axis=1)


def _sum(terms: Floats) -> Floats:
    """Row sums, one column after the other, so that padding changes no bit, as it does pair by pair."""
    total = np.zeros(len(terms))
    for column in terms.T:
        total += column
    return total


def _ratio(parts: NDArray, wholes: NDArray) -> Floats:
    return np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0)


def _standing(at: Ints, behind: Ints, among: Ints) -> tuple[Ints, Ints]:
    """How many of the sorted `among` lie above `at` and before `behind`, and how many are equal to it."""
    upto = np.searchsorted(among, at, "right")
    return np.searchsorted(among, behind) - upto, upto - np.searchsorted(among, at)


def _spread(values: Floats, rows: Bools) -> Floats:
    """`values` at the rows that are True, 0 at the others."""
    every = np.zeros(len(rows))
    every[rows] = values
    return every


def _faults(answers: Sequence[str | None], fine: Bools) -> tuple[Fault | None, ...]:
    """TAGS where there is no answer in its tags, LIST where there is one that is not `fine`."""
    told = zip(answers, fine.tolist(), strict=True)
    return tuple(None if right else Fault.TAGS if answer is None else Fault.LIST for answer, right in told)


def _gated(total: Floats, faults: Sequence[Fault | None], tags: float, listed: float) -> Floats:
    """`total`, but what the gate says where there is a fault."""
    gated = total.copy()
    for row, fault in enumerate(faults):
        if fault is not None:
            gated[row] = tags if fault is Fault.TAGS else listed
    return gated


def _same_length(**columns: Sequence | NDArray) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError("A batch has one of each a rollout, got " + ", ".join(f"{n} {s}" for s, n in lengths.items()))
