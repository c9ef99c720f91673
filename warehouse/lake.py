"""The lake: DuckLake tables on an embedded or a shared catalog, one commit for each asset.

    lake = Lake.at(home)                                # .rankmill/lake: SQLite catalog, Parquet files
    queries = lake.read("queries", {"domain": "math"})  # polars; snapshot=n reads the past
    lake.commit([Replace("candidates", frame, {"domain": "math"})], message)

A commit is all or nothing and carries a message that names asset, run and code version. Writers that meet
("database is locked", a conflicting transaction) are retried with backoff. The DuckDB extensions come from their PyPI
wheels; nothing is downloaded at run time. There is no compaction and no expiry: every past snapshot stays readable.
"""

import contextlib
import hashlib
import importlib.util
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

SCHEMA = Path(__file__).parent / "schema"
RETRIES = 12
_SETTINGS = (
    "SET autoinstall_known_extensions = false",
    "SET enable_progress_bar = false",  # it would stand in the output of `lake query --json`
    "SET python_enable_replacements = false",  # a name in a query is a table, never a variable of this module
)
_LOCKED = ("database is locked", "conflict", "failed to commit", "transaction")


class LakeError(RuntimeError):
    """The lake cannot be opened, read or written; the message says which and what to do."""


@dataclass(frozen=True)
class Replace:
    """Rows for `table` that take the place of those whose columns equal `where`; an empty `where` replaces all."""

    table: str
    frame: pl.DataFrame
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Append:
    """Rows for `table` that are added to what is there."""

    table: str
    frame: pl.DataFrame


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

    def __init__(self, catalog: str, data_path: str) -> None:
        """`catalog` is what DuckLake attaches to, such as `sqlite:/path/meta.sqlite`; `data_path` holds the Parquet."""
        self.catalog = catalog
        self.data_path = data_path
        self._local = threading.local()

    @classmethod
    def at(cls, folder: Path) -> "Lake":
        """The embedded lake in `folder` (created when missing)."""
        (folder / "data").mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:{folder / 'meta.sqlite'}", f"{folder / 'data'}/")

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
        return self._connection().execute(f"SELECT {selected} FROM lake.{table}{version}{condition}", values).pl()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """The rows of one read-only statement. Tables are visible by their bare names; a write is refused."""
        return _select(self._connection(read_only=True), sql, parameters)

    def commit(self, writes: Sequence[Replace | Append], message: CommitMessage) -> int:
        """Write everything in one transaction and return the id of the snapshot it made."""
        connection = self._connection()
        for attempt in range(RETRIES):
            try:
                with _transaction(connection):
                    for write in writes:
                        self._write(connection, write)
                    connection.execute("CALL lake.set_commit_message(?, ?)", ["rankmill", str(message)])
                break
            except duckdb.Error as error:
                if attempt == RETRIES - 1 or not any(sign in str(error).lower() for sign in _LOCKED):
                    raise LakeError(
                        f"the commit of {message.asset} failed and nothing of it was written: {error}. "
                        f"Run the same command again; if it persists, see `rankmill doctor`."
                    ) from error
                time.sleep(min(4.0, 0.05 * 2**attempt) * (0.5 + random.random()))
        # Outside the loop: what is committed must not be written again because its number could not be read.
        row = connection.execute("SELECT id FROM lake.last_committed_snapshot()").fetchone()
        return int(row[0]) if row and row[0] is not None else self.snapshot()

    def snapshot(self) -> int:
        """The id of the newest snapshot."""
        row = self._connection().execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
        return int(row[0]) if row else 0

    def snapshots(self) -> pl.DataFrame:
        """All snapshots, newest first: snapshot_id, snapshot_time, commit_message, changes."""
        return self._connection().execute(
            "SELECT snapshot_id, snapshot_time, commit_message, changes::VARCHAR AS changes "
            "FROM lake.snapshots() ORDER BY snapshot_id DESC"
        ).pl()  # fmt: skip

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
            connection = self._attach(read_only)
            if not read_only:
                migrate(connection)
            setattr(self._local, name, connection)
        return connection

    def _attach(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:")
        for setting in _SETTINGS:
            connection.execute(setting)
        for extension in ("ducklake", "sqlite_scanner"):
            connection.execute(f"LOAD {_quoted(str(extension_path(extension)))}")
        # In SQLite's WAL mode a reader never waits for a writer.
        journal = ", META_JOURNAL_MODE 'WAL'" if self.catalog.startswith("sqlite:") else ""
        mode = ", READ_ONLY" if read_only else journal
        for attempt in range(RETRIES):
            try:
                connection.execute(
                    f"ATTACH {_quoted(f'ducklake:{self.catalog}')} AS lake (DATA_PATH {_quoted(self.data_path)}, "
                    f"OVERRIDE_DATA_PATH TRUE, DATA_INLINING_ROW_LIMIT 0{mode})"
                )
                break
            except duckdb.Error as error:
                if attempt == RETRIES - 1 or "locked" not in str(error).lower():
                    raise LakeError(
                        f"the lake at {self.catalog} cannot be opened: {error}. `rankmill doctor` looks for the cause."
                    ) from error
                time.sleep(0.1 * (attempt + 1))
        connection.execute("USE lake")
        if read_only:
            connection.execute(f"SET allowed_directories = [{_quoted(self.data_path)}]")
            connection.execute("SET enable_external_access = false")
        return connection

    def _write(self, connection: duckdb.DuckDBPyConnection, write: Replace | Append) -> None:
        _known(write.table)
        if isinstance(write, Replace):
            condition, values = self._condition(write.table, write.where)
            connection.execute(f"DELETE FROM lake.{write.table}{condition}", values)
        if write.frame.height:
            columns = ", ".join(self._column(write.table, column) for column in write.frame.columns)
            connection.register("incoming", write.frame.to_arrow())
            connection.execute(f"INSERT INTO lake.{write.table} ({columns}) SELECT {columns} FROM incoming")
            connection.unregister("incoming")

    def _condition(self, table: str, where: Mapping[str, str]) -> tuple[str, list[str]]:
        columns = [self._column(table, column) for column in where]
        clause = " AND ".join(f"{column} = ?" for column in columns)
        return (f" WHERE {clause}" if clause else ""), list(where.values())

    @staticmethod
    def _column(table: str, column: str) -> str:
        allowed = _known(table)
        if column not in allowed:
            raise LakeError(f"table {table} has no column {column!r}. Columns: {', '.join(allowed)}.")
        return column


@contextlib.contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One transaction: committed at the end of the block, rolled back whatever is raised in it."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise


def _known(table: str) -> tuple[str, ...]:
    columns = table_columns().get(table)
    if columns is None:
        raise LakeError(f"the lake has no table {table!r}. Tables: {', '.join(sorted(table_columns()))}.")
    return columns


def _quoted(text: str) -> str:
    """A path as a string of SQL; ATTACH, LOAD and SET take no bound parameters."""
    return "'" + text.replace("'", "''") + "'"


def _select(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any]) -> pl.DataFrame:
    try:
        statements = connection.extract_statements(sql)
        # Not EXPLAIN either: EXPLAIN ANALYZE runs what it explains, a COPY to a file included.
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise LakeError("only one SELECT is allowed here: the lake is written by assets alone.")
        return connection.execute(sql, list(parameters)).pl()
    except duckdb.Error as error:
        tables = ", ".join(sorted(table_columns()))
        raise LakeError(f"{error}\nTables of the lake: {tables}.") from error


