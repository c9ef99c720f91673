"""Copies: what is found is what comparing all pairs finds, and a list with a text under two labels never passes."""

from __future__ import annotations

import itertools
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lake import LONG, words

from warehouse.curation.duplicates import DuplicatePolicy, copies_of_earlier, duplicates, leaders
from warehouse.curation.filters import PASSAGES, ROWS, Judged, Lists
from warehouse.curation.fingerprints import hashed, in_pieces, spans
from warehouse.curation.sketches import PAIRS, jaccards, near_pairs, near_pairs_between
from warehouse.curation.words import normalised, squeezed, words_of


def shingles(texts: list[str]) -> list[set[tuple[str, ...]]]:
    found = [text.split() for text in normalised(pl.Series(texts))]
    return [{tuple(one[i : i + 3]) for i in range(max(1, len(one) - 2))} if one else set() for one in found]


def overlap(one: set[tuple[str, ...]], two: set[tuple[str, ...]]) -> float:
    return len(one & two) / len(one | two) if one | two else 0.0


def jaccard(left: str, right: str) -> float:
    return overlap(*shingles([left, right]))


def asked(*texts: str, consistency: list[float] | None = None) -> Lists:
    """Lists of two passages each, alike in nothing, with these queries."""
    rows = [
        {
            "ranking_id": f"r{n}", "domain": "math", "qid": f"q{n:03}", "query": text, "docids": [f"d{n}a", f"d{n}b"],
            "relevant": [0], "consistency": consistency[n] if consistency else 0.5,
        }
        for n, text in enumerate(texts)
    ]  # fmt: skip
    return with_passages(rows, {docid: words(docid, 30) for row in rows for docid in row["docids"]})


def with_passages(rows: list[dict], texts: dict[str, str]) -> Lists:
    held = [{"domain": "math", "docid": docid, "text": text} for docid, text in texts.items()]
    return Lists(
        pl.DataFrame(rows, schema_overrides={"relevant": pl.List(pl.Int64)}).pipe(_whole, ROWS),
        pl.DataFrame(held).pipe(_whole, PASSAGES),
    )


