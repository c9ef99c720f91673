"""How a training list is put together from positives, hard negatives and other candidates (METHOD section 1).

All positives up to half the list, then hard negatives up to half of what is left, then the best-ranked other
candidates; shuffled by a seed derived from the query id, so that a list never depends on the lists around it. The paper
publishes neither mix nor order; both are recorded on the row.
"""

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
NEAR_DUPLICATE = 0.9


@dataclass(frozen=True)
class TrainingList:
    """A list to label: docids in the order shown, those that count as relevant, and what was left out as a copy."""

    docids: tuple[str, ...]
    relevant: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]
    seed: int


def assemble_list(
    qid: str,
    positives: Sequence[str],
    hard_negatives: Sequence[str],
    candidates: Sequence[str],
    texts: Mapping[str, str],
    size: int = 20,
    seed: int = 0,
) -> TrainingList:
    """A list of at most `size` docids without exact or near duplicate texts.

    All three sequences come best first. A passage whose text repeats one already taken, or a positive that found no
    room, is left out and named in `duplicates` as (docid, the docid it repeats), so that no list holds a text twice and
    no negative has a positive's text.
    """
    list_seed = seed_of(qid, seed)
    taken: dict[str, frozenset[str]] = {}
    surplus: dict[str, frozenset[str]] = {}
    duplicates: dict[str, str] = {}

    def take(docids: Sequence[str], room: int) -> int:
        added = 0
        for docid in docids:
            if added >= room or len(taken) >= size:
                break
            if docid in taken or docid in duplicates:
                continue
            shingles = shingles_of(texts[docid])
            known = (*taken.items(), *surplus.items())
            twin = next((other for other, theirs in known if jaccard(shingles, theirs) >= NEAR_DUPLICATE), None)
            if twin is not None:
                duplicates[docid] = twin
                continue
            taken[docid] = shingles
            added += 1
        return added

    take(positives, max(1, size // 2))
    relevant = tuple(taken)
    # A positive beyond the cap is still a positive: neither it nor a copy of it may come back as a negative.
    surplus.update((docid, shingles_of(texts[docid])) for docid in positives if docid not in taken)
    negatives = [docid for docid in hard_negatives if docid not in set(positives)]
    others = [docid for docid in candidates if docid not in set(positives)]
    take(negatives, (size - len(taken)) // 2)
    take([*others, *negatives], size - len(taken))
    docids = list(taken)
    random.Random(list_seed).shuffle(docids)
    return TrainingList(tuple(docids), relevant, tuple(duplicates.items()), list_seed)


def seed_of(key: str, seed: int) -> int:
    """A 63-bit seed from a key, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1


def shingles_of(text: str, length: int = 3) -> frozenset[str]:
    """The set of word `length`-grams of a text after lower-casing, or its words where it is shorter."""
    words = _WORD.findall(text.lower())
    if len(words) < length:
        return frozenset(words)
    return frozenset(" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity of two sets; two empty sets are the same."""
    if not left and not right:
        return 1.0
    if min(len(left), len(right)) < NEAR_DUPLICATE * max(len(left), len(right)):
        return 0.0  # cannot reach the threshold; spares the intersection
    return len(left & right) / len(left | right)
