"""The lake: DuckLake tables on an embedded or a shared catalog, one commit for each asset.

    lake = Lake.at(home)                                # .rankmill/lake: SQLite catalog, Parquet files
    queries = lake.read("queries", {"domain": "math"})  # polars; snapshot=n reads the past
    lake.commit([Replace("candidates", frame, {"domain": "math"})], message)

A commit is all or nothing and carries a message that names asset, run and code version. Writers that meet
("database is locked", a conflicting transaction) are retried with backoff. There is no compaction and no expiry: every
past snapshot stays readable. Where a lake may be is said in catalog.py, its schema in migrations.py.
"""

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from warehouse.catalog import RETRIES, LakeError, Place, remedy_of, transaction
from warehouse.files import keep_checksums
from warehouse.migrations import migrate, table_columns

_LOCKED = ("database is locked", "conflict", "failed to commit", "transaction", "could not serialize", "duplicate key")


Where = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Replace:
    """Rows for `table` that take the place of those whose columns equal `where`; an empty `where` replaces all.

    A column that `where` gives several values for is to have one of them.
    """

    table: str
    frame: pl.DataFrame
    where: Where = field(default_factory=dict)


@dataclass(frozen=True)
class Append:
    """Rows for `table` that are added to what is there."""

    table: str
    frame: pl.DataFrame


@dataclass(frozen=True)
class Stream:
    """Rows that are written piece by piece, so that no more than a piece is in memory; in place of `where`, if given.

    `pieces` is called again when a commit is tried again, and must give the same rows.
    """

    table: str
    pieces: Callable[[], Iterable[pl.DataFrame]]
    where: Where | None = None


Write = Replace | Append | Stream


@dataclass(frozen=True)
class CommitMessage:
    """Who committed: the asset, the run and the version of the code."""

    asset: str
    run_id: str
    code_version: str

    def __str__(self) -> str:
        return f"asset={self.asset} run={self.run_id} code={self.code_version}"