def _whole(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    missing = [pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in frame.columns]
    return frame.with_columns(missing).select(list(schema))


def told(judged: Judged) -> list[tuple[str, str, str]]:
    fallen = judged.decisions.filter(pl.col("outcome") == "rejected")
    return fallen.select("ranking_id", "reason", "detail").sort("ranking_id").rows()


def near_copy(draw: random.Random, text: str, changed: int) -> str:
    found = text.split()
    for place in draw.sample(range(len(found)), changed):
        found[place] = f"new{draw.randrange(10**9)}"
    return " ".join(found)


def zipf_texts(count: int, length: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    places = draw.zipf(1.07, (count, length)) % 50_000
    return [" ".join(f"word{place}" for place in row) for row in places]


def test_an_exact_copy_names_the_query_that_it_repeats() -> None:
    judged = duplicates(DuplicatePolicy())(asked("What is a ring?", "what  is a RING", "What is a field?"))
    assert told(judged) == [("r1", "duplicate_query", "same text as math/q000")]
    assert judged.lists.rows["ranking_id"].to_list() == ["r0", "r2"]


def test_a_near_copy_is_found_and_a_distant_one_is_kept() -> None:
    near, distant = LONG.replace("somewhere", "anywhere"), " ".join(reversed(LONG.split()))
    assert jaccard(LONG, near) >= 0.8 > jaccard(LONG, distant)
    judged = duplicates(DuplicatePolicy())(asked(LONG, near, distant))
    assert [(key, reason) for key, reason, _ in told(judged)] == [("r1", "near_duplicate_query")]
    decision = judged.decisions.filter(pl.col("ranking_id") == "r1").row(0, named=True)
    assert decision["value"] == pytest.approx(jaccard(LONG, near))
    assert decision["threshold"] == 0.8


def test_short_queries_are_copies_only_when_they_are_the_same() -> None:
    judged = duplicates(DuplicatePolicy())(asked("2 plus 2", "2 plus 3", "two", "Two!", "three"))
    assert [key for key, _, _ in told(judged)] == ["r3"]


def test_the_most_consistent_list_stays_where_the_policy_says_so() -> None:
    lists = asked(LONG, LONG.upper(), f"{LONG}!", consistency=[0.5, 0.9, 0.7])
    by_policy = {
        name: duplicates(DuplicatePolicy(representative=name))(lists).lists.rows["ranking_id"].to_list()  # type: ignore[arg-type]
        for name in ("first", "most_consistent")
    }
    assert by_policy == {"first": ["r0"], "most_consistent": ["r1"]}


def test_what_is_found_does_not_depend_on_the_order_of_lists_or_passages() -> None:
    lists = asked(LONG, LONG.upper(), f"{LONG} indeed", words("other", 20), words("other", 20))
    expected = duplicates(DuplicatePolicy())(lists)
    for seed in range(4):
        shuffled = Lists(*(f.sample(fraction=1.0, shuffle=True, seed=seed) for f in (lists.rows, lists.passages)))
        again = duplicates(DuplicatePolicy())(shuffled)
        assert told(again) == told(expected)
        assert again.found["duplicate_clusters"].equals(expected.found["duplicate_clusters"])


def test_a_cluster_names_its_representative_and_how_close_each_copy_is() -> None:
    near = LONG.replace("somewhere", "anywhere")
    clusters = duplicates(DuplicatePolicy())(asked(LONG, near, LONG.upper(), "alone")).found["duplicate_clusters"]
    assert clusters.select("unit", "cluster", "id", "representative", pl.col("similarity").round(6)).rows() == [
        ("query", "math/q000", "q000", True, 1.0),
        ("query", "math/q000", "q001", False, round(jaccard(LONG, near), 6)),
        ("query", "math/q000", "q002", False, 1.0),
    ]


@pytest.mark.parametrize(
    ("second", "relevant", "reason"),
    [
        ("same", [0], "opposite_labels"),
        ("same", [0, 1], "duplicate_passage"),
        ("same", [2], "duplicate_passage"),
        ("near", [1], "opposite_labels"),
        ("near", [0, 1], "duplicate_passage"),
        ("other", [0], None),
    ],
)
def test_a_text_that_stands_twice_in_a_list_rejects_it_by_its_labels(
    second: str, relevant: list[int], reason: str | None
) -> None:
    text = words("passage", 60)
    texts = {"d0": text, "d1": {"same": text.upper() + "!", "near": text + " end", "other": words("o", 60)}[second]}
    rows = [
        {"ranking_id": key, "domain": "math", "qid": key, "query": words(key, 9), "docids": docids, "relevant": good}
        for key, docids, good in (
            ("r0", ["d0", "d1", "d2"], relevant), ("r1", ["d0", "d2"], [0]), ("r2", ["d1", "d2"], [0])
        )
    ]  # fmt: skip
    judged = duplicates(DuplicatePolicy())(with_passages(rows, {**texts, "d2": words("d2", 60)}))
    assert [(key, why, detail) for key, why, detail in told(judged)] == (
        [("r0", reason, "passages d0 and d1")] if reason else []
    )
    # A copy that lies in two different lists is recorded and harms neither.
    assert judged.found["duplicate_clusters"].filter(pl.col("unit") == "passage").height == (2 if reason else 0)


def test_the_copy_of_a_list_that_fell_takes_its_place() -> None:
    text = words("passage", 60)
    rows = [
        {"ranking_id": "r0", "domain": "math", "qid": "a", "query": LONG, "docids": ["d0", "d1"], "relevant": [0]},
        {"ranking_id": "r1", "domain": "math", "qid": "b", "query": LONG, "docids": ["d0", "d2"], "relevant": [0]},
    ]
    judged = duplicates(DuplicatePolicy())(with_passages(rows, {"d0": text, "d1": text, "d2": words("d2", 60)}))
    assert judged.lists.rows["ranking_id"].to_list() == ["r1"]


@settings(deadline=None, max_examples=40)
@given(
    edges=st.sets(st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda edge: edge[0] < edge[1]), max_size=40)
)
def test_leaders_are_those_that_taking_texts_one_by_one_would_leave(edges: set[tuple[int, int]]) -> None:
    kept: list[int] = []
    for text in range(15):
        if not any((earlier, text) in edges for earlier in kept):
            kept.append(text)
    pairs = pl.DataFrame([(*edge, 0.9) for edge in sorted(edges)], schema=PAIRS, orient="row")
    found = leaders(np.arange(15), pairs)
    assert sorted(set(range(15)) - set(found["place"])) == kept
    for place, leader in found.select("place", "leader").iter_rows():
        assert leader == min(one for one in kept if (one, place) in edges)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), changed=st.integers(0, 30))
def test_near_copies_are_those_of_the_true_jaccard(seed: int, changed: int) -> None:
    first = words(f"near/{seed}", 60)
    second = near_copy(random.Random(seed), first, changed)
    found = copies_of_earlier(pl.Series([first, second]), 0.8)
    assert found["place"].to_list() == ([1] if jaccard(first, second) >= 0.8 else [])


