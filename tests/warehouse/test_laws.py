"""The laws: silent on a healthy lake, and each notices the one thing that it is there for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from small_lake import benchmarks, message, queries, rankings, release

from warehouse import laws
from warehouse.curation.releases import UnknownRelease
from warehouse.lake import Lake, Replace, opened

RELEASE_LAWS: list[Callable[[Lake], list[str]]] = [
    laws.releases_that_changed,
    laws.releases_that_cannot_be_rebuilt,
    laws.released_rows_in_a_benchmark,
    laws.ids_used_twice,
    laws.work_without_a_snapshot,
]


@pytest.fixture(scope="module")
def released(filled_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A healthy lake with one release; whoever alters it puts it back."""
    folder = tmp_path_factory.mktemp("released") / "lake"
    shutil.copytree(filled_lake, folder)
    with opened(Lake.at(folder)) as lake:
        release(lake)
        yield lake


@contextmanager
def altered(lake: Lake, sql: str, *values: str) -> Iterator[str]:
    """The lake as somebody left it who went round its door, until the end of the block; gives the release's hash."""
    connection = lake._connection()
    connection.execute("BEGIN")
    try:
        connection.execute(sql, values)
        yield lake.read("releases")["release"].item()
    finally:
        connection.execute("ROLLBACK")


def test_a_healthy_lake_breaks_no_law(released: Lake) -> None:
    assert [law(released) for law in RELEASE_LAWS] == [[]] * len(RELEASE_LAWS)
    for asset in ("queries", "teacher_rankings", "training_set", "benchmarks"):
        assert laws.counts_that_do_not_add_up(released, asset) == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE lake.training_rows SET reasoning = 'altered' WHERE qid = 'train3' AND domain = 'math'",
        "UPDATE lake.training_rows SET relevant = [0, 1] WHERE qid = 'train3' AND domain = 'math'",
        "DELETE FROM lake.training_rows WHERE qid = 'train3' AND domain = 'math'",
        "INSERT INTO lake.training_rows SELECT * FROM lake.training_rows LIMIT 1",
    ],
)
def test_an_altered_row_of_a_release_is_noticed(released: Lake, sql: str) -> None:
    with altered(released, sql) as name:
        found = laws.releases_that_changed(released)
    assert len(found) == 1
    assert f"release {name[:12]}: its" in found[0]
    assert "no longer hash to its name" in found[0]


def test_a_row_altered_in_a_committed_snapshot_is_noticed(factory_lake: Lake) -> None:
    name = release(factory_lake)
    factory_lake._connection().execute("UPDATE lake.training_rows SET judge = 'somebody else' WHERE qid = 'train3'")
    assert [found[:21] for found in laws.releases_that_changed(factory_lake)] == [f"release {name[:12]}:"]


def test_a_release_is_rebuilt_from_its_snapshot_after_everything_else_has_changed(factory_lake: Lake) -> None:
    release(factory_lake)
    fewer = rankings().filter(pl.col("qid") == "train1").with_columns(reasoning=pl.lit("Later."))
    factory_lake.commit(
        [
            Replace("rankings", fewer), Replace("consistent_rankings", pl.DataFrame()),
            Replace("queries", queries().with_columns(text=pl.lit("another"))), Replace("passages", pl.DataFrame()),
            Replace("benchmarks", benchmarks().with_columns(text=pl.lit("another"))),
        ],
        message("everything"),
    )  # fmt: skip
    assert laws.releases_that_cannot_be_rebuilt(factory_lake) == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE lake.releases SET read_snapshot = read_snapshot - 3",
        """UPDATE lake.releases SET settings = replace(settings, '"seed": 0', '"seed": 1')""",
    ],
)
def test_a_release_that_does_not_follow_from_its_snapshot_is_noticed(released: Lake, sql: str) -> None:
    with altered(released, sql) as name:
        found = laws.releases_that_cannot_be_rebuilt(released)
    assert len(found) == 1
    assert found[0].startswith(f"release {name[:12]}: snapshot ")


def test_a_released_row_that_stands_in_a_benchmark_is_named(released: Lake) -> None:
    known = dict(queries().filter(pl.col("domain") == "math").select("qid", "text").iter_rows())
    with altered(
        released, "INSERT INTO lake.benchmarks VALUES ('bench', 'b2', ?, 'here', 'query')", known["train5"].upper()
    ):
        found = laws.released_rows_in_a_benchmark(released)
    assert len(found) == 1
    assert "exact overlap of its query with bench query b2" in found[0]


def test_a_released_row_that_is_also_held_out_is_named(released: Lake) -> None:
    with altered(released, "UPDATE lake.queries SET split = 'test' WHERE domain = 'math' AND qid = 'train5'"):
        found = laws.released_rows_in_a_benchmark(released)
    assert len(found) == 1
    assert "overlap of its query with held-out math query train5" in found[0]


def test_the_overlap_law_needs_a_release(lake: Lake) -> None:
    with pytest.raises(UnknownRelease, match="Materialize training_set first"):
        laws.released_rows_in_a_benchmark(lake)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "INSERT INTO lake.queries (domain, qid, text) VALUES ('math', 'train0', 'another text')",
            "queries: math / train0 stands more than once",
        ),
        (
            "INSERT INTO lake.rankings (domain, ranking_id) VALUES ('coding', 'math-0')",
            "rankings: math-0 stands more than once",
        ),
    ],
)
def test_an_id_that_stands_for_two_things_is_named(released: Lake, sql: str, expected: str) -> None:
    with altered(released, sql):
        assert laws.ids_used_twice(released) == [expected]


@pytest.mark.parametrize("snapshot", ["1000000", "NULL"])
def test_work_that_read_no_known_snapshot_is_named(released: Lake, snapshot: str) -> None:
    where = "WHERE asset = 'teacher_rankings' AND partition_key = 'math'"
    with altered(released, f"UPDATE lake.materializations SET read_snapshot = {snapshot} {where}"):
        found = laws.work_without_a_snapshot(released)
        assert laws.work_without_a_snapshot(released, ("queries",)) == []
    assert len(found) == 1
    assert found[0].startswith("teacher_rankings math: read snapshot ")


@pytest.mark.parametrize("column", ["rows_in", "rows_out", "rows_rejected"])
def test_counts_that_do_not_add_up_are_named(released: Lake, column: str) -> None:
    with altered(released, f"UPDATE lake.materializations SET {column} = {column} + 1 WHERE asset = 'queries'"):
        found = laws.counts_that_do_not_add_up(released, "queries")
        assert laws.counts_that_do_not_add_up(released, "passages") == []
    assert [line.split(":")[0] for line in sorted(found)] == ["queries math", "queries web_search"]


def test_every_id_law_names_columns_that_exist(released: Lake) -> None:
    for table, keys in laws.KEYS.items():
        assert released.read(table, columns=keys).columns == list(keys)
