"""Migrations: from every earlier schema today's code makes today's lake, keeps its rows, and records it once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from warehouse.catalog import transaction
from warehouse.lake import Append, CommitMessage, Lake, opened
from warehouse.migrations import migrations, table_columns

OPENER = """
import sys, pathlib
from warehouse.lake import Lake
lake = Lake.at(pathlib.Path(sys.argv[1]))
print(lake.query("SELECT count(*) FROM schema_migrations").item(), lake.read("queries").height)
"""
NUMBERS = [migration.number for migration in migrations()]


def lake_at_schema(folder: Path, number: int) -> dict[str, pl.DataFrame]:
    """A lake as the code of schema `number` left it, with three rows in every table; what it holds."""
    lake = Lake.at(folder)
    connection = lake.place.attach(read_only=False)
    connection.execute(
        "CREATE TABLE lake.schema_migrations (number BIGINT, name VARCHAR, sha256 VARCHAR, applied_at VARCHAR)"
    )
    for migration in migrations()[:number]:
        with transaction(connection):
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO lake.schema_migrations VALUES (?, ?, ?, 'then')",
                [migration.number, migration.name, migration.sha256],
            )
    held = {}
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'").fetchall()
    for (table,) in tables:
        if table == "schema_migrations":
            continue
        connection.execute(f'INSERT INTO lake."{table}" BY NAME SELECT {_values(connection, table)} FROM range(3) r(n)')
        held[table] = connection.execute(f'SELECT * FROM lake."{table}" ORDER BY ALL').pl()
    connection.close()
    return held


def _values(connection: object, table: str) -> str:
    kinds = {"VARCHAR": "concat('text ', n)", "BIGINT": "n", "DOUBLE": "n / 4", "BOOLEAN": "n = 1"}
    kinds |= {"VARCHAR[]": "['a', concat('b', n)]", "BIGINT[]": "[n, n + 1]"}
    rows = connection.execute(  # type: ignore[attr-defined]
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'lake' AND table_name = ?", [table]
    ).fetchall()
    return ", ".join(f'{kinds[kind]} AS "{name}"' for name, kind in rows)


def test_numbers_follow_one_another_and_each_file_is_named_after_its_own() -> None:
    assert list(range(1, len(NUMBERS) + 1)) == NUMBERS
    assert all(migration.name.startswith(f"{migration.number:04d}_") for migration in migrations())


@pytest.mark.parametrize("number", NUMBERS)
def test_rows_of_an_earlier_schema_are_intact_under_todays_code(tmp_path: Path, number: int) -> None:
    held = lake_at_schema(tmp_path / "lake", number)
    with opened(Lake.at(tmp_path / "lake")) as lake:
        recorded = lake.query(
            "SELECT number, sha256, applied_at = 'then' AS old FROM schema_migrations ORDER BY number"
        )
        assert recorded["number"].to_list() == NUMBERS
        assert recorded["sha256"].to_list() == [migration.sha256 for migration in migrations()]
        assert recorded["old"].to_list() == [made <= number for made in NUMBERS]
        for table, rows in held.items():
            now = lake.read(table)
            assert now.columns == list(table_columns()[table])
            kept = now.select(rows.columns).sort(pl.nth(0).cast(pl.String), maintain_order=True)
            assert sorted(map(repr, kept.rows())) == sorted(map(repr, rows.rows())), table
            new = [name for name in now.columns if name not in rows.columns]
            assert all(now[name].null_count() == 3 for name in new), table
        # It is a lake like any other: its past is readable, and it can be written to.
        lake.commit([Append("queries", held["queries"].head(1))], CommitMessage("queries", "run", "1"))
        assert lake.read("queries").height == 4


@pytest.mark.parametrize("number", [NUMBERS[0], NUMBERS[-2]])
def test_processes_that_open_an_old_lake_at_once_migrate_it_once(tmp_path: Path, number: int) -> None:
    lake_at_schema(tmp_path / "lake", number)
    racers = [
        subprocess.Popen([sys.executable, "-c", OPENER, str(tmp_path / "lake")], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [racer.communicate(timeout=60)[0].split() for racer in racers] == [[str(len(NUMBERS)), "3"]] * 3
    with opened(Lake.at(tmp_path / "lake")) as lake:
        recorded = lake.query("SELECT number FROM schema_migrations")["number"].to_list()
    assert sorted(recorded) == NUMBERS


def test_every_migration_is_a_commit_that_says_which(tmp_path: Path) -> None:
    with opened(Lake.at(tmp_path / "lake")) as lake:
        said = lake.snapshots().sort("snapshot_id")["commit_message"].drop_nulls().to_list()
    assert said[0] == "asset=schema run=0000_schema_migrations code=0"
    assert said[1:] == [f"asset=schema run={m.name} code={m.number}" for m in migrations()]
