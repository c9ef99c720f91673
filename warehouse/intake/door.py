"""The checks at the door: what makes a source unusable (`SourceError`), and which rows are left out and why.

`admit` takes raw frames, each with the line a row came from, and returns `SourceTables`. Faults of form (an id twice,
an unknown split, ids with white space, one passage judged two ways) stop the source and are reported together. Rows
that can be left out without harm (empty text, text over the limit, a judgement for a passage that does not exist)
become `rejections` rows, so that for every table in = out + rejected. If more than half of a table is rejected, the
source is not what it says it is, and that is a fault too.

Deliberately absent: file formats (folders.py) and near duplicates, which are a matter of curation, not of form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from warehouse.intake.source_tables import JUDGEMENTS, PASSAGES, QUERIES, REJECTIONS, SourceTables, sha256_of

SPLITS = ("train", "dev", "test")
BENCHMARK_SPLIT = "benchmark-do-not-train"
UNKNOWN_LICENSE = "NOASSERTION"
"""SPDX's word for a licence nobody has stated."""
FAULTS_SHOWN = 20
REMEDIES: Mapping[str, str] = {
    "empty text": "Give the row a text, or take it out.",
    "control characters only": "Read the file as UTF-8 again; if that is its text, take the row out.",
    "text over the limit": "Split the text at the source, or take the row out.",
    "unknown query": "No query has this id. Correct the id, add the query, or take the line out.",
    "unknown passage": "No passage has this id. Correct the id, add the passage, or take the line out.",
    "its query was rejected": "Mend the query, or take the line out with it.",
    "its passage was rejected": "Mend the passage, or take the line out with it.",
    "repeated judgement": "An earlier line says the same. Take this one out.",
}
"""By the reason for which a row is left out: what to do about it."""

RAW_QUERIES = pl.Schema(
    {name: kind for name, kind in QUERIES.items() if name not in ("domain", "text_sha256")} | {"line": pl.Int64}
)
RAW_PASSAGES = pl.Schema(
    {name: kind for name, kind in PASSAGES.items() if name not in ("domain", "text_sha256")} | {"line": pl.Int64}
)
RAW_JUDGEMENTS = pl.Schema({"qid": pl.String, "docid": pl.String, "grade": pl.Int64, "line": pl.Int64})


class DoorLimits(BaseModel):
    """How long a text may be before it is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_chars: int = Field(default=60_000, ge=1, description="Queries and passages with more characters are rejected.")


@dataclass(frozen=True)
class Fault:
    """One thing that makes a source unusable: where it is, what it is, and what to do."""

    file: str
    line: int | None
    what: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.what}. {self.remedy}"


class SourceError(ValueError):
    """A source cannot be used as it is; `errors` holds every fault, the message the first twenty."""

    def __init__(self, place: str, errors: Sequence[Fault]) -> None:
        self.place = place
        self.errors = tuple(sorted(errors, key=lambda fault: (fault.file, fault.line or 0)))
        count = len(self.errors)
        lines = [f"{place} cannot be used: {count} fault{'s' if count != 1 else ''}. Nothing was stored."]
        lines += [f"  {fault}" for fault in self.errors[:FAULTS_SHOWN]]
        if count > FAULTS_SHOWN:
            lines.append(f"  and {count - FAULTS_SHOWN:,} more")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class RawSource:
    """Rows as they were read (schemas RAW_QUERIES, RAW_PASSAGES, RAW_JUDGEMENTS), before any check."""

    domain: str
    place: str
    """What the error message calls the source: a folder's path, a package's or data set's name."""
    queries: pl.DataFrame
    passages: pl.DataFrame
    judgements: pl.DataFrame
    files: tuple[str, str, str] = ("queries.jsonl", "passages.jsonl", "qrels.tsv")
    faults: tuple[Fault, ...] = ()
    """Faults found while reading; `admit` adds its own and raises them together."""
    notes: Mapping[str, Any] | None = None


def raw_source(
    domain: str,
    place: str,
    queries: Iterable[Mapping[str, Any]],
    passages: Iterable[Mapping[str, Any]],
    judgements: Iterable[tuple[str, str, int]],
    notes: Mapping[str, Any] | None = None,
) -> RawSource:
    """Rows that come from a package or the hub rather than from files; their line is their place in the order."""
    return RawSource(
        domain=domain,
        place=place,
        queries=_numbered(queries, RAW_QUERIES),
        passages=_numbered(passages, RAW_PASSAGES),
        judgements=_numbered(
            ({"qid": qid, "docid": docid, "grade": grade} for qid, docid, grade in judgements), RAW_JUDGEMENTS
        ),
        files=(f"{place} queries", f"{place} passages", f"{place} judgements"),
        notes=notes,
    )


