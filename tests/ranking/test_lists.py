"""Training lists: their size and mix, no text under two labels, and an order that the query id and the seed decide."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.lists import NEAR_DUPLICATE, TrainingList, assemble_list, jaccard, seed_of, shingles_of

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
TEXTS = [LONG, LONG.upper() + "!", LONG + " more", LONG + " quite other words that follow on and on", "", " ", "short",
         "short one", "a b c d", "A, b; c d."]  # fmt: skip


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[str], list[str], list[str], dict[str, str], int]:
    """(positives, hard negatives, candidates, texts, size), with copies of texts and ids in several roles."""
    docids = [f"d{number}" for number in range(draw(st.integers(1, 14)))]
    some = st.lists(st.sampled_from(docids), unique=True)
    texts = {docid: draw(st.sampled_from([*TEXTS, f"a text of {docid} alone"])) for docid in docids}
    return draw(some), draw(some), draw(some), texts, draw(st.integers(1, 12))


def alike(texts: dict[str, str], left: str, right: str) -> bool:
    return jaccard(shingles_of(texts[left]), shingles_of(texts[right])) >= NEAR_DUPLICATE


@given(pools(), st.text(max_size=5), st.integers(0, 3))
def test_a_list_is_no_longer_than_asked_and_holds_only_what_it_was_given(
    pool: tuple[list[str], list[str], list[str], dict[str, str], int], qid: str, seed: int
) -> None:
    positives, hard, candidates, texts, size = pool
    made = assemble_list(qid, positives, hard, candidates, texts, size, seed)
    assert len(made.docids) == len(set(made.docids)) <= size
    assert set(made.docids) <= {*positives, *hard, *candidates}
    assert set(made.relevant) == set(made.docids) & set(positives)
    assert len(made.relevant) <= max(1, size // 2)
    assert bool(made.relevant) == bool(positives)
    assert made.seed == seed_of(qid, seed)


@given(pools())
def test_no_text_stands_twice_and_no_negative_has_the_text_of_any_positive(
    pool: tuple[list[str], list[str], list[str], dict[str, str], int],
) -> None:
    positives, hard, candidates, texts, size = pool
    made = assemble_list("q", positives, hard, candidates, texts, size)
    for place, docid in enumerate(made.docids):
        assert not any(alike(texts, docid, other) for other in made.docids[:place])
        if docid not in made.relevant:
            assert not any(alike(texts, docid, positive) for positive in positives)


@given(pools())
def test_what_is_left_out_as_a_copy_is_named_with_the_passage_that_it_repeats(
    pool: tuple[list[str], list[str], list[str], dict[str, str], int],
) -> None:
    positives, hard, candidates, texts, size = pool
    made = assemble_list("q", positives, hard, candidates, texts, size)
    for copy, twin in made.duplicates:
        assert copy not in made.docids
        assert twin in made.docids or twin in positives
        assert alike(texts, copy, twin)
    # A place stays empty only where nothing is left that is no copy, and no surplus positive.
    if len(made.docids) < size:
        left = {*hard, *candidates} - set(positives) - set(made.docids)
        assert left <= {copy for copy, _ in made.duplicates}


@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 25), st.integers(1, 20))
def test_the_mix_is_positives_to_the_half_hard_negatives_to_half_the_rest_then_the_best_others(
    positives: int, hard: int, others: int, size: int
) -> None:
    good, near, far = ([f"{kind}{i}" for i in range(n)] for kind, n in (("p", positives), ("h", hard), ("o", others)))
    texts = {docid: f"only {docid} here" for docid in [*good, *near, *far]}
    made = assemble_list("q", good, near, [*good, *far], texts, size)
    kept = good[: max(1, size // 2)]
    chosen = near[: (size - len(kept)) // 2]
    filled = [*kept, *chosen, *far[: size - len(kept) - len(chosen)]]
    expected = [*filled, *near[len(chosen) :][: size - len(filled)]]
    assert made.relevant == tuple(kept)
    assert set(made.docids) == set(expected)


def test_twelve_positives_fill_half_of_twenty_and_the_two_beyond_never_come_back_as_negatives() -> None:
    positives = [f"p{number}" for number in range(12)]
    texts = {docid: f"the text of {docid}" for docid in [*positives, "twin", "other"]}
    texts["twin"] = texts["p11"]
    made = assemble_list("q", positives, ["p10", "twin"], [*positives, "twin", "other"], texts)
    assert sorted(made.docids) == sorted([*positives[:10], "other"])
    assert made.duplicates == (("twin", "p11"),)


def listed(qid: str, docids: Sequence[str], seed: int = 0) -> TrainingList:
    texts = {docid: f"only {docid} here" for docid in docids}
    return assemble_list(qid, docids[:4], docids[4:8], docids, texts, seed=seed)


def test_the_order_is_decided_by_the_query_id_and_the_seed_alone() -> None:
    docids = [f"d{number}" for number in range(20)]
    once = listed("q7", docids)
    random.seed(1)
    listed("another", docids[::-1])
    assert listed("q7", docids) == once
    # Other documents in the same places come out in the same places: the order knows nothing of what it orders.
    renamed = listed("q7", [docid + "'" for docid in docids])
    assert renamed.docids == tuple(docid + "'" for docid in once.docids)
    assert listed("q8", docids).docids != once.docids
    assert listed("q7", docids, seed=1).docids != once.docids


def test_positives_stand_anywhere_in_the_list() -> None:
    docids = [f"d{number}" for number in range(20)]
    places = [listed(f"q{number}", docids).docids.index("d0") for number in range(400)]
    assert set(places) == set(range(20))
    assert 8.5 < sum(places) / len(places) < 10.5


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert seed_of("q1", 0) == 4765755369972560490
    assert 0 <= seed_of("", 7) < 2**63
    assert len({seed_of(f"q{key}", seed) for key in range(50) for seed in range(2)}) == 100


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_one_with_itself(left: str, right: str) -> None:
    mine, theirs = shingles_of(left), shingles_of(right)
    assert jaccard(mine, mine) == 1.0
    assert jaccard(mine, theirs) == jaccard(theirs, mine)
    exact = len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0
    assert jaccard(mine, theirs) in (exact, 0.0)
    assert (jaccard(mine, theirs) >= NEAR_DUPLICATE) == (exact >= NEAR_DUPLICATE)


def test_the_threshold_is_met_at_nine_shingles_of_ten() -> None:
    ten, nine = frozenset("abcdefghij"), frozenset("abcdefghi")
    assert jaccard(ten, nine) == pytest.approx(0.9)
    assert jaccard(ten, nine) >= NEAR_DUPLICATE
    assert jaccard(ten, frozenset("abcdefgh")) == 0.0


def test_shingles_are_word_triples_without_case_or_punctuation() -> None:
    assert shingles_of("The cat, the CAT sat.") == {"the cat the", "cat the cat", "the cat sat"}
    assert shingles_of("Two words") == {"two", "words"}
    assert shingles_of(" … ") == frozenset()
