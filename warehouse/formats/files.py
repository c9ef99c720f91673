"""Files that are written a chunk at a time, and files read with errors that name file, line and remedy.

Writers take frames and let polars and pyarrow make the bytes; no row passes through Python. Deliberately absent: what
the columns are, which each format's own module says.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


class FormatError(ValueError):
    """A file that is not what its format says; the message names file, line and remedy."""


class Lines:
    """A JSON-lines file."""

    opening, between, closing = b"", b"", b""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._first = True

    def __enter__(self) -> "Lines":
        self._file.write(self.opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.write(self.closing)
        self._file.close()

    def write(self, frame: pl.DataFrame) -> None:
        """Rows as JSON objects."""
        self.write_values(frame.select(pl.struct(pl.all()).struct.json_encode()).to_series())

    def write_values(self, values: pl.Series) -> None:
        """Values that are JSON already, one a line."""
        if values.is_empty():
            return
        if not self._first and self.between:
            self._file.write(self.between)
        self._first = False
        joined = values.str.join((self.between or b"\n").decode())[0]
        self._file.write(joined.encode() + (b"" if self.between else b"\n"))


class JsonArray(Lines):
    """A JSON file that holds one array of objects."""

    opening, between, closing = b"[\n", b",\n", b"\n]\n"


class JsonObject(Lines):
    """A JSON file that holds one object; `write_values` takes its members."""

    opening, between, closing = b"{\n", b",\n", b"\n}\n"


class ParquetFile:
    """A Parquet file, made at the first frame; without one there is no file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ParquetFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, frame: pl.DataFrame) -> None:
        """Rows as one row group or more. Strings have 32-bit offsets, which every reader knows."""
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._schema = pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema])
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._writer.write_table(table.cast(self._schema), row_group_size=2_000)


def json_text(column: str) -> pl.Expr:
    """A text column as JSON strings."""
    return pl.struct(pl.col(column).alias("x")).struct.json_encode().str.head(-1).str.slice(len('{"x":'))


def members(pairs: pl.DataFrame) -> pl.Series:
    """Members `"id": "text"` of a JSON object from (id, text)."""
    return pairs.select(pl.format("{}: {}", json_text("id"), json_text("text"))).to_series()


def read_text(path: Path, remedy: str) -> str:
    """A file as UTF-8. Raises FormatError with the remedy where it is missing, or the byte where it is no UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}). Convert it, for example: "
            f"iconv -f latin1 -t utf-8 {path.name} > fixed && mv fixed {path.name}"
        ) from error


def read_json(path: Path, remedy: str) -> Any:
    """The value in a JSON file. Raises FormatError."""
    text = read_text(path, remedy)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}). {remedy}"
        ) from None


def read_lines(path: Path, remedy: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a JSON-lines file; only a line feed ends a line. Raises FormatError."""
    text = read_text(path, remedy)
    empty = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        empty = False
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise FormatError(
                f"{path}:{number}: not valid JSON ({error.msg}, column {error.colno}). Write one object a line."
            ) from None
        if not isinstance(row, dict):
            raise FormatError(f"{path}:{number}: {type(row).__name__}, not an object. Write one {{...}} a line.")
        yield f"{path.name}:{number}", row
    if empty:
        raise FormatError(f"{path}: holds no rows. {remedy}")


def read_parquet(path: Path, wanted: tuple[str, ...], remedy: str) -> pl.DataFrame:
    """A Parquet file that has the `wanted` columns. Raises FormatError naming those that are missing."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise FormatError(f"{path}: cannot be read as Parquet ({error}). {remedy}") from error
    if missing := [name for name in wanted if name not in frame.columns]:
        raise FormatError(f"{path}: has no column {missing[0]!r}; its columns: {', '.join(frame.columns)}. {remedy}")
    return frame


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(pa.field("element", _plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return kind