_COLUMNS: dict[str, tuple[str, ...]] = {}


def table_columns() -> dict[str, tuple[str, ...]]:
    """Tables and their columns as the migrations make them: the allow-list of identifiers in SQL."""
    if not _COLUMNS:
        with duckdb.connect(":memory:") as connection:
            for migration in migrations():
                connection.execute(migration.sql)
            rows = connection.execute(
                "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() "
                "WHERE schema_name = 'main' AND NOT internal GROUP BY table_name"
            ).fetchall()
        _COLUMNS.update({table: tuple(columns) for table, columns in rows})
    return _COLUMNS


@dataclass(frozen=True)
class Migration:
    """One numbered file of warehouse/schema."""

    number: int
    name: str
    sql: str
    sha256: str


def migrations() -> list[Migration]:
    """All migrations in their order."""
    found = []
    for path in sorted(SCHEMA.glob("[0-9]*.sql")):
        sql = path.read_text("utf-8")
        digest = hashlib.sha256(sql.encode()).hexdigest()
        found.append(Migration(int(path.name.split("_")[0]), path.stem, sql, digest))
    return found


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring an attached lake to the newest schema, one transaction a migration, each recorded. Safe to race."""
    for attempt in range(RETRIES):
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS lake.schema_migrations "
                "(number BIGINT, name VARCHAR, sha256 VARCHAR, applied_at VARCHAR)"
            )
            for migration in migrations():
                with _transaction(connection):
                    done = connection.execute(
                        "SELECT sha256 FROM lake.schema_migrations WHERE number = ?", [migration.number]
                    ).fetchone()
                    if done is None:
                        connection.execute(migration.sql)
                        connection.execute(
                            "INSERT INTO lake.schema_migrations VALUES (?, ?, ?, ?)",
                            [migration.number, migration.name, migration.sha256, now()],
                        )
            return
        except duckdb.Error as error:
            if attempt == RETRIES - 1:
                raise LakeError(f"the lake's schema could not be brought up to date: {error}") from error
            time.sleep(0.1 * (attempt + 1) * (0.5 + random.random()))


def extension_path(name: str) -> Path:
    """The DuckDB extension file inside its PyPI wheel. Raises LakeError naming the package when it is missing."""
    package = f"duckdb_extension_{name}"
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for path in Path(folder).glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"):
            return path
    raise LakeError(
        f"DuckDB {duckdb.__version__} has no extension {name!r} installed. "
        f"Install it: pip install {package.replace('_', '-')}=={duckdb.__version__}"
    )


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
