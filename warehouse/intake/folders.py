"""Read a folder in the documented layout: queries.jsonl, passages.jsonl and qrels.tsv.

`read_folder(path, domain)` returns raw rows with their line numbers for `door.admit`. A well-formed file is parsed at
once by pyarrow with strict types; only when that refuses, or something looks odd, is the file read again line by line,
to say which line is wrong and what to do. Fields the layout does not know are left out and counted in the notes; a
field that looks like a misspelt known one is a fault, because its values would be lost in silence.

Deliberately absent: streaming (a file is held in memory), compressed files, and any mending of the text itself.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.json

from warehouse.intake.door import RAW_JUDGEMENTS, RAW_PASSAGES, RAW_QUERIES, Fault, RawSource

QUERY_FILE, PASSAGE_FILE, JUDGEMENT_FILE = "queries.jsonl", "passages.jsonl", "qrels.tsv"
NEAR_MISS = 0.85
"""Likeness from which an unknown field is taken for a misspelling: `gold_anwser` 0.91, but `gold_answer_docid` 0.79."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Layout:
    """Which fields the lines of one file may have."""

    schema: pl.Schema
    required: tuple[str, ...]
    filled: tuple[str, ...] = ("source", "license")
    """Fields that the layout asks for and that a stated default can stand in for."""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for name in self.schema if name != "line")


QUERY_LAYOUT = Layout(RAW_QUERIES, ("qid", "text", "split"))
PASSAGE_LAYOUT = Layout(RAW_PASSAGES, ("docid", "text"))


@dataclass(frozen=True)
class Lines:
    """What one file gave: a frame in the layout's raw schema, the faults found, and fields left out or filled."""

    frame: pl.DataFrame
    faults: tuple[Fault, ...] = ()
    notes: Mapping[str, Any] | None = None


def read_folder(path: Path, domain: str) -> RawSource:
    """Raw rows of the folder's three files; what is wrong with them stands in `faults`, for `admit` to raise."""
    queries = _read(path / QUERY_FILE, lambda data: parse_lines(data, QUERY_FILE, QUERY_LAYOUT), RAW_QUERIES)
    passages = _read(path / PASSAGE_FILE, lambda data: parse_lines(data, PASSAGE_FILE, PASSAGE_LAYOUT), RAW_PASSAGES)
    judgements = _read(path / JUDGEMENT_FILE, lambda data: parse_judgements(data, JUDGEMENT_FILE), RAW_JUDGEMENTS)
    notes: dict[str, Any] = {"unknown_fields": {}, "filled_fields": {}}
    for file, lines in ((QUERY_FILE, queries), (PASSAGE_FILE, passages)):
        for kind in notes:
            if found := (lines.notes or {}).get(kind):
                notes[kind][file] = found
    return RawSource(
        domain=domain,
        place=str(path),
        queries=queries.frame,
        passages=passages.frame,
        judgements=judgements.frame,
        files=(QUERY_FILE, PASSAGE_FILE, JUDGEMENT_FILE),
        faults=(*queries.faults, *passages.faults, *judgements.faults),
        notes=notes,
    )


def _read(path: Path, parse: Callable[[bytes], Lines], schema: pl.Schema) -> Lines:
    empty = schema.to_frame()
    if not path.parent.is_dir():
        what = "is missing: there is no such folder" if not path.parent.exists() else "is missing: that is not a folder"
        return Lines(empty, (Fault(path.name, None, what, f"Check the path {path.parent}."),))
    if not path.is_file():
        wanted = f"{QUERY_FILE}, {PASSAGE_FILE} and {JUDGEMENT_FILE}"
        remedy = f"A source folder holds {wanted}; this one holds: {_listing(path.parent)}."
        return Lines(empty, (Fault(path.name, None, "the file is missing", remedy),))
    try:
        data = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        what = f"the file cannot be read ({error.strerror})"
        return Lines(empty, (Fault(path.name, None, what, f"Check who may read it: ls -l {path}"),))
    if not data.strip():
        fault = Fault(path.name, None, "the file is empty", "Write one row a line, or check what exported it.")
        return Lines(empty, (fault,))
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        what = f"not UTF-8: byte 0x{data[error.start]:02x} at offset {byte} of the line"
        remedy = f"Convert the file, for example: iconv -f latin1 -t utf-8 {path.name} > fixed && mv fixed {path.name}"
        return Lines(empty, (Fault(path.name, line, what, remedy),))
    return parse(data)


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:8] + (["..."] if len(names) > 8 else [])) or "no files"


