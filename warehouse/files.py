"""The Parquet files of a lake: which ones its catalog names, which ones lie there, and their checksums.

DuckLake keeps the size of a file and no checksum. Every commit to a lake on this machine therefore leaves
`<data>/checksums/<snapshot>.json`, the sha256 of each file that it added, so that an altered byte is found although the
size is right. A bucket keeps checksums of its own; there sizes are compared.
"""

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb

from warehouse.catalog import Place, quoted

CHECKSUMS = "checksums"
_METADATA = "__ducklake_metadata_lake"
# Every path is relative: a lake may be moved, and is attached with the data path of the day.
_NAMED = f"""
    SELECT concat(s.path, t.path, f.path), t.table_name, f.file_size_bytes, f.begin_snapshot
    FROM (SELECT table_id, path, file_size_bytes, begin_snapshot FROM {_METADATA}.ducklake_data_file
          UNION ALL SELECT table_id, path, file_size_bytes, begin_snapshot FROM {_METADATA}.ducklake_delete_file) f
    JOIN (SELECT DISTINCT table_id, schema_id, path, table_name FROM {_METADATA}.ducklake_table) t USING (table_id)
    JOIN {_METADATA}.ducklake_schema s USING (schema_id)
"""


@dataclass(frozen=True)
class NamedFile:
    """A file that the catalog names; `path` is relative to the lake's data path."""

    path: str
    table: str
    size: int
    snapshot: int


@dataclass(frozen=True)
class FoundFile:
    """A file that lies in the lake's folder or bucket; the age in seconds is None in a bucket."""

    path: str
    size: int
    age: float | None


def named_files(connection: duckdb.DuckDBPyConnection, snapshot: int | None = None) -> list[NamedFile]:
    """All files that any snapshot reads, or those that `snapshot` added."""
    condition, values = (" WHERE f.begin_snapshot = ?", [snapshot]) if snapshot is not None else ("", [])
    rows = connection.execute(_NAMED + condition, values).fetchall()
    return [NamedFile(*row) for row in rows]


def found_files(connection: duckdb.DuckDBPyConnection, place: Place) -> list[FoundFile]:
    """All Parquet files below the lake's data path."""
    if place.remote:
        pattern = quoted(f"{place.data_path}**/*.parquet")
        rows = connection.execute(f"SELECT filename, size FROM read_blob({pattern})").fetchall()
        return [FoundFile(name.removeprefix(place.data_path), size, None) for name, size in rows]
    root, found = Path(place.data_path), []
    for path in root.rglob("*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # a writer that failed takes its files away
            known = path.stat()
            found.append(FoundFile(str(path.relative_to(root)), known.st_size, time.time() - known.st_mtime))
    return found


def keep_checksums(connection: duckdb.DuckDBPyConnection, place: Place, snapshot: int) -> None:
    """Write down the checksums of the files that a commit added. What is committed stands even where this cannot."""
    if place.remote:
        return
    root = Path(place.data_path)
    with contextlib.suppress(OSError):
        kept = {file.path: sha256_of(root / file.path) for file in named_files(connection, snapshot)}
        if not kept:
            return
        (root / CHECKSUMS).mkdir(exist_ok=True)
        part = root / CHECKSUMS / f".{snapshot}.{os.getpid()}.part"
        part.write_text(json.dumps(kept, sort_keys=True), "utf-8")
        part.replace(root / CHECKSUMS / f"{snapshot}.json")


def kept_checksums(place: Place) -> dict[str, str]:
    """The sha256 of files by path, as commits wrote them down."""
    kept: dict[str, str] = {}
    if not place.remote:
        for path in (Path(place.data_path) / CHECKSUMS).glob("*.json"):
            with contextlib.suppress(ValueError):  # a damaged list vouches for nothing
                kept |= json.loads(path.read_text("utf-8"))
    return kept


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
