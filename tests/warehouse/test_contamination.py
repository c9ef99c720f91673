"""Contamination: copies of a benchmark item are found by name, however they are dressed; clean text passes."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_lake import words

from warehouse.curation.benchmark_index import DISTINCT, ITEMS, NGRAM, WHOLE, BenchmarkIndex
from warehouse.curation.contamination import (
    Contaminated,
    OverlapException,
    OverlapPolicy,
    contamination,
    never_train_on,
    overlaps,
)
from warehouse.curation.filters import PASSAGES, ROWS, Lists
from warehouse.curation.words import words_of
from warehouse.intake.benchmarks import read_benchmarks

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_QUERIES = REPOSITORY.parent / "shared" / "data" / "bright_runs"
real = pytest.mark.skipif(not REAL_QUERIES.is_dir(), reason=f"the real benchmark queries are not at {REAL_QUERIES}")

a_text = st.text(st.characters(codec="utf-8"), max_size=300)
a_word = st.text(string.ascii_letters + "äßéΣñ中0123456789", min_size=1, max_size=8)
some_words = st.lists(a_word, min_size=1, max_size=60)
NEAR = OverlapPolicy().near_duplicate


def repunctuated(text: str, seed: int = 0) -> str:
    """The same words in other cases, with other punctuation and white space between them."""
    draw = random.Random(seed)
    found = re.findall(r"\\[A-Za-z]+|[^\W_]+", unicodedata.normalize("NFKC", text))
    return "".join(
        (word if word[0] == "\\" else draw.choice((word.upper(), word.lower(), word)))
        + draw.choice((", ", " -- ", "\n\n", "_", "…", "\t* "))
        for word in found
    )


def items(*texts: str, unit: str = "query", held_out: bool = False) -> pl.DataFrame:
    rows = [("bench", f"b{n}", unit, text, held_out) for n, text in enumerate(texts)]
    return pl.DataFrame(rows, schema=ITEMS, orient="row")


def found(text: str, *benchmark: str, unit: str = "query") -> list[tuple[str, str, str]]:
    """(item, test, shared) of what one text shares with some benchmark items."""
    index = BenchmarkIndex(items(*benchmark, unit=unit))
    hits = index.find(pl.Series([text]), NEAR)
    return [(f"b{item}", test, shared) for item, test, shared in hits.select("item", "test", "shared").iter_rows()]


def lists(queries: dict[str, str], passages: dict[str, str] | None = None) -> Lists:
    """A list a query, all of them holding all passages."""
    held = passages or {"d0": words("d0", 20), "d1": words("d1", 20)}
    rows = pl.DataFrame(
        [
            {
                "ranking_id": f"r-{qid}",
                "domain": "math",
                "qid": qid,
                "query": text,
                "docids": list(held),
                "relevant": [0],
            }
            for qid, text in queries.items()
        ]
    )
    texts = pl.DataFrame([{"domain": "math", "docid": docid, "text": text} for docid, text in held.items()])
    return Lists(_whole(rows, ROWS), _whole(texts, PASSAGES))


def _whole(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    missing = [pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in frame.columns]
    return frame.with_columns(missing).select(list(schema))


def by_python_sets(texts: list[str], benchmark: list[str]) -> set[tuple[int, int]]:
    """(text, item) that are the same but for blanks, share a telling run of 13 words, or hold a short query whole."""
    pairs = set()
    for b, item in enumerate(benchmark):
        theirs = words_of(item)
        length = len(theirs) if WHOLE <= len(theirs) < NGRAM else NGRAM
        runs = {tuple(theirs[i : i + length]) for i in range(len(theirs) - length + 1)}
        runs = {run for run in runs if len(set(run)) >= DISTINCT}
        for t, text in enumerate(texts):
            mine = words_of(text)
            mine_runs = {tuple(mine[i : i + length]) for i in range(len(mine) - length + 1)}
            if "".join(mine) == "".join(theirs) != "" or runs & mine_runs:
                pairs.add((t, b))
    return pairs


@pytest.fixture(scope="module")
def bright() -> pl.DataFrame:
    return never_train_on(
        read_benchmarks([], [REAL_QUERIES], hub=False).items,
        pl.DataFrame(schema={"domain": pl.String, "qid": pl.String, "text": pl.String, "split": pl.String}),
    )


def latex_spaced(text: str) -> str:
    """Formulas as another typesetter would write them: braces, thin spaces and blanks around every sign."""
    return re.sub(r"([=+<>^_(){}-])", r" \1\, ", text)


def dressed(bright: pl.DataFrame, dress: str) -> dict[str, str]:
    """Every real benchmark query as somebody might have put it into a source, by its place in `bright`."""
    planted: dict[str, str] = {}
    for number, text in enumerate(bright["text"]):
        mine, key = words_of(text), f"q{number}"
        if dress == "verbatim":
            planted[key] = text
        elif dress == "re-punctuated":
            planted[key] = repunctuated(text, seed=number)
        elif dress == "latex-spaced":
            planted[key] = latex_spaced(text)
        elif dress == "truncated" and len(mine) >= NGRAM:
            starts = [n for n in range(len(mine) - NGRAM + 1) if len(set(mine[n : n + NGRAM])) >= DISTINCT]
            start = random.Random(number).choice(starts)
            planted[key] = " ".join(mine[start : start + NGRAM])
        elif dress == "inside a longer text" and len(mine) >= WHOLE:
            planted[key] = f"A friend asked me the other day: {text} What would you have told them?"
    assert len(planted) > 550
    return planted


def all_named(shared: pl.DataFrame, bright: pl.DataFrame, planted: dict[str, str]) -> bool:
    """Whether every planted list is named with the item that it was planted from."""
    named = set(shared.select("ranking_id", "benchmark", "item").iter_rows())
    sides = enumerate(bright.select("benchmark", "item").iter_rows())
    return all((f"r-q{n}", *side) in named for n, side in sides if f"q{n}" in planted)


@real
@pytest.mark.parametrize("dress", ["verbatim", "re-punctuated", "truncated", "latex-spaced", "inside a longer text"])
def test_every_real_benchmark_query_planted_into_a_source_is_rejected_by_name(bright: pl.DataFrame, dress: str) -> None:
    planted = dressed(bright, dress)
    clean = {f"clean{n}": words(f"clean{n}", 30) for n in range(50)}
    judged = contamination(OverlapPolicy(), bright)(lists({**planted, **clean}))
    assert judged.lists.rows["qid"].sort().to_list() == sorted(clean)
    shared = judged.found["benchmark_overlaps"]
    assert all_named(shared, bright, planted)
    for test, run in shared.select("test", "shared").iter_rows():
        assert run and (not test.endswith("-gram") or len(run.split()) == int(test.split("-")[0]))


@real
def test_a_policy_that_stops_releases_nothing_and_names_every_planted_row(bright: pl.DataFrame) -> None:
    dresses = [dressed(bright, dress) for dress in ("verbatim", "re-punctuated", "truncated")]
    planted = {key: text for n, dress in enumerate(dresses) for key, text in dress.items() if int(key[1:]) % 3 == n}
    source = lists({**planted, "clean": words("clean", 30)})
    said = rf"{len(planted)} lists share text .* r-q\d+ \(query: .* with bright_runs/.* and \d+ more\. Nothing was"
    with pytest.raises(Contaminated, match=said) as stopped:
        contamination(OverlapPolicy(at_finding="stop"), bright)(source)
    assert all_named(stopped.value.overlaps, bright, planted)
    assert "r-clean" not in set(stopped.value.overlaps["ranking_id"])


@real
def test_the_queries_of_the_seed_are_in_no_real_benchmark(bright: pl.DataFrame) -> None:
    files = sorted((REPOSITORY / "seed").glob("*/queries.jsonl"))
    seed = pl.concat([pl.read_ndjson(file).select("text") for file in files])["text"]
    assert len(seed) > 90
    assert BenchmarkIndex(bright).find(seed, NEAR).is_empty()


@settings(deadline=None, max_examples=50)
@given(text=a_text)
def test_a_text_always_overlaps_itself(text: str) -> None:
    assert [test for _, test, _ in found(text, text)] == (["exact"] if words_of(text) else [])


@settings(deadline=None, max_examples=30)
@given(words=some_words, seed=st.integers(0, 9))
def test_case_punctuation_and_the_form_of_unicode_hide_nothing(words: list[str], seed: int) -> None:
    text = " ".join(words)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        copy = repunctuated(unicodedata.normalize("NFC", text), seed)
        assert [test for _, test, _ in found(unicodedata.normalize(form, copy), text)] == ["exact"]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_findings_are_those_of_comparing_every_pair_as_sets_of_words(data: st.DataObject) -> None:
    few = st.sampled_from(["red", "green", "blue", "cyan", "pink", "gold", "grey", "teal", "lime", "navy"])
    texts = data.draw(st.lists(st.lists(few, max_size=40).map(" ".join), max_size=6))
    benchmark = data.draw(st.lists(st.lists(few, max_size=30).map(" ".join), max_size=6))
    cuts = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(5, 25)), max_size=4))
    for which, start, length in cuts:
        if benchmark:
            texts.append("so " + " ".join(benchmark[which % len(benchmark)].split()[start : start + length]) + " then")
    index = BenchmarkIndex(items(*benchmark))
    hits = index.find(pl.Series(texts, dtype=pl.String), 1.0).filter(pl.col("test") != "near-duplicate")
    assert set(hits.select("text", "item").rows()) == by_python_sets(texts, benchmark)


@settings(deadline=None, max_examples=30)
@given(words=st.lists(st.integers(0, 10**6), min_size=NGRAM + 1, max_size=40, unique=True), data=st.data())
def test_a_text_that_shares_at_most_twelve_words_in_a_row_passes(words: list[int], data: st.DataObject) -> None:
    mine = [f"w{number}" for number in words]
    start = data.draw(st.integers(0, len(mine) - NGRAM + 1))
    other = ["other", *mine[start : start + NGRAM - 1], "words", *(f"v{number}" for number in range(30))]
    assert found(" ".join(other), " ".join(mine)) == []


def test_a_short_benchmark_query_is_found_whole_and_a_very_short_one_only_by_itself() -> None:
    short, tiny = "why do cats always land on their feet", "why is the sky blue"
    assert (len(words_of(short)), len(words_of(tiny))) == (WHOLE, 5)
    assert found(f"Tell me: {short.upper()}? And dogs?", short, tiny) == [("b0", "8-gram", short)]
    assert found("Tell me why is the sky blue at noon", short, tiny) == []
    assert found("Why is the sky BLUE?!", short, tiny) == [("b1", "exact", tiny)]
    # A short passage is no question that somebody could be asking.
    assert found(f"Tell me: {short.upper()}? And dogs?", short, unit="passage") == []


def test_a_row_of_a_matrix_is_nobodys_text() -> None:
    matrix = " ".join(["0 0 1"] * 10)
    assert found(f"Invert {matrix} please", f"Given {matrix} find the rank") == []


def test_a_copy_with_every_twelfth_word_changed_is_a_near_duplicate_and_its_longest_run_is_shown() -> None:
    text = words("near", 60).split()
    changed = [f"x{n}" if n % 12 == 11 else word for n, word in enumerate(text)]
    ((item, test, shared),) = found(" ".join(changed), words("far", 60), " ".join(text))
    assert (item, test, shared) == ("b1", "near-duplicate", " ".join(text[:11]))


def test_every_item_that_a_text_meets_is_named_by_the_strongest_test() -> None:
    text = words("a", 20)
    benchmark = (text.upper(), "before " + text, words("b", 20), " ".join(text.split()[:13]))
    assert [(item, test) for item, test, _ in found(text, *benchmark)] == [
        ("b0", "exact"), ("b1", "13-gram"), ("b3", "13-gram"),
    ]  # fmt: skip


def test_a_passage_meets_benchmarks_but_not_the_held_out_queries_that_it_answers() -> None:
    question, shared = words("question", 20), words("shared", 20)
    passages = {"d0": f"Somebody asked: {question}", "d1": words("d1", 20), "d2": f"Quoted: {shared}"}
    source = lists({"q0": words("q0", 9)}, passages)
    held_out = items(question, held_out=True)
    assert overlaps(source, held_out, OverlapPolicy()).is_empty()
    told = overlaps(source, pl.concat([held_out, items(shared, unit="passage")]), OverlapPolicy())
    assert told.select("ranking_id", "unit", "docid", "benchmark", "item", "item_unit", "test").rows() == [
        ("r-q0", "passage", "d2", "bench", "b0", "passage", "13-gram")
    ]
    asked = overlaps(lists({"q0": f"I wonder: {question}"}), held_out, OverlapPolicy())
    assert asked.select("unit", "docid", "item", "item_unit").rows() == [("query", None, "b0", "query")]


def test_a_vetted_exception_lets_one_pair_pass_and_nothing_else() -> None:
    text = words("a", 20)
    source, never = lists({"q0": text, "q1": text + " more"}), items(text, text + " also")
    vetted = [
        OverlapException(benchmark="bench", item=item, domain="math", qid="q0", reason="Both quote a textbook.")
        for item in ("b0", "b1")
    ]
    half = contamination(OverlapPolicy(exceptions=tuple(vetted[:1])), never)(source)
    assert half.lists.rows.is_empty()
    judged = contamination(OverlapPolicy(exceptions=tuple(vetted), at_finding="reject"), never)(source)
    assert judged.lists.rows["qid"].to_list() == ["q0"]
    told = judged.decisions.sort("ranking_id").select("ranking_id", "outcome", "reason").rows()
    assert told == [("r-q0", "excepted", "contaminated"), ("r-q1", "rejected", "contaminated")]
    assert "excepted: Both quote a textbook." in judged.decisions.sort("ranking_id")["detail"][0]
    kept = judged.found["benchmark_overlaps"].filter(pl.col("exception") == "Both quote a textbook.")
    assert kept.select("ranking_id", "item").rows() == [("r-q0", "b0"), ("r-q0", "b1")]


@pytest.mark.parametrize(
    "wrong", [{"qid": "q", "reason": "  "}, {"reason": "why"}, {"qid": "q", "docid": "d", "reason": "why"}]
)
def test_an_exception_without_a_reason_or_without_one_text_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        OverlapException(**{"benchmark": "bench", "item": "b0", "domain": "math", **wrong})


def test_every_list_gets_a_decision_whether_it_shares_something_or_not() -> None:
    text = words("a", 20)
    judged = contamination(OverlapPolicy(), items(text))(lists({"q0": text, "q1": words("b", 20)}))
    assert judged.decisions.sort("ranking_id").select("ranking_id", "filter", "outcome").rows() == [
        ("r-q0", "contamination", "rejected"), ("r-q1", "contamination", "kept"),
    ]  # fmt: skip


def test_a_kept_list_is_told_what_it_was_compared_with() -> None:
    def told(never: pl.DataFrame) -> str:
        return contamination(OverlapPolicy(), never)(lists({"q": words("b", 20)})).decisions["detail"].item()

    held_out = items(words("mine", 9), held_out=True)
    assert told(pl.concat([items(words("a", 20), words("c", 20)), held_out])) == (
        "compared with 2 items of bench and 1 held-out queries"
    )
    assert told(held_out) == "no benchmark was read; compared with 1 held-out queries"
    assert told(ITEMS.to_frame()) == "no benchmark was read; compared with 0 held-out queries"


def test_held_out_queries_are_never_trained_on_and_an_item_without_a_unit_is_a_query() -> None:
    benchmarks = pl.DataFrame(
        {"benchmark": ["bench"] * 2, "qid": ["b1", "d1"], "text": ["One?", "Two."], "unit": [None, "passage"]}
    )
    queries = pl.DataFrame(
        {"domain": ["math"] * 3, "qid": ["1", "2", "3"], "text": ["a", "b", "c"], "split": ["train", "dev", "test"]}
    )
    assert never_train_on(benchmarks, queries).rows() == [
        ("bench", "d1", "passage", "Two.", False),
        ("bench", "b1", "query", "One?", False),
        ("held-out math", "2", "query", "b", True),
        ("held-out math", "3", "query", "c", True),
    ]
