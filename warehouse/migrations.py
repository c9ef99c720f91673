"""The lake's schema: numbered files of warehouse/schema, applied in order, each once and recorded.

A file is never edited once a lake may have it; what changes comes as the next number. The tables and columns that the
files make are also the allow-list of identifiers in SQL.
"""

import hashlib
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import duckdb

from warehouse.catalog import RETRIES, LakeError, transaction

SCHEMA = Path(__file__).parent / "schema"


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
    if _is_newest(connection):
        return
    for attempt in range(RETRIES):
        try:
            with transaction(connection):
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS lake.schema_migrations "
                    "(number BIGINT, name VARCHAR, sha256 VARCHAR, applied_at VARCHAR)"
                )
                _say(connection, "0000_schema_migrations", 0)
            for migration in migrations():
                with transaction(connection):
                    done = connection.execute(
                        "SELECT sha256 FROM lake.schema_migrations WHERE number = ?", [migration.number]
                    ).fetchone()
                    if done is None:
                        connection.execute(migration.sql)
                        applied = datetime.now(UTC).isoformat(timespec="seconds")
                        connection.execute(
                            "INSERT INTO lake.schema_migrations VALUES (?, ?, ?, ?)",
                            [migration.number, migration.name, migration.sha256, applied],
                        )
                        _say(connection, migration.name, migration.number)
            return
        except duckdb.Error as error:
            if attempt == RETRIES - 1:
                raise LakeError(f"the lake's schema could not be brought up to date: {error}") from error
            time.sleep(0.1 * (attempt + 1) * (0.5 + random.random()))


def _is_newest(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether every migration is recorded: one read, since every connection asks."""
    try:
        done = {row[0] for row in connection.execute("SELECT number FROM lake.schema_migrations").fetchall()}
    except duckdb.Error:  # a new lake, or one that somebody is migrating
        return False
    return done >= {migration.number for migration in migrations()}


def _say(connection: duckdb.DuckDBPyConnection, name: str, number: int) -> None:
    message = f"asset=schema run={name} code={number}"
    connection.execute("CALL lake.set_commit_message(?, ?)", ["rankmill", message])


@cache
def table_columns() -> dict[str, tuple[str, ...]]:
    """Tables and their columns as the migrations make them: the allow-list of identifiers in SQL."""
    return {table: tuple(columns) for table, columns in column_types().items()}


@cache
def column_types() -> dict[str, dict[str, str]]:
    """Tables, their columns in order, and each column's type, as the migrations make them."""
    with duckdb.connect(":memory:") as connection:
        for migration in migrations():
            connection.execute(migration.sql)
        rows = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY table_name, column_index"
        ).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        tables.setdefault(table, {})[column] = kind
    return tables
