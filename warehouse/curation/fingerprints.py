"""Texts as arrays of word hashes, so that a million of them are compared without a Python object a word.

    words = hashed(texts)                    # one uint64 a word, and one a whole text
    grams = spans(words, 13)                 # one uint64 a run of 13 words, and where it stands
    results = in_pieces(texts, lambda first, words: ...)

A run's hash is a polynomial over its words' hashes, taken from prefix sums modulo 2^64, so that a run costs the same
whatever its length. Equal runs have equal hashes; whoever needs certainty compares the words themselves after that
(contamination.py). Hashes are the same on every machine and are never stored.

Deliberately absent: MinHash (sketches.py) and any rule about what counts as a copy.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from warehouse.curation.words import prepared

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
T = TypeVar("T")

PIECE_BYTES = 1 << 19
"""Text hashed at once: a few arrays of 8 bytes for each byte of it should stay in a processor's cache."""
_BASES = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)  # odd, so that they have an inverse modulo 2^64


@dataclass(frozen=True)
class Words:
    """Word hashes of some texts in order: those of text `t` are `hashes[offsets[t]:offsets[t + 1]]`.

    `whole` is a hash over a text's letters and digits without its spaces, 0 for a text without words.
    """

    hashes: Hashes
    offsets: Places
    whole: Hashes

    @property
    def counts(self) -> Places:
        """Words of each text."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Spans:
    """Hashes of runs of words: those of text `t` are `hashes[offsets[t]:offsets[t + 1]]`."""

    hashes: Hashes
    offsets: Places

    def text_of(self, places: Places) -> Places:
        """The texts that the runs at `places` stand in."""
        return np.searchsorted(self.offsets, places, side="right") - 1


def hashed(texts: pl.Series) -> Words:
    """Word hashes of `texts`, all at once; `in_pieces` is for many."""
    ready = prepared(texts)
    # A blank before all and one after each text: a word never reaches into the next one.
    ends = np.cumsum(ready.str.len_bytes().to_numpy().astype(np.int64) + 1)
    raw = f" {ready.str.join(' ').item() or ''} ".encode()
    is_letter = np.frombuffer(raw.translate(_IS_LETTER), dtype=np.uint8)
    letters = np.frombuffer(raw.translate(_SMALL, _BETWEEN), dtype=np.uint8)
    edges = np.flatnonzero(is_letter[1:] != is_letter[:-1])
    offsets = np.concatenate(([0], np.searchsorted(edges[0::2], ends))).astype(np.int64)
    # Words lie end to end in `letters`: where one stops, the next one starts.
    bounds = np.concatenate(([0], np.cumsum(edges[1::2] - edges[0::2])))
    prefix = _prefix(letters.astype(np.uint64), 0)
    texts_bounds = bounds[offsets]
    return Words(
        mixed(_between(prefix, bounds, 0)),
        offsets,
        np.where(np.diff(texts_bounds) > 0, mixed(_between(prefix, texts_bounds, 0)), np.uint64(0)),
    )


def spans(words: Words, length: int, whole_if_shorter: bool = False) -> Spans:
    """Every run of `length` words; of a shorter text nothing, or the whole of it where `whole_if_shorter`."""
    counts = np.maximum(words.counts - (length - 1), 0)
    if whole_if_shorter:
        counts = np.where((counts == 0) & (words.counts > 0), 1, counts)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    starts = np.arange(offsets[-1]) + np.repeat(words.offsets[:-1] - offsets[:-1], counts)
    stops = starts + length
    if whole_if_shorter:
        stops = np.minimum(stops, np.repeat(words.offsets[1:], counts))
    prefix = _prefix(words.hashes, 1)
    runs = _stretch(prefix[stops] - prefix[starts], starts, stops - starts, 1, len(prefix))
    return Spans(mixed(runs), offsets)


def in_pieces(texts: pl.Series, work: Callable[[int, Words], T], piece_bytes: int = PIECE_BYTES) -> list[T]:
    """`work(first, words)` for pieces of `texts`, in order; `first` is the place of the piece's first text.

    Pieces run in threads (numpy lets go of the interpreter), and what they give does not depend on how many.
    """
    sizes = texts.str.len_bytes().fill_null(0).cum_sum() // piece_bytes
    firsts = [0, *(sizes.diff().fill_null(0) > 0).arg_true().to_list(), len(texts)]
    bounds = [(first, stop) for first, stop in pairwise(firsts) if stop > first]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(lambda bound: work(bound[0], hashed(texts[bound[0] : bound[1]])), bounds))


# By byte: what it counts as, whether it stands in a word, and those that do not. UTF-8 beyond ASCII is a letter.
_SMALL = bytes(range(256)).lower()
_IS_LETTER = bytes(byte >= 128 or chr(byte).isalnum() for byte in range(256))
_BETWEEN = bytes(byte for byte in range(256) if not _IS_LETTER[byte])


@lru_cache(maxsize=32)
def _powers(base: int, bits: int) -> tuple[Hashes, Hashes]:
    """base^i and base^-i modulo 2^64 for i below 2^bits."""
    inverse = pow(_BASES[base], -1, 1 << 64)
    made = []
    for factor in (_BASES[base], inverse):
        steps = np.full(1 << bits, factor, dtype=np.uint64)
        steps[0] = 1
        made.append(np.cumprod(steps, dtype=np.uint64))
    return made[0], made[1]


def _enough(count: int) -> int:
    return max(12, int(count).bit_length())


def _prefix(values: Hashes, base: int) -> Hashes:
    """Sums of value * base^place over every beginning, the empty one first."""
    powers, _ = _powers(base, _enough(len(values)))
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return sums


def _between(prefix: Hashes, bounds: Places, base: int) -> Hashes:
    """Of each stretch between two bounds."""
    return _stretch(prefix[bounds[1:]] - prefix[bounds[:-1]], bounds[:-1], np.diff(bounds), base, len(prefix))


def _stretch(sums: Hashes, starts: Places, lengths: Places, base: int, count: int) -> Hashes:
    _, inverse = _powers(base, _enough(count - 1))
    # The number of values goes in too: a run of zeros is not nothing.
    return sums * inverse[starts] + lengths.astype(np.uint64)


def mixed(values: Hashes) -> Hashes:
    """SplitMix64's last step: every bit of the result depends on every bit that came in."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
