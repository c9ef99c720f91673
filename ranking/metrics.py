"""Ranking measures with trec_eval's semantics, over all queries at once.

    per_query = evaluate(run, qrels)                          # frames: one row a query of the qrels
    values = evaluate_arrays(scores, grades, judged)          # arrays: one row a query, one value a query

Semantics: documents by score, falling, ties by docid, falling (scores compared as 32-bit floats, as trec_eval holds
them); unjudged is not relevant; a grade below 1 gains nothing; the gain is the grade itself; a query of the qrels that
the run lacks scores 0, and the mean is over all queries of the qrels. Names are ir-measures'; values are from 0 to 1.
Absent on purpose: what to make of the values (ranking.statistics), and measures of unjudged documents.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

DEFAULT_MEASURES = ("nDCG@10", "R@10", "R@100", "RR", "AP")
_MEASURE = re.compile(r"(?P<name>nDCG|R|P)@(?P<k>[1-9]\d*)|(?P<whole>nDCG|RR|AP)")
# Queries are padded to the longest of their block; a block of more cells than this is cut.
CELLS = 4_000_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Precedence = Callable[[Ints], NDArray[np.integer]]


class MeasureError(ValueError):
    """An unknown measure, or a run or qrels that cannot be evaluated."""


@dataclass(frozen=True)
class Hits:
    """Relevant documents of Q queries: row of the query, rank from 1, grade; query by query, by rank within one."""

    row: Ints
    rank: Ints
    grade: Floats


def evaluate(
    run: pl.DataFrame,
    qrels: pl.DataFrame,
    measures: Sequence[str] = DEFAULT_MEASURES,
    by: Sequence[str] = ("qid",),
) -> pl.DataFrame:
    """One row for every query of `qrels` (key columns `by`), one Float64 column for each measure.

    `run` holds `by`, docid, score; `qrels` holds `by`, docid, grade. Raises MeasureError when a document stands twice
    in a query, a score is no number, or a measure is unknown.
    """
    asked = [_parse(measure) for measure in measures]
    keys = list(by)
    _refuse_repeats("run", run, keys)
    _refuse_repeats("qrels", qrels, keys)
    queries = qrels.select(keys).unique().sort(keys).with_row_index("row")
    found = _by_query(run.select(*keys, "docid", pl.col("score").cast(pl.Float32)), queries, keys)
    if (broken := found.filter(pl.col("score").is_null() | pl.col("score").is_nan())).height:
        raise MeasureError(
            f"the run has no score for {broken['docid'][0]!r} of query {queries[keys[-1]][broken['row'][0]]!r}. "
            f"Give it a number."
        )
    judged = _by_query(qrels.select(*keys, "docid", "grade"), queries, keys).filter(pl.col("grade") > 0)
    best = judged.sort("row", "grade", descending=[False, True])
    best_row = best["row"].to_numpy()
    ideal = Hits(best_row, _place(best_row) + 1, best["grade"].to_numpy().astype(np.float64))
    hits = _hits_of_frame(found, judged)
    values = _values(asked, hits, ideal, queries.height)
    return queries.select(keys).with_columns(
        pl.Series(measure, value, dtype=pl.Float64) for measure, value in zip(measures, values, strict=True)
    )


def evaluate_arrays(
    scores: ArrayLike,
    grades: ArrayLike,
    judged: ArrayLike,
    measures: Sequence[str] = DEFAULT_MEASURES,
    docs: ArrayLike | None = None,
) -> dict[str, Floats]:
    """Values of Q queries, an array of shape (Q,) for each measure.

    `scores` and `grades` (Q, K): what the run gave each document, and its grade (unjudged 0); a shorter list is filled
    up with NaN scores. `judged` (Q, J): all grades of the query's judgements in any order, filled up with 0. `docs`
    (Q, K): whole numbers in the order of the docids, which decide ties; without them a tie is a MeasureError.
    """
    asked = [_parse(measure) for measure in measures]
    score, grade = np.asarray(scores, np.float32), np.asarray(grades)
    every = np.asarray(judged)
    if score.ndim != 2 or score.shape != grade.shape or every.ndim != 2 or len(every) != len(score):
        raise MeasureError(
            f"scores {score.shape}, grades {grade.shape} and judged {every.shape} do not fit: one row a query each, "
            f"and a grade for each score."
        )
    numbers = None if docs is None else np.asarray(docs)

    def precedence(rows: Ints) -> NDArray[np.integer]:
        if numbers is None:
            raise MeasureError(f"query number {rows[0]} has ties, which go by docid: give docs, numbers in that order.")
        return numbers[rows]

    hits = _hits(score, grade, precedence)
    best = np.sort(every, axis=1)[:, ::-1].reshape(-1)
    at = np.flatnonzero(best > 0)
    row, place = np.divmod(at, max(1, every.shape[1]))
    ideal = Hits(row, place + 1, best[at].astype(np.float64))
    return dict(zip(measures, _values(asked, hits, ideal, len(score)), strict=True))


def _parse(measure: str) -> tuple[str, int | None]:
    match = _MEASURE.fullmatch(measure)
    if match is None:
        raise MeasureError(f"unknown measure {measure!r}. Known: nDCG@k, nDCG, R@k, P@k, RR, AP (ir-measures' names).")
    return match["name"] or match["whole"], int(match["k"]) if match["k"] else None


def _by_query(frame: pl.DataFrame, queries: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """row, docid and the value of the lines whose query counts; the lines of a query stand together."""
    if frame.is_empty():
        return frame.drop(keys).insert_column(0, pl.Series("row", [], dtype=pl.Int64))
    # A query's lines nearly always stand together: one look-up for each of them, not for each line.
    changes = frame.select(pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift()) for key in keys)).to_series()
    first = np.union1d([0], np.flatnonzero(changes.to_numpy()))
    heads = frame.select(keys)[first].join(queries, on=keys, how="left", maintain_order="left", nulls_equal=True)
    head_row = heads["row"].cast(pl.Int64).fill_null(-1).to_numpy()
    row = head_row.repeat(np.diff(first, append=frame.height))
    numbered = frame.drop(keys).insert_column(0, pl.Series("row", row))
    if (head_row < 0).any():
        numbered = numbered.filter(pl.col("row") >= 0)
    known = head_row[head_row >= 0]
    return numbered if len(np.unique(known)) == len(known) else numbered.sort("row", maintain_order=True)


def _refuse_repeats(name: str, frame: pl.DataFrame, keys: list[str]) -> None:
    # One hash a row: where no two are alike no two rows are, and the slow question need not be asked.
    hashes = np.sort(frame.select(*keys, "docid").hash_rows().to_numpy())
    if not (hashes[1:] == hashes[:-1]).any():
        return
    repeated = frame.filter(pl.struct(*keys, "docid").is_duplicated())
    if repeated.height:
        raise MeasureError(
            f"the {name} lists {repeated['docid'][0]!r} more than once for query {repeated[keys[-1]][0]!r}. "
            f"Give each document one line a query."
        )


def _hits_of_frame(found: pl.DataFrame, judged: pl.DataFrame) -> Hits:
    """Hits from row, docid, score and the relevant row, docid, grade, by blocks of queries of like length."""
    met = found.select("row", "docid").with_row_index("line").join(judged, on=["row", "docid"], how="inner")
    score, grade = found["score"].to_numpy(), np.zeros(found.height, np.int64)
    grade[met["line"].to_numpy()] = met["grade"].to_numpy()
    row = found["row"].to_numpy()
    first = np.flatnonzero(_place(row) == 0)
    lengths = np.diff(first, append=len(row))
    parts = [Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for block in _blocks(lengths):
        length = lengths[block]
        shape = (len(block), int(length[0]))
        if length[-1] == length[0] and block[-1] - block[0] == len(block) - 1:
            whole = slice(first[block[0]], first[block[-1]] + length[-1])
            scores, grades = score[whole].reshape(shape), grade[whole].reshape(shape)
        else:
            inside = np.arange(shape[1]) < length[:, None]
            lines = np.where(inside, first[block][:, None] + np.arange(shape[1]), 0)
            scores, grades = np.where(inside, score[lines], np.float32(np.nan)), np.where(inside, grade[lines], 0)
        hits = _hits(scores, grades, _by_docid(found["docid"], first[block], length))
        parts.append(Hits(row[first[block]][hits.row], hits.rank, hits.grade))
    together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "rank", "grade")}
    return Hits(**together)


def _by_docid(docids: pl.Series, first: Ints, lengths: Ints) -> Precedence:
    """Numbers in the order of the docids for those rows alone that have ties: strings are slow to sort."""

    def precedence(rows: Ints) -> NDArray[np.integer]:
        line = np.repeat(np.arange(len(rows)), lengths[rows])
        place = _place(line)
        names = docids[np.repeat(first[rows], lengths[rows]) + place]
        numbers = np.full((len(rows), int(lengths[0])), -1, np.int64)
        numbers[line, place] = names.rank("dense").to_numpy()
        return numbers

    return precedence


def _blocks(lengths: Ints) -> Iterator[Ints]:
    """Indices of queries, longest first, in blocks of at most CELLS padded cells."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, CELLS // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def _hits(scores: NDArray[np.float32], grades: NDArray, precedence: Precedence) -> Hits:
    """Relevant documents by rank; `scores` and `grades` (Q, K), NaN scores stand last.

    Rows are sorted, which takes no order along, and the few relevant documents are looked up in them.
    """
    width = max(1, scores.shape[1])
    at = np.flatnonzero(grades > 0)
    row = at // width
    falling = -scores
    ranked = np.sort(falling, axis=1).reshape(-1)
    value = falling.reshape(-1)[at]
    above, before = np.zeros_like(at), row * width - 1
    for step in (1 << bit for bit in reversed(range(width.bit_length()))):  # a binary search of all at once
        further = above + step
        better = ranked.take(before + further, mode="clip") < value
        above += (better & (further <= width)) * step
    behind = row * width + np.minimum(above + 1, width - 1)
    tied = np.unique(row[(above + 1 < width) & (ranked[behind] == value)])
    if len(tied):
        order = np.lexsort((-precedence(tied).astype(np.int64), falling[tied]), axis=1)
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(width)[None, :], axis=1)
        among = np.isin(row, tied)
        above[among] = places[np.searchsorted(tied, row[among]), at[among] % width]
    # Sorting numbers is twice as quick as sorting places, so each takes its own place along in its low bits.
    bits = len(at).bit_length()
    best_first = np.sort((row * width + above) << bits | np.arange(len(at))) & ((1 << bits) - 1)
    return Hits(row[best_first], above[best_first] + 1, grades.reshape(-1)[at[best_first]].astype(np.float64))


