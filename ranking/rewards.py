"""The multi-view ranking reward (METHOD section 4; ReasonRank, section 3.3), a batch at a time.

    R_m = NDCG@k + recall_weight * Recall@k + rbo_weight * RBO(prediction, teacher's order)
    R   = R_m if tags and list are right, 0 if only the tags are, -1 if the tags are wrong

Only the top half of a window goes on to the next one, so what survives the cut counts beside the order. Every
function is pure and takes positions, never texts with ids in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranking.parsing import Answer, Fault, parse_answer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of B answers: `total` with gates, and the terms without (0 where the answer is malformed); shape (B,)."""

    total: Floats
    ndcg: Floats
    recall: Floats
    rbo: Floats
    faults: tuple[Fault | None, ...]


@dataclass(frozen=True)
class MultiViewReward:
    """The reward with its weights and gates. The maximum is 1 + recall_weight + rbo_weight (1.3 as published)."""

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
        """Rewards of B answers; window b holds len(teacher_order[b]) passages, those at relevant[b] being good."""
        answers = [parse_answer(text, len(order), self.think) for text, order in zip(texts, teacher_order, strict=True)]
        ndcg = np.array([_term(ndcg_of_order, a, set(r), self.k) for a, r in zip(answers, relevant, strict=True)])
        recall = np.array([_term(recall_of_order, a, set(r), self.k) for a, r in zip(answers, relevant, strict=True)])
        rbo = np.array(
            [0.0 if a.order is None else rank_biased_overlap(a.order, order, self.rbo_p)
             for a, order in zip(answers, teacher_order, strict=True)]
        )  # fmt: skip
        faults = tuple(answer.fault for answer in answers)
        gate = np.array([{Fault.TAGS: self.tags_fault, Fault.LIST: self.list_fault, None: np.nan}[f] for f in faults])
        multi_view = ndcg + self.recall_weight * recall + self.rbo_weight * rbo
        return RewardBatch(np.where(np.isnan(gate), multi_view, gate), ndcg, recall, rbo, faults)


def _term(function, answer: Answer, relevant: set[int], k: int) -> float:  # type: ignore[no-untyped-def]
    return 0.0 if answer.order is None else function(answer.order, relevant, k)


def ndcg_of_order(order: Sequence[int], relevant: set[int], k: int = 10) -> float:
    """NDCG@k of 0-based positions in their new order against binary relevance; 0 where nothing is relevant."""
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    gains = np.array([position in relevant for position in order[:k]], dtype=np.float64)
    ideal = discount[: min(k, len(relevant))].sum()
    return float((gains * discount[: len(gains)]).sum() / ideal) if ideal else 0.0


def recall_of_order(order: Sequence[int], relevant: set[int], k: int = 10) -> float:
    """Share of the relevant positions that stand in the first k; 0 where nothing is relevant."""
    return len(relevant.intersection(order[:k])) / len(relevant) if relevant else 0.0


def rank_biased_overlap(left: Sequence[int], right: Sequence[int], p: float = 1.0) -> float:
    """RBO of two equally long lists without ties, evaluated to their full depth n (Webber et al. 2010).

    p = 1 is the average overlap of the depths 1 … n, as ReasonRank's released code computes. For p < 1 the overlap at
    depth d weighs p^(d-1), normalised over the n depths, so that identical lists score 1 for every p.
    """
    if len(left) != len(right):
        raise ValueError(f"RBO wants lists of one length, got {len(left)} and {len(right)}.")
    if not 0.0 < p <= 1.0:
        raise ValueError(f"RBO's persistence p must be in (0, 1], got {p}.")
    size = len(left)
    if not size:
        return 1.0
    place = {item: depth for depth, item in enumerate(right)}
    met_at = np.array([max(depth, place.get(item, size)) for depth, item in enumerate(left)])
    overlap = np.cumsum(np.bincount(met_at, minlength=size + 1)[:size]) / np.arange(1, size + 1)
    weights = p ** np.arange(size, dtype=np.float64)
    return float((overlap * weights).sum() / weights.sum())