def admit(raw: RawSource, limits: DoorLimits | None = None) -> SourceTables:
    """The rows that pass, with a rejection for every row that does not. Raises `SourceError` with all faults."""
    limits = limits or DoorLimits()
    query_file, passage_file, judgement_file = raw.files
    faults = [
        *raw.faults,
        *_id_faults(raw.queries, "qid", "query", query_file),
        *_id_faults(raw.passages, "docid", "passage", passage_file),
        *_split_faults(raw.queries, query_file),
        *_conflict_faults(raw.judgements, judgement_file),
    ]
    if faults:
        raise SourceError(raw.place, faults)

    queries = _with_text_reason(raw.queries, limits)
    passages = _with_text_reason(raw.passages, limits)
    judgements = _with_judgement_reason(raw.judgements, queries, passages)
    faults = [
        *_majority_faults(queries, "queries", query_file),
        *_majority_faults(passages, "passages", passage_file),
    ]
    faults = faults or _majority_faults(judgements, "judgements", judgement_file)
    if faults:
        raise SourceError(raw.place, faults)

    kept_queries, kept_passages, kept_judgements = (
        frame.filter(pl.col("reason").is_null()) for frame in (queries, passages, judgements)
    )
    counts = {
        name: {"in": frame.height, "out": kept.height, "rejected": frame.height - kept.height, "beyond_limit": 0}
        for name, frame, kept in (
            ("queries", queries, kept_queries),
            ("passages", passages, kept_passages),
            ("judgements", judgements, kept_judgements),
        )
    }
    rejections = pl.concat(
        [
            _rejections(queries, "queries", raw.domain, pl.col("qid"), query_file, limits),
            _rejections(passages, "passages", raw.domain, pl.col("docid"), passage_file, limits),
            _rejections(
                judgements, "judgements", raw.domain, pl.format("{} {}", "qid", "docid"), judgement_file, limits
            ),
        ]
    )
    return SourceTables(
        domain=raw.domain,
        queries=_finished(kept_queries, raw.domain, QUERIES),
        passages=_finished(kept_passages, raw.domain, PASSAGES),
        judgements=kept_judgements.select(
            pl.lit(raw.domain).alias("domain"), "qid", "docid", "grade", pl.lit("human").alias("origin")
        ).cast(JUDGEMENTS),
        rejections=rejections,
        notes={**(raw.notes or {}), "place": raw.place, "counts": counts},
    )


