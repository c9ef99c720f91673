"""The laws: silent on a healthy lake, and each notices the one thing that it is there for."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from small_lake import benchmarks, message, queries, rankings, release

from warehouse import laws
from warehouse.lake import Append, Lake, Replace
from warehouse.releases import UnknownRelease

RELEASE_LAWS: list[Callable[[Lake], list[str]]] = [
    laws.releases_that_changed,
    laws.releases_that_cannot_be_rebuilt,
    laws.released_rows_in_a_benchmark,
    laws.ids_used_twice,
    laws.work_without_a_snapshot,
]


def alter(lake: Lake, sql: str) -> None:
    """Change the lake as somebody would who goes round its door."""
    lake._connection().execute(sql)


def test_a_healthy_lake_breaks_no_law(factory_lake: Lake) -> None:
    release(factory_lake)
    assert [law(factory_lake) for law in RELEASE_LAWS] == [[]] * len(RELEASE_LAWS)
    for asset in ("queries", "teacher_rankings", "training_set", "benchmarks"):
        assert laws.counts_that_do_not_add_up(factory_lake, asset) == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE lake.training_rows SET reasoning = 'altered' WHERE qid = 'train3' AND domain = 'math'",
        "UPDATE lake.training_rows SET relevant = [0, 1] WHERE qid = 'train3' AND domain = 'math'",
        "DELETE FROM lake.training_rows WHERE qid = 'train3' AND domain = 'math'",
        "INSERT INTO lake.training_rows SELECT * FROM lake.training_rows LIMIT 1",
    ],
)
def test_an_altered_row_of_a_release_is_noticed(factory_lake: Lake, sql: str) -> None:
    name = release(factory_lake)
    alter(factory_lake, sql)
    found = laws.releases_that_changed(factory_lake)
    assert len(found) == 1
    assert f"release {name[:12]}: its" in found[0]
    assert "no longer hash to its name" in found[0]


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
def test_a_release_that_does_not_follow_from_its_snapshot_is_noticed(factory_lake: Lake, sql: str) -> None:
    name = release(factory_lake)
    alter(factory_lake, sql)
    found = laws.releases_that_cannot_be_rebuilt(factory_lake)
    assert len(found) == 1
    assert found[0].startswith(f"release {name[:12]}: snapshot ")


def test_a_released_row_that_stands_in_a_benchmark_is_named(factory_lake: Lake) -> None:
    release(factory_lake)
    known = dict(queries().filter(pl.col("domain") == "math").select("qid", "text").iter_rows())
    added = benchmarks().with_columns(qid=pl.lit("b2"), text=pl.lit(known["train5"].upper()))
    factory_lake.commit([Append("benchmarks", added)], message("benchmarks"))
    found = laws.released_rows_in_a_benchmark(factory_lake)
    assert len(found) == 1
    assert "exact overlap with bench query b2" in found[0]


def test_a_released_row_that_is_also_held_out_is_named(factory_lake: Lake) -> None:
    release(factory_lake)
    alter(factory_lake, "UPDATE lake.queries SET split = 'test' WHERE domain = 'math' AND qid = 'train5'")
    found = laws.released_rows_in_a_benchmark(factory_lake)
    assert len(found) == 1
    assert "overlap with held-out math query train5" in found[0]


def test_the_overlap_law_needs_a_release(lake: Lake) -> None:
    with pytest.raises(UnknownRelease, match="Materialize training_set first"):
        laws.released_rows_in_a_benchmark(lake)


def test_an_id_that_stands_for_two_things_is_named(factory_lake: Lake) -> None:
    again = queries().head(1).with_columns(text=pl.lit("another text"))
    same_id = rankings().head(1).with_columns(domain=pl.lit("coding"))
    factory_lake.commit([Append("queries", again), Append("rankings", same_id)], message())
    assert laws.ids_used_twice(factory_lake) == [
        "queries: math / train0 stands more than once",
        "rankings: math-0 stands more than once",
    ]


@pytest.mark.parametrize("snapshot", [10**6, "NULL"])
def test_work_that_read_no_known_snapshot_is_named(factory_lake: Lake, snapshot: object) -> None:
    assert laws.work_without_a_snapshot(factory_lake) == []
    alter(
        factory_lake,
        f"UPDATE lake.materializations SET read_snapshot = {snapshot} "
        "WHERE asset = 'teacher_rankings' AND partition_key = 'math'",
    )
    found = laws.work_without_a_snapshot(factory_lake)
    assert len(found) == 1
    assert found[0].startswith("teacher_rankings math: read snapshot ")
    assert laws.work_without_a_snapshot(factory_lake, ("queries",)) == []


@pytest.mark.parametrize("column", ["rows_in", "rows_out", "rows_rejected"])
def test_counts_that_do_not_add_up_are_named(factory_lake: Lake, column: str) -> None:
    alter(factory_lake, f"UPDATE lake.materializations SET {column} = {column} + 1 WHERE asset = 'queries'")
    found = laws.counts_that_do_not_add_up(factory_lake, "queries")
    assert [line.split(":")[0] for line in sorted(found)] == ["queries math", "queries web_search"]
    assert laws.counts_that_do_not_add_up(factory_lake, "passages") == []


def test_every_id_law_names_columns_that_exist(lake: Lake) -> None:
    assert all(lake.read(table, columns=keys).is_empty() for table, keys in laws.KEYS.items())