class Lake:
    """Tables, snapshots and commits of one lake. Cheap to make; connects at the first use, one connection a thread."""

    def __init__(self, place: Place) -> None:
        """The lake at `place`, made at the first use where there is none."""
        self.place = place
        self._local = threading.local()

    @classmethod
    def at(cls, folder: Path) -> "Lake":
        """The embedded lake in `folder`."""
        return cls(cls.place_in(folder))

    @staticmethod
    def place_in(folder: Path) -> Place:
        """Where an embedded lake in `folder` has its catalog and its files."""
        return Place(f"sqlite:{folder / 'meta.sqlite'}", f"{folder / 'data'}/")

    def read(
        self,
        table: str,
        where: Mapping[str, str] | None = None,
        columns: Sequence[str] = (),
        snapshot: int | None = None,
    ) -> pl.DataFrame:
        """Rows of `table` whose columns equal `where`, as they are now or were at `snapshot`."""
        _known(table)
        selected = ", ".join(self._column(table, column) for column in columns) or "*"
        version = f" AT (VERSION => {int(snapshot)})" if snapshot is not None else ""
        condition, values = self._condition(table, where or {})
        return self._rows(f"SELECT {selected} FROM lake.{table}{version}{condition}", values)

    def pieces(
        self, table: str, by: str, rows: int, where: Mapping[str, str] | None = None, columns: Sequence[str] = ()
    ) -> Iterator[pl.DataFrame]:
        """Rows of `table` in the order of column `by`, in pieces of about `rows`: for what does not fit into memory.

        Rows in which `by` is null come last.
        """
        keys = self.read(table, where, [by]).sort(by, nulls_last=True)[by]
        cuts = keys.drop_nulls().gather_every(rows).unique().sort().to_list()
        selected = ", ".join(self._column(table, column) for column in columns) or "*"
        condition, values = self._condition(table, where or {})
        joined = f"{condition} AND" if condition else " WHERE"
        for low, high in zip(cuts, [*cuts[1:], None], strict=True):
            within = f"{by} >= ?" if high is None else f"{by} >= ? AND {by} < ?"
            bounds = [low] if high is None else [low, high]
            sql = f"SELECT {selected} FROM lake.{table}{joined} {within}"
            yield self._rows(sql, [*values, *bounds]).sort(by)
        if keys.null_count():
            yield self._rows(f"SELECT {selected} FROM lake.{table}{joined} {by} IS NULL", values)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """The rows of one read-only statement. Tables are visible by their bare names; a write is refused."""
        return _select(self._connection(read_only=True), sql, parameters)

    def commit(self, writes: Sequence[Write], message: CommitMessage) -> int:
        """Write everything in one transaction and return the id of the snapshot it made."""
        connection = self._connection()
        for attempt in range(RETRIES):
            try:
                with transaction(connection):
                    for write in writes:
                        self._write(connection, write)
                    connection.execute("CALL lake.set_commit_message(?, ?)", ["rankmill", str(message)])
                break
            except duckdb.Error as error:
                if attempt == RETRIES - 1 or not any(sign in str(error).lower() for sign in _LOCKED):
                    raise LakeError(
                        f"the commit of {message.asset} failed and nothing of it was written: {error}. "
                        f"{remedy_of(error)}"
                    ) from error
                time.sleep(min(4.0, 0.05 * 2**attempt) * (0.5 + random.random()))
        # Outside the loop: what is committed must not be written again because its number could not be read.
        row = connection.execute("SELECT id FROM lake.last_committed_snapshot()").fetchone()
        made = int(row[0]) if row and row[0] is not None else self.snapshot()
        keep_checksums(connection, self.place, made)
        return made

    def snapshot(self) -> int:
        """The id of the newest snapshot."""
        newest = self._rows("SELECT max(snapshot_id) AS id FROM lake.snapshots()")["id"][0]
        return int(newest or 0)

    def snapshots(self) -> pl.DataFrame:
        """All snapshots, newest first: snapshot_id, snapshot_time, commit_message, changes."""
        return self._rows(
            "SELECT snapshot_id, snapshot_time, commit_message, changes::VARCHAR AS changes "
            "FROM lake.snapshots() ORDER BY snapshot_id DESC"
        )

    def connection(self) -> duckdb.DuckDBPyConnection:
        """This thread's connection, for those who look at the lake's own catalog."""
        return self._connection()

    def close(self) -> None:
        """Close this thread's connections."""
        for name in ("writer", "reader"):
            connection = getattr(self._local, name, None)
            if connection is not None:
                connection.close()
                setattr(self._local, name, None)

    def _connection(self, read_only: bool = False) -> duckdb.DuckDBPyConnection:
        name = "reader" if read_only else "writer"
        connection = getattr(self._local, name, None)
        if connection is None:
            if read_only:
                self._connection()  # the writer makes the catalog and brings its schema up to date
            connection = self.place.attach(read_only)
            if not read_only:
                migrate(connection)
            setattr(self._local, name, connection)
        return connection

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> pl.DataFrame:
        """The rows of a statement of our own. Raises LakeError where catalog or files cannot be read."""
        connection = self._connection()
        try:
            return connection.execute(sql, list(values)).pl()
        except duckdb.Error as error:
            where = self.place.catalog
            raise LakeError(f"the lake at {where} cannot be read: {error}. {remedy_of(error)}") from error

    def _write(self, connection: duckdb.DuckDBPyConnection, write: Write) -> None:
        _known(write.table)
        where = None if isinstance(write, Append) else write.where
        if where is not None:
            condition, values = self._condition(write.table, where)
            connection.execute(f"DELETE FROM lake.{write.table}{condition}", values)
        for frame in write.pieces() if isinstance(write, Stream) else (write.frame,):
            if frame.height:
                columns = ", ".join(self._column(write.table, column) for column in frame.columns)
                connection.register("incoming", _read_once(frame))
                connection.execute(f"INSERT INTO lake.{write.table} ({columns}) SELECT {columns} FROM incoming")
                connection.unregister("incoming")

    def _condition(self, table: str, where: Where) -> tuple[str, list[Any]]:
        one, some = "{} = ?", "{} IN (SELECT unnest(?::VARCHAR[]))"
        clause = " AND ".join(
            (one if isinstance(value, str) else some).format(self._column(table, column))
            for column, value in where.items()
        )
        return (f" WHERE {clause}" if clause else ""), list(where.values())

    @staticmethod
    def _column(table: str, column: str) -> str:
        allowed = _known(table)
        if column not in allowed:
            raise LakeError(f"table {table} has no column {column!r}. Columns: {', '.join(allowed)}.")
        return column


def _known(table: str) -> tuple[str, ...]:
    columns = table_columns().get(table)
    if columns is None:
        raise LakeError(f"the lake has no table {table!r}. Tables: {', '.join(sorted(table_columns()))}.")
    return columns


def _read_once(frame: pl.DataFrame) -> Any:
    """The rows of `frame` as a reader that lets go of them as they are read.

    What is registered in a transaction is held until its end, also after it was unregistered: a table handed over as it
    is would keep every piece of a release in memory.
    """
    import pyarrow as pa

    table = frame.to_arrow()
    return pa.RecordBatchReader.from_batches(table.schema, iter(table.to_batches()))


def _select(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any]) -> pl.DataFrame:
    try:
        statements = connection.extract_statements(sql)
        # Not EXPLAIN either: EXPLAIN ANALYZE runs what it explains, a COPY to a file included.
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise LakeError("only one SELECT is allowed here: the lake is written by assets alone.")
        return connection.execute(sql, list(parameters)).pl()
    except duckdb.Error as error:
        unknown = isinstance(error, duckdb.CatalogException)
        tables = f"\nTables of the lake: {', '.join(sorted(table_columns()))}." if unknown else ""
        raise LakeError(f"{error}{tables}") from error


def content_sha256(frame: pl.DataFrame, keys: Sequence[str]) -> str:
    """sha256 over the rows as JSON lines, columns by name and rows by `keys`: the same on every machine."""
    rows = frame.select(sorted(frame.columns)).sort(list(keys), maintain_order=True)
    return hashlib.sha256(rows.write_ndjson().encode()).hexdigest()


def canonical_sha256(value: Any) -> str:
    """sha256 over a JSON value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def opened(lake: Lake) -> Iterator[Lake]:
    """The lake for the length of a block, closed at its end."""
    try:
        yield lake
    finally:
        lake.close()
