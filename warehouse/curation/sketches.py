"""Near copies: MinHash signatures (rensa), bands of them that meet, and then the true Jaccard of every pair that met.

    near_pairs(texts, 0.8)                # left, right, similarity: places in `texts`, left < right
    near_pairs_between(texts, items, 0.7) # left in `texts`, right in `items`

Similarity is the Jaccard index of the sets of word 3-grams; a text of fewer words is one gram, a text without words
resembles nothing. Bands are cut so that a pair at the threshold is missed with a chance of at most MISSED; a pair above
it far less. What is reported has been counted, so nothing below the threshold is.

Deliberately absent: what follows from a pair (duplicates.py, contamination.py).
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from warehouse.curation.fingerprints import Hashes, Places, Spans, Words, in_pieces, mixed, spans

SHINGLE = 3
PERMUTATIONS = 128
MISSED = 1e-4
CROWD = 64
"""In a band where more texts than this meet, each is compared with as many that follow it and with the first."""
PAIRS_AT_ONCE = 100_000
PAIRS = pl.Schema({"left": pl.Int64(), "right": pl.Int64(), "similarity": pl.Float64()})


def near_pairs(texts: pl.Series, threshold: float) -> pl.DataFrame:
    """Pairs of `texts` whose Jaccard is at least `threshold` (PAIRS), by place."""
    bands, known = _bands(texts, threshold)
    count = len(texts)
    codes = [np.zeros(0, np.int64)]
    for band in bands:
        order = known[np.argsort(band, kind="stable")]
        keys = np.sort(band)
        for step in range(1, CROWD + 1):
            met = np.flatnonzero(keys[step:] == keys[:-step])
            if met.size == 0:
                break
            codes.append(order[met] * count + order[met + step])
        else:
            first = np.searchsorted(keys, keys)
            late = np.flatnonzero(np.arange(len(keys)) - first > CROWD)
            codes.append(order[first[late]] * count + order[late])
    pairs = np.unique(np.concatenate(codes))
    return _verified(texts, texts, pairs // count, pairs % count, threshold) if count else PAIRS.to_frame()


def near_pairs_between(texts: pl.Series, items: pl.Series, threshold: float) -> pl.DataFrame:
    """Pairs of a text and an item whose Jaccard is at least `threshold` (PAIRS), by place."""
    count = len(items)
    if not len(texts) or not count:
        return PAIRS.to_frame()
    bands, known = _bands(texts, threshold)
    item_bands, known_items = _bands(items, threshold)
    codes = [np.zeros(0, np.int64)]
    for band, item_band in zip(bands, item_bands, strict=True):
        order = known_items[np.argsort(item_band, kind="stable")]
        keys = np.sort(item_band)
        first = np.searchsorted(keys, band, side="left")
        # Nearly every text meets nothing: only those that do are looked up a second time.
        met = np.flatnonzero(keys[np.minimum(first, len(keys) - 1)] == band) if len(keys) else np.zeros(0, np.int64)
        places, rights = expanded(first[met], np.searchsorted(keys, band[met], side="right"))
        codes.append(known[met[places]] * count + order[rights])
    pairs = np.unique(np.concatenate(codes))
    return _verified(texts, items, pairs // count, pairs % count, threshold)


def expanded(firsts: Places, stops: Places) -> tuple[Places, Places]:
    """Every whole number of every range: the range's own place, and the number."""
    counts = stops - firsts
    owners = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, within + np.repeat(firsts, counts)


def rows_a_band(threshold: float) -> int:
    """As many rows a band as still miss a pair at `threshold` with a chance of at most MISSED."""
    fits = [
        rows for rows in range(1, 17) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED
    ]  # fmt: skip
    return max(fits, default=1)


def _bands(texts: pl.Series, threshold: float) -> tuple[list[Hashes], Places]:
    """One array a band, with a key for each text that has a word; and the places of those texts."""
    from rensa import RMinHash

    rows = rows_a_band(threshold)
    count = PERMUTATIONS // rows

    def piece(first: int, words: Words) -> tuple[Hashes, Places]:
        shingles = spans(words, SHINGLE, whole_if_shorter=True)
        offsets = shingles.offsets.astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles.hashes, offsets, PERMUTATIONS, 0)
        signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, PERMUTATIONS)
        known = np.flatnonzero(words.counts > 0)
        keys = np.zeros((len(known), count), dtype=np.uint64)
        for row in range(rows):
            keys = mixed(keys + signatures[known, row : rows * count : rows])
        return keys, known + first

    made = in_pieces(texts, piece)
    if not made:
        return [np.zeros(0, np.uint64)] * count, np.zeros(0, np.int64)
    keys = np.concatenate([keys for keys, _ in made])
    return [np.ascontiguousarray(keys[:, band]) for band in range(count)], np.concatenate([known for _, known in made])


def _verified(texts: pl.Series, items: pl.Series, left: Places, right: Places, threshold: float) -> pl.DataFrame:
    """The pairs whose true Jaccard is at least `threshold`."""
    found = [PAIRS.to_frame()]
    for first in range(0, len(left), PAIRS_AT_ONCE):
        some = slice(first, first + PAIRS_AT_ONCE)
        similar = jaccards(texts, items, left[some], right[some])
        kept = similar >= threshold
        found.append(
            pl.DataFrame({"left": left[some][kept], "right": right[some][kept], "similarity": similar[kept]})
        )  # fmt: skip
    return pl.concat(found)


def jaccards(texts: pl.Series, items: pl.Series, left: Places, right: Places) -> npt.NDArray[np.float64]:
    """The Jaccard index of the word 3-grams of each pair (texts[left], items[right])."""
    mine, of_mine = np.unique(left, return_inverse=True)
    theirs, of_theirs = np.unique(right, return_inverse=True)
    ours, their = _sets(texts.gather(mine)), _sets(items.gather(theirs))
    owners, places = expanded(ours.offsets[of_mine], ours.offsets[of_mine + 1])
    other_owners, other_places = expanded(their.offsets[of_theirs], their.offsets[of_theirs + 1])
    owner = np.concatenate((owners, other_owners))
    # A gram of a pair stands twice where both have it; pairs are kept apart by what their number adds.
    apart = mixed(owner.astype(np.uint64) + np.uint64(1))
    grams = mixed(np.concatenate((ours.hashes[places], their.hashes[other_places])) ^ apart)
    order = np.argsort(grams)
    twice = np.flatnonzero(grams[order[1:]] == grams[order[:-1]])
    shared = np.bincount(owner[order[twice]], minlength=len(left))
    sizes = np.diff(ours.offsets)[of_mine] + np.diff(their.offsets)[of_theirs]
    together = sizes - shared
    return np.divide(shared, together, out=np.zeros(len(left)), where=together > 0)


def _sets(texts: pl.Series) -> Spans:
    """The distinct shingles of each text."""

    def piece(_: int, words: Words) -> tuple[Hashes, Places]:
        shingles = spans(words, SHINGLE, whole_if_shorter=True)
        owner = np.repeat(np.arange(len(words.counts)), np.diff(shingles.offsets))
        order = np.lexsort((shingles.hashes, owner))
        owner, hashes = owner[order], shingles.hashes[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        return hashes[new], np.bincount(owner[new], minlength=len(words.counts))

    made = in_pieces(texts, piece)
    counts = np.concatenate([counts for _, counts in made]) if made else np.zeros(0, np.int64)
    hashes = np.concatenate([hashes for hashes, _ in made]) if made else np.zeros(0, np.uint64)
    return Spans(hashes, np.concatenate(([0], np.cumsum(counts))).astype(np.int64))