def test_every_planted_near_copy_among_5000_texts_is_found_and_nothing_else() -> None:
    draw = random.Random(3)
    texts = zipf_texts(4_000, 60, seed=5)
    texts += [near_copy(draw, text, draw.choice((0, 1, 1, 2, 3, 5, 8))) for text in texts[:1_000]]
    sets = shingles(texts)
    holders: dict[tuple[str, ...], list[int]] = {}
    for place, grams in enumerate(sets):
        for gram in grams:
            holders.setdefault(gram, []).append(place)
    # Whoever shares no gram has Jaccard 0: all pairs that share one are all pairs that could count.
    meeting = {pair for places in holders.values() for pair in itertools.combinations(places, 2)}
    exact = {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in meeting}
    for threshold in (0.7, 0.9):
        found = {(a, b): similar for a, b, similar in near_pairs(pl.Series(texts), threshold).iter_rows()}
        expected = {pair: similar for pair, similar in exact.items() if similar >= threshold}
        assert len(expected) > 300
        assert {pair for pair, similar in expected.items() if similar >= 0.9} <= set(found)
        assert len(set(found) - set(expected)) <= 0.01 * len(found)
        assert all(similar == pytest.approx(exact[pair]) for pair, similar in found.items())


def test_a_crowd_of_near_copies_is_found_whole() -> None:
    draw = random.Random(1)
    first = words("crowd", 80)
    texts = pl.Series([first, *(near_copy(draw, first, 1) for _ in range(300)), words("else", 80)])
    assert copies_of_earlier(texts, 0.8)["place"].to_list() == list(range(1, 301))


def test_pairs_between_two_sides_are_those_of_the_true_jaccard() -> None:
    draw = random.Random(2)
    items = zipf_texts(300, 40, seed=1)
    texts = [near_copy(draw, item, draw.randrange(8)) for item in items[:200]] + zipf_texts(200, 40, seed=2)
    mine, theirs = shingles(texts), shingles(items)
    every = itertools.product(range(len(texts)), range(len(items)))
    expected = {(a, b) for a, b in every if overlap(mine[a], theirs[b]) >= 0.7}
    found = near_pairs_between(pl.Series(texts), pl.Series(items), 0.7)
    assert set(found.select("left", "right").rows()) == expected
    assert len(expected) > 50


any_text = st.text(st.sampled_from("abcXYZ019 éßΣς中ü,.\\{}$_-\n\u00a0ﬁ²"), max_size=60)


@settings(deadline=None)
@given(texts=st.lists(any_text, max_size=12), length=st.integers(1, 5))
def test_hashes_tell_words_and_runs_apart_as_the_words_themselves_do(texts: list[str], length: int) -> None:
    series = pl.Series(texts, dtype=pl.String)
    found, hashes = [words_of(text) for text in texts], hashed(series)
    assert hashes.counts.tolist() == [len(one) for one in found]
    runs = spans(hashes, length)
    named = [tuple(one[i : i + length]) for one in found for i in range(len(one) - length + 1)]
    assert len(runs.hashes) == len(named)
    assert len(set(runs.hashes.tolist())) == len(set(named))
    whole = dict(zip(squeezed(series).to_list(), hashes.whole.tolist(), strict=True))
    assert len(set(whole.values())) == len(whole)
    assert all((value == 0) == (text == "") for text, value in whole.items())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"Show that \frac{a}{b} > \left( x + 1 \right)", "show that a/b > (x+1)"),
        (r"Let $x \in \mathbb{R}$.", r"Let \( x \in R \)"),
        (r"\begin{align*} x &= \alpha \\ y &= 2 \end{align*}", r"$x = \alpha$, $y = 2$"),
        ("for(int i=0;i<n;i++){a[i]=i;}", "for (int i = 0; i < n; i++) {\n    a[i] = i;\n}"),
        ("Straße Σίσυφος ﬁn x²", "STRASSE ΣΊΣΥΦΟΣ fin x2"),
    ],
)
def test_markup_case_and_white_space_hide_nothing(left: str, right: str) -> None:
    assert words_of(left) == words_of(right)


def test_blanks_inside_a_formula_make_no_other_text() -> None:
    texts = pl.Series(["Solve 12x+3y=4", "solve 1 2 x + 3 y = 4", "solve 12x+3y=5"])
    whole = hashed(texts).whole
    assert whole[0] == whole[1] != whole[2]


def test_pieces_and_threads_change_no_hash() -> None:
    texts = pl.Series(zipf_texts(200, 30, seed=9))
    at_once = hashed(texts)
    pieces = in_pieces(texts, lambda first, words: (first, words), piece_bytes=900)
    assert len(pieces) > 20
    assert np.concatenate([words.hashes for _, words in pieces]).tolist() == at_once.hashes.tolist()
    assert [first for first, _ in pieces] == sorted({first for first, _ in pieces})


def test_texts_without_words_are_like_nothing() -> None:
    texts = pl.Series(["", "?!", "…", "  "])
    assert copies_of_earlier(texts, 0.5).is_empty()
    assert near_pairs(texts.clear(), 0.8).is_empty()
    assert jaccards(texts, texts, np.array([0, 1]), np.array([1, 2])).tolist() == [0.0, 0.0]
    assert normalised(texts).to_list() == [""] * 4