def _numbered(rows: Iterable[Mapping[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame([{**row, "line": line} for line, row in enumerate(rows, 1)], schema=schema, orient="row")


def _finished(frame: pl.DataFrame, domain: str, schema: pl.Schema) -> pl.DataFrame:
    """The table's own columns, with what a row left out filled in."""
    filled = frame.with_columns(
        pl.lit(domain).alias("domain"),
        pl.col("source").fill_null(domain),
        pl.col("license").fill_null(UNKNOWN_LICENSE),
        sha256_of(frame["text"]),
    )
    if "title" in schema:
        filled = filled.with_columns(pl.col("title").fill_null(""))
    if "excluded_docids" in schema:
        filled = filled.with_columns(
            pl.col("excluded_docids").fill_null([]),
            pl.when(pl.col("gold_answer").str.strip_chars() != "").then(pl.col("gold_answer")).alias("gold_answer"),
        )
    return filled.select(schema.names()).cast(schema)


def _id_faults(frame: pl.DataFrame, key: str, noun: str, file: str) -> list[Fault]:
    faults = [
        Fault(file, line, f"{key} {name!r} is empty or holds white space", f"Give every {noun} an id without spaces.")
        for name, line in frame.filter(pl.col(key).str.contains(r"\s|^$")).select(key, "line").iter_rows()
    ]
    again = frame.with_columns(first=pl.col("line").first().over(key)).filter(pl.col("line") != pl.col("first"))
    remedy = f"Give every {noun} its own {key}."
    faults += [
        Fault(file, line, f"duplicate {key} {name!r} (first at line {first})", remedy)
        for name, line, first in again.select(key, "line", "first").iter_rows()
    ]
    return faults


def _split_faults(queries: pl.DataFrame, file: str) -> list[Fault]:
    unknown = queries.filter(~pl.col("split").is_in(SPLITS))
    faults = []
    for split, line, rows in unknown.group_by("split").agg(pl.col("line").min(), pl.len()).iter_rows():
        remedy = (
            "This is a benchmark: list it in benchmarks/ and never among the sources."
            if split == BENCHMARK_SPLIT
            else f"Use one of {', '.join(SPLITS)}."
        )
        what = f"unknown split {split!r}" + (f" (in {rows:,} rows)" if rows > 1 else "")
        faults.append(Fault(file, line, what, remedy))
    return faults


def _conflict_faults(judgements: pl.DataFrame, file: str) -> list[Fault]:
    pair = ["qid", "docid"]
    twice = judgements.with_columns(
        first_line=pl.col("line").first().over(pair), first_grade=pl.col("grade").first().over(pair)
    ).filter(pl.col("grade") != pl.col("first_grade"))
    return [
        Fault(
            file,
            line,
            f"query {qid!r} and passage {docid!r} have grade {grade} here and {first_grade} at line {first_line}",
            "Keep one of the two lines.",
        )
        for qid, docid, grade, line, first_line, first_grade in twice.iter_rows()
    ]


def _with_text_reason(frame: pl.DataFrame, limits: DoorLimits) -> pl.DataFrame:
    text = pl.col("text")
    reason = (
        pl.when(text.str.strip_chars() == "")
        .then(pl.lit("empty text"))
        .when(text.str.contains(r"^[\p{Cc}\p{Cf}\s]*$"))
        .then(pl.lit("control characters only"))
        .when(text.str.len_chars() > limits.max_chars)
        .then(pl.lit("text over the limit"))
    )
    return frame.with_columns(reason=reason)


def _with_judgement_reason(judgements: pl.DataFrame, queries: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """Judgements whose query and passage both passed keep a null reason."""
    states = (
        judgements.join(queries.select("qid", q_known=True, q_reason="reason"), on="qid", how="left")
        .join(passages.select("docid", d_known=True, d_reason="reason"), on="docid", how="left")
        .sort("line")
    )
    reason = (
        pl.when(pl.col("q_known").is_null())
        .then(pl.lit("unknown query"))
        .when(pl.col("d_known").is_null())
        .then(pl.lit("unknown passage"))
        .when(pl.col("q_reason").is_not_null())
        .then(pl.lit("its query was rejected"))
        .when(pl.col("d_reason").is_not_null())
        .then(pl.lit("its passage was rejected"))
        .when(pl.col("line") != pl.col("line").first().over("qid", "docid"))
        .then(pl.lit("repeated judgement"))
    )
    return states.with_columns(reason=reason).select(*judgements.columns, "reason")


def _majority_faults(frame: pl.DataFrame, noun: str, file: str) -> list[Fault]:
    out = frame.filter(pl.col("reason").is_not_null())
    if out.height * 2 <= frame.height:
        return []
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in out["reason"].value_counts(sort=True).iter_rows())
    return [
        Fault(
            file,
            out["line"][0],
            f"{out.height:,} of {frame.height:,} {noun} would be rejected ({reasons}; the first is this line)",
            "Mend these rows, or check that the files of one data set stand together.",
        )
    ]


def _rejections(
    frame: pl.DataFrame, stage: str, domain: str, key: pl.Expr, file: str, limits: DoorLimits
) -> pl.DataFrame:
    said = pl.format("{}:{}:", pl.lit(file), "line")
    if "text" in frame.columns:
        length = pl.format("{} {} characters of {}.", said, pl.col("text").str.len_chars(), limits.max_chars)
        said = pl.when(pl.col("reason") == "text over the limit").then(length).otherwise(said)
    remedy = pl.col("reason").replace_strict(REMEDIES, return_dtype=pl.String)
    detail = pl.format("{} {}", said, remedy)
    return (
        frame.filter(pl.col("reason").is_not_null())
        .select(stage=pl.lit(stage), domain=pl.lit(domain), key=key, reason="reason", detail=detail)
        .cast(REJECTIONS)
    )
