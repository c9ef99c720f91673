"""Benchmark items, indexed once, and every text that shares something with one of them.

    index = BenchmarkIndex(items)          # items: ITEMS
    found = index.find(texts, near=0.7)    # FOUND: text and item by place, the test that caught it, what they share

Three tests, each exact in what it reports: the same letters and digits in the same order ("exact"); 13 words in a row
in common ("13-gram"), or a benchmark query of 8 to 12 words standing whole inside a longer text ("8-gram" to
"12-gram"), unless the run repeats fewer than 5 words; and a Jaccard of word 3-grams from `near` on between texts of at
least 13 words ("near-duplicate"). A pair is reported once, by the first test in that order. Hashes only propose: what
is reported was compared word by word.

Deliberately absent: what follows for a list (contamination.py).
"""

import difflib

import numpy as np
import numpy.typing as npt
import polars as pl

from warehouse.curation.fingerprints import Hashes, Places, Words, in_pieces, spans
from warehouse.curation.sketches import expanded, near_pairs_between
from warehouse.curation.words import normalised

NGRAM = 13
WHOLE = 8  # a shorter benchmark query counts as found inside a longer text only from this many words on
DISTINCT = 5  # a run of fewer different words (a row of a matrix, a rule of dashes read aloud) is nobody's text
SHOWN = 200
ITEMS = pl.Schema(
    {"benchmark": pl.String(), "item": pl.String(), "unit": pl.String(), "text": pl.String(), "held_out": pl.Boolean()}
)
"""`unit` is query or passage; `held_out` marks a source's own dev and test queries."""
FOUND = pl.Schema(
    {"text": pl.Int64(), "item": pl.Int64(), "test": pl.String(), "similarity": pl.Float64(), "shared": pl.String()}
)
_HITS = pl.Schema({"text": pl.Int64(), "item": pl.Int64(), "length": pl.Int64(), "start": pl.Int64()})
_BITS = 27
_EXACT = 0  # the length of a hit of the exact test


class _Postings:
    """Items by hash, behind a bit a hash: nearly every hash of a clean text is told apart by that alone."""

    def __init__(self, hashes: Hashes, items: Places) -> None:
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.items = hashes[order], items[order]
        self._there = np.zeros(1 << (_BITS - 3), dtype=np.uint8)
        slots = hashes >> np.uint64(64 - _BITS)
        np.bitwise_or.at(self._there, slots >> np.uint64(3), _bit(slots))

    def meet(self, hashes: Hashes) -> tuple[Places, Places]:
        """(place in `hashes`, item) of every hash that an item has too."""
        slots = hashes >> np.uint64(64 - _BITS)
        maybe = np.flatnonzero(self._there[slots >> np.uint64(3)] & _bit(slots))
        first = np.searchsorted(self.hashes, hashes[maybe], side="left")
        stop = np.searchsorted(self.hashes, hashes[maybe], side="right")
        owners, places = expanded(first, stop)
        return maybe[owners], self.items[places]