def _values(asked: Sequence[tuple[str, int | None]], hits: Hits, ideal: Hits, count: int) -> list[Floats]:
    """Measures of `count` queries; `ideal` holds all relevant documents by grade, falling."""
    nth = _place(hits.row) + 1
    relevant = np.bincount(ideal.row, minlength=count)
    discount = np.log2(np.arange(max(hits.rank.max(initial=0), ideal.rank.max(initial=0)) + 1) + 1)

    def total(of: Hits, weights: Floats | None, k: int | None) -> Floats:
        kept = slice(None) if k is None else of.rank <= k
        return np.bincount(of.row[kept], None if weights is None else weights[kept], minlength=count).astype(np.float64)

    def value(name: str, k: int | None) -> Floats:
        if name == "nDCG":
            gained = total(hits, hits.grade / discount[hits.rank], k)
            return _share(gained, total(ideal, ideal.grade / discount[ideal.rank], k))
        if name == "P":
            return total(hits, None, k) / float(k or 1)
        if name == "RR":
            return total(hits, (nth == 1) / hits.rank, k)
        return _share(total(hits, None if name == "R" else nth / hits.rank, k), relevant.astype(np.float64))

    return [value(name, k) for name, k in asked]


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole; 0 where the whole is."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _place(groups: Ints) -> Ints:
    """The place of each element within its run of equal neighbours, from 0."""
    index = np.arange(len(groups))
    if not len(groups):
        return index
    begins = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    return index - np.repeat(begins, np.diff(np.append(begins, len(groups))))
