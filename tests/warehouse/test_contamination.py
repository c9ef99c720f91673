"""Contamination: copies of a benchmark query are found by name, however they are dressed; clean text passes."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.curation.contamination import NGRAM, WHOLE, BenchmarkIndex, contaminated, normalised_sha256, words_of
from warehouse.intake.benchmarks import read_benchmarks

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_QUERIES = REPOSITORY.parent / "shared" / "data" / "bright_runs"
real = pytest.mark.skipif(not REAL_QUERIES.is_dir(), reason=f"the real benchmark queries are not at {REAL_QUERIES}")

a_text = st.text(st.characters(codec="utf-8"), max_size=300)
a_word = st.text(string.ascii_letters + "äßéΣñ中0123456789", min_size=1, max_size=8)
some_words = st.lists(a_word, min_size=1, max_size=60)


def repunctuated(text: str, seed: int = 0) -> str:
    """The same words in other cases, with other punctuation and white space between them."""
    draw = random.Random(seed)
    found = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text))
    return "".join(
        draw.choice((word.upper(), word.lower(), word)) + draw.choice((", ", " -- ", "\n\n", "_", "…", "\t* "))
        for word in found
    )


@pytest.fixture(scope="module")
def bright() -> pl.DataFrame:
    return read_benchmarks([], [REAL_QUERIES], hub=False).items


@pytest.fixture(scope="module")
def bright_index(bright: pl.DataFrame) -> BenchmarkIndex:
    return BenchmarkIndex(bright.select("benchmark", "qid", "text").iter_rows())


@real
@pytest.mark.parametrize("dress", ["verbatim", "re-punctuated", "truncated", "inside a longer text"])
def test_every_copy_of_a_real_benchmark_query_is_found_by_name(
    bright: pl.DataFrame, bright_index: BenchmarkIndex, dress: str
) -> None:
    texts = {(benchmark, qid): text for benchmark, qid, text in bright.select("benchmark", "qid", "text").iter_rows()}
    assert len(texts) == 633
    draw, tried = random.Random(1), 0
    for (benchmark, qid), text in texts.items():
        words = words_of(text)
        copy = text
        if dress == "re-punctuated":
            copy = repunctuated(text, seed=tried)
        if dress == "truncated":
            if len(words) < NGRAM:
                continue
            start = draw.randrange(len(words) - NGRAM + 1)
            copy = " ".join(words[start : start + NGRAM])
        if dress == "inside a longer text":
            if len(words) < WHOLE:
                continue
            copy = f"A friend asked me the other day: {text} What would you have told them?"
        found = bright_index.find("row", copy)
        assert found is not None, (benchmark, qid, copy)
        _, named, item, test, shared = found
        # Some sets hold the same words under several ids; the one that is named must truly hold what is shared.
        assert f" {shared}" in f" {' '.join(words_of(texts[named, item]))}"
        assert f" {shared}" in f" {' '.join(words_of(copy))}"
        if dress in ("verbatim", "re-punctuated"):
            assert (test, words_of(texts[named, item])) == ("exact", words)
        tried += 1
    assert tried > 550


@real
def test_the_queries_of_the_seed_are_in_no_real_benchmark(bright: pl.DataFrame) -> None:
    files = sorted((REPOSITORY / "seed").glob("*/queries.jsonl"))
    seed = pl.concat([pl.read_ndjson(file).select(key="qid", text="text") for file in files])
    assert seed.height > 90
    assert contaminated(seed, bright).rows() == []


@given(text=a_text)
def test_a_text_always_overlaps_itself(text: str) -> None:
    found = BenchmarkIndex([("bench", "q1", text)]).find("row", text)
    assert (found is not None) == bool(words_of(text))
    if found is not None:
        assert found[:4] == ("row", "bench", "q1", "exact")


@given(words=some_words, seed=st.integers(0, 9))
def test_case_punctuation_and_the_form_of_unicode_hide_nothing(words: list[str], seed: int) -> None:
    text = " ".join(words)
    index = BenchmarkIndex([("bench", "q1", text)])
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        copy = repunctuated(unicodedata.normalize("NFC", text), seed)
        assert index.find("row", unicodedata.normalize(form, copy)) is not None
    assert normalised_sha256(repunctuated(text, seed)) == normalised_sha256(text)


@given(words=st.lists(a_word, min_size=NGRAM, max_size=60), before=some_words, after=some_words, data=st.data())
def test_any_thirteen_words_in_a_row_are_found_inside_another_text(
    words: list[str], before: list[str], after: list[str], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(words) - NGRAM))
    copy = [*before, *words[start : start + NGRAM], *after]
    found = BenchmarkIndex([("bench", "q1", " ".join(words))]).find("row", " ".join(copy))
    assert found is not None
    assert found[1:3] == ("bench", "q1")


@given(words=st.lists(st.integers(0, 10**6), min_size=NGRAM + 1, max_size=40, unique=True), data=st.data())
def test_a_text_that_shares_at_most_twelve_words_in_a_row_passes(words: list[int], data: st.DataObject) -> None:
    mine = [f"w{number}" for number in words]
    start = data.draw(st.integers(0, len(mine) - NGRAM + 1))
    other = ["other", *mine[start : start + NGRAM - 1], "words"]
    assert BenchmarkIndex([("bench", "q1", " ".join(mine))]).find("row", " ".join(other)) is None


def test_a_short_benchmark_query_is_found_whole_and_a_very_short_one_only_by_itself() -> None:
    short = "why do cats always land on their feet"
    tiny = "why is the sky blue"
    assert (len(words_of(short)), len(words_of(tiny))) == (WHOLE, 5)
    index = BenchmarkIndex([("bench", "short", short), ("bench", "tiny", tiny)])
    found = index.find("row", f"Tell me: {short.upper()}? And dogs?")
    assert found == ("row", "bench", "short", "8-gram", short)
    assert index.find("row", "Tell me why is the sky blue at noon") is None
    assert index.find("row", "Why is the sky BLUE?!") == ("row", "bench", "tiny", "exact", tiny)


def test_findings_name_each_row_once_and_clean_rows_are_not_among_them() -> None:
    benchmarks = pl.DataFrame({"benchmark": ["a", "b"], "qid": ["1", "2"], "text": ["One two three", "four five"]})
    texts = pl.DataFrame({"key": ["x", "y", "z"], "text": ["Four: five.", "six", "one TWO three"]})
    assert contaminated(texts, benchmarks).select("key", "benchmark", "item", "test").rows() == [
        ("x", "b", "2", "exact"),
        ("z", "a", "1", "exact"),
    ]
    assert contaminated(texts.clear(), benchmarks).height == contaminated(texts, benchmarks.clear()).height == 0


def test_texts_without_a_word_overlap_nothing() -> None:
    assert BenchmarkIndex([("bench", "q1", "?!"), ("bench", "q2", "")]).find("row", "…") is None