class BenchmarkIndex:
    """Items ready to be met by any number of texts."""

    def __init__(self, items: pl.DataFrame) -> None:
        self.items = items
        self._words = normalised(items["text"])
        counts = _counts(self._words)
        places = np.arange(items.height, dtype=np.int64)
        queries = (items["unit"] == "query").to_numpy()
        self._exact = self._postings(_EXACT, places[counts > 0])
        self._runs = {NGRAM: self._postings(NGRAM, places[counts >= NGRAM])}
        for length in range(WHOLE, NGRAM):
            of_length = places[queries & (counts == length)]
            if of_length.size:
                self._runs[length] = self._postings(length, of_length)
        self._long = places[counts >= NGRAM]

    def find(self, texts: pl.Series, near: float | None) -> pl.DataFrame:
        """FOUND: every pair of a text and an item that a test catches, by place; without `near` two tests alone."""
        if texts.is_empty() or self.items.is_empty():
            return FOUND.to_frame()
        hits = pl.concat(in_pieces(texts, self._piece))
        runs = self._compared(texts, hits)
        similar = [] if near is None else [self._similar(texts, near, runs)]
        return pl.concat([runs, *similar]).sort("text", "item")

    def _postings(self, length: int, items: Places) -> _Postings:
        def piece(first: int, words: Words) -> tuple[Hashes, Places]:
            if length == _EXACT:
                return words.whole, np.arange(first, first + len(words.whole))
            runs = spans(words, length)
            owners = runs.text_of(np.arange(len(runs.hashes)))
            # A run never leaves its text, so the window of words that begins where it does is the run.
            starts = np.arange(len(runs.hashes)) - runs.offsets[owners] + words.offsets[owners]
            telling = _distinct(words.hashes, length)[starts] >= DISTINCT
            return runs.hashes[telling], owners[telling] + first

        made = in_pieces(self._words.gather(items), piece)
        hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in made)])
        owners = np.concatenate([np.zeros(0, np.int64), *(owners for _, owners in made)])
        return _Postings(hashes, items[owners])

    def _piece(self, first: int, words: Words) -> pl.DataFrame:
        """_HITS of a piece of the texts: one a pair, the strongest test and the earliest place."""
        texts, items = self._exact.meet(words.whole)
        hits = [_hits(texts, items, _EXACT, np.zeros(len(texts), np.int64))]
        for length, postings in self._runs.items():
            runs = spans(words, length)
            places, items = postings.meet(runs.hashes)
            texts = runs.text_of(places)
            hits.append(_hits(texts, items, length, places - runs.offsets[texts]))
        strongest = pl.when(pl.col("length") == _EXACT).then(99).otherwise("length")
        return (
            pl.concat(hits)
            .sort(strongest, -pl.col("start"), descending=True)
            .unique(["text", "item"], keep="first", maintain_order=True)
            .with_columns(pl.col("text") + first)
        )

    def _compared(self, texts: pl.Series, hits: pl.DataFrame) -> pl.DataFrame:
        """FOUND for the hits whose words are truly the same."""
        if hits.is_empty():
            return FOUND.to_frame()
        exact = pl.col("length") == _EXACT
        sides = hits.with_columns(
            mine=normalised(texts.gather(hits["text"].to_numpy())), theirs=self._words.gather(hits["item"].to_numpy())
        )
        run = pl.col("mine").str.split(" ").list.slice("start", "length").list.join(" ")
        spaced = pl.format(" {} ", "theirs").str.contains(pl.format(" {} ", "shared"), literal=True)
        together = pl.col("mine").str.replace_all(" ", "") == pl.col("theirs").str.replace_all(" ", "")
        return (
            sides.with_columns(shared=pl.when(exact).then("mine").otherwise(run))
            .filter(pl.when(exact).then(together).otherwise(spaced))
            .select(
                "text",
                "item",
                test=pl.when(exact).then(pl.lit("exact")).otherwise(pl.format("{}-gram", "length")),
                similarity=pl.when(exact).then(pl.lit(1.0)).otherwise(pl.lit(None, pl.Float64)),
                shared=pl.col("shared").str.slice(0, SHOWN),
            )
        )

    def _similar(self, texts: pl.Series, near: float, known: pl.DataFrame) -> pl.DataFrame:
        """FOUND for near copies that are not `known` already."""
        pairs = near_pairs_between(texts, self._words.gather(self._long), near)
        items = pl.Series(self._long[pairs["right"].to_numpy()], dtype=pl.Int64)
        sides = pairs.select(text="left", item=items, similarity="similarity").join(
            known, on=["text", "item"], how="anti"
        )
        if sides.is_empty():
            return FOUND.to_frame()
        sides = sides.with_columns(
            mine=normalised(texts.gather(sides["text"].to_numpy())), theirs=self._words.gather(sides["item"].to_numpy())
        ).filter(pl.col("mine").str.count_matches(" ", literal=True) >= NGRAM - 1)
        shared = [_longest_run(mine, theirs) for mine, theirs in sides.select("mine", "theirs").iter_rows()]
        return sides.select(
            "text", "item", test=pl.lit("near-duplicate"), similarity="similarity",
            shared=pl.Series(shared, dtype=pl.String),
        )  # fmt: skip


def _distinct(hashes: Hashes, length: int) -> Places:
    """How many different words stand in the window of `length` words that begins at each."""
    if len(hashes) < length:
        return np.zeros(0, np.int64)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(hashes, length), axis=1)
    return 1 + (windows[:, 1:] != windows[:, :-1]).sum(axis=1)


def _hits(texts: Places, items: Places, length: int, starts: Places) -> pl.DataFrame:
    columns = {"text": texts, "item": items, "length": np.full(len(texts), length), "start": starts}
    return pl.DataFrame(columns, schema=_HITS)


def _bit(slots: Hashes) -> npt.NDArray[np.uint8]:
    return (np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8)).astype(np.uint8)


def _counts(words: pl.Series) -> Places:
    """Words of normalised texts."""
    spaces = words.str.count_matches(" ", literal=True).cast(pl.Int64)
    return (spaces + (words.str.len_bytes() > 0).cast(pl.Int64)).to_numpy()


def _longest_run(mine: str, theirs: str) -> str:
    """The longest run of words in common: what a person looks at where no 13 words are."""
    ours, their = mine.split(), theirs.split()
    match = difflib.SequenceMatcher(None, ours, their, autojunk=False).find_longest_match()
    return " ".join(ours[match.a : match.a + match.size])[:SHOWN]