def parse_lines(data: bytes, file: str, layout: Layout) -> Lines:
    """The rows of a JSON-lines file: at once where it is well formed, else line by line with a diagnosis."""
    return _parse_at_once(data, layout) or _parse_line_by_line(data, file, layout)


def _line_numbers(data: bytes) -> pl.Series:
    """Numbers of the lines that are not blank; only a line feed ends a line (U+2028 may stand inside a text)."""
    return pl.Series("line", [n for n, line in enumerate(data.split(b"\n"), 1) if line.strip()], dtype=pl.Int64)


def _parse_at_once(data: bytes, layout: Layout) -> Lines | None:
    """None where anything needs a closer look: the strict parser refused, or a required or misspelt field."""
    types = {"excluded_docids": pa.list_(pa.string())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in layout.fields])
    try:
        table = pyarrow.json.read_json(
            io.BytesIO(data),
            read_options=pyarrow.json.ReadOptions(block_size=max(1 << 20, min(len(data), 64 << 20))),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer"),
        )
    except pa.ArrowInvalid:
        return None
    numbers = _line_numbers(data)
    if table.num_rows != numbers.len() or any(table[name].null_count for name in layout.required):
        return None
    unknown = [name for name in table.schema.names if name not in layout.fields]
    if any(_meant(name, layout) for name in unknown):
        return None
    frame = pl.DataFrame(pl.from_arrow(table.select(list(layout.fields)))).with_columns(numbers).cast(layout.schema)
    if (
        "excluded_docids" in frame.columns
        and frame["excluded_docids"].explode().null_count()
        > (frame["excluded_docids"].list.len().fill_null(0) == 0).sum()
    ):
        return None  # a null inside a list
    strangers = {}
    for name in unknown:
        rows = table.num_rows - table[name].null_count
        first = table[name].is_valid().index(True).as_py()
        strangers[name] = {"rows": rows, "first_line": numbers[first] if first >= 0 else None}
    return Lines(frame, notes=_notes(frame, layout, strangers))


def _notes(frame: pl.DataFrame, layout: Layout, strangers: dict[str, Any]) -> dict[str, Any]:
    filled = {name: frame[name].null_count() for name in layout.filled if frame[name].null_count()}
    return {"unknown_fields": strangers, "filled_fields": filled}


def _meant(name: str, layout: Layout) -> str | None:
    """The known field that `name` is a misspelling of, if any."""
    close = difflib.get_close_matches(name.lower(), layout.fields, n=1, cutoff=NEAR_MISS)
    return close[0] if close else None


def _parse_line_by_line(data: bytes, file: str, layout: Layout) -> Lines:
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    strangers: dict[str, Any] = {}
    misspelt: dict[str, list[int]] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            faults.append(_json_fault(file, number, error))
            continue
        if not isinstance(row, dict):
            faults.append(
                Fault(file, number, f"a JSON {_kind(row)}, not an object", 'Write one {"...": ...} object a line.')
            )
            continue
        excused = set()
        for name in row:
            if name in layout.fields:
                continue
            meant = _meant(name, layout)
            if meant and meant not in row:
                misspelt.setdefault(name, []).append(number)
                excused.add(meant)
            else:
                entry = strangers.setdefault(name, {"rows": 0, "first_line": number})
                entry["rows"] += row[name] is not None
        problems = _row_faults(row, file, number, layout, excused)
        faults += problems
        if not problems and not excused:
            rows.append({name: row.get(name) for name in layout.fields} | {"line": number})
    for name, numbers in misspelt.items():
        what = f"unknown field {name!r}" + (f" (in {len(numbers):,} rows)" if len(numbers) > 1 else "")
        faults.append(Fault(file, numbers[0], what, f"Did you mean {_meant(name, layout)!r}? Rename it."))
    frame = pl.DataFrame(rows, schema=layout.schema, orient="row")
    return Lines(frame, tuple(faults), _notes(frame, layout, strangers))


class _RepeatedField(ValueError):
    """An object names a field twice; JSON would quietly keep the second."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedField(next(name for name in names if names.count(name) > 1))
    return row


def _json_fault(file: str, number: int, error: Exception) -> Fault:
    if isinstance(error, _RepeatedField):
        return Fault(file, number, f"field {str(error)!r} stands twice in one object", "Keep one of the two.")
    if isinstance(error, json.JSONDecodeError):
        what = f"not valid JSON ({error.msg.lower()} at column {error.colno})"
        if error.msg == "Extra data":
            what = f"more than one JSON value on the line (the second begins at column {error.colno})"
    else:
        what = "JSON nested too deeply"
    return Fault(file, number, what, "Write one complete JSON object a line, line breaks inside a text as \\n.")


def _kind(value: object) -> str:
    names = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _row_faults(row: dict[str, Any], file: str, number: int, layout: Layout, excused: set[str]) -> list[Fault]:
    faults = []
    for name in layout.fields:
        value = row.get(name)
        if value is None:
            if name in layout.required and name not in excused:
                what = f"field {name!r} is null" if name in row else f"missing required field {name!r}"
                faults.append(Fault(file, number, what, f"Every row needs {', '.join(layout.required)}."))
        elif name == "excluded_docids":
            if not isinstance(value, list) or not all(isinstance(docid, str) for docid in value):
                what = f"field {name!r} is not a list of strings"
                faults.append(Fault(file, number, what, 'Write it as ["docid", "docid"], or leave it out.'))
        elif not isinstance(value, str):
            simple = isinstance(value, int | float) and not isinstance(value, bool)
            remedy = f'Write it as a string: "{name}": "{value}".' if simple else "Make it a string."
            faults.append(Fault(file, number, f"field {name!r} is a {_kind(value)}, not a string", remedy))
        elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            what = f"field {name!r} holds half of a surrogate pair (\\ud800 to \\udfff)"
            faults.append(Fault(file, number, what, "Write the character in UTF-8 or as both halves."))
    return faults


def parse_judgements(data: bytes, file: str) -> Lines:
    """TREC judgements, `qid 0 docid grade` separated by white space; a grade is a whole number from 0."""
    lines = pl.DataFrame({"content": data.decode().split("\n")}).with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line")
    )
    lines = lines.filter(pl.col("content").str.strip_chars() != "")
    if lines["content"].str.split("\t").list.len().eq(3).all():
        what = f"{lines.height:,} lines of three columns, as BEIR writes them (query, passage, score under a header)"
        mended = "awk -F'\\t' -v OFS='\\t' '$3 ~ /^[0-9]+$/ {print $1, 0, $2, $3}'"
        remedy = f"Add the second column and drop the header: {mended} {file} > fixed && mv fixed {file}"
        return Lines(RAW_JUDGEMENTS.to_frame(), (Fault(file, lines["line"][0], what, remedy),))
    columns = r"^\s*(?<qid>\S+)\s+\S+\s+(?<docid>\S+)\s+(?<grade>\d{1,9})\s*$"
    parts = lines.with_columns(parts=pl.col("content").str.extract_groups(columns)).unnest("parts")
    faults = [
        _judgement_fault(content, number, file)
        for content, number in parts.filter(pl.col("grade").is_null()).select("content", "line").iter_rows()
    ]
    good = parts.filter(pl.col("grade").is_not_null()).with_columns(pl.col("grade").cast(pl.Int64))
    return Lines(good.select(RAW_JUDGEMENTS.names()).cast(RAW_JUDGEMENTS), tuple(faults))


def _judgement_fault(content: str, number: int, file: str) -> Fault:
    columns = content.split()
    remedy = "Write `qid 0 docid grade`, four columns with white space between them."
    if len(columns) != 4:
        return Fault(file, number, f"{len(columns)} column{'s' if len(columns) != 1 else ''} instead of 4", remedy)
    if number == 1 and not columns[3].lstrip("-").replace(".", "").isdigit():
        return Fault(file, number, f"{columns[3]!r} is not a grade: this looks like a header", "Take the header out.")
    remedy = "Grades are 0 (not relevant), 1, 2, ... without sign or point."
    return Fault(file, number, f"grade {columns[3]!r} is not a whole number of 0 or more", remedy)
