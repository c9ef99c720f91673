"""Releases: named by their content on any machine, written once, and never changed without notice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from small_lake import SETTINGS, benchmarks, curated, fill, message, queries, release, release_hash

from warehouse.curation.contamination import never_train_on
from warehouse.curation.curate import Curated, curate
from warehouse.curation.releases import (
    UnknownRelease,
    export_rows,
    lists_of_release,
    read_release,
    release_pieces,
    release_writes,
    stored_digests,
)
from warehouse.curation.rows import ROW_SCHEMA, release_sha256, whole_rows
from warehouse.lake import Lake

NEVER = never_train_on(benchmarks(), queries())


def part(made: Curated, rows: pl.DataFrame) -> Curated:
    return replace(made, rows=rows)


def write(lake: Lake, made: Curated) -> str:
    name, writes = release_writes(
        lake,
        made,
        domains=made.rows["domain"].unique().to_list(),
        read_snapshot=lake.snapshot(),
        settings=SETTINGS.model_dump(mode="json"),
        code_version="1",
    )
    lake.commit(writes, message("training_set"))
    return name


def test_two_fresh_lakes_give_the_release_the_same_name(new_lake: Callable[[str], Lake]) -> None:
    names = []
    for folder in ("one", "two"):
        lake = new_lake(folder)
        fill(lake)
        names.append(release(lake))
        assert release_sha256(stored_digests(lake, names[-1])) == names[-1]
    assert names[0] == names[1]


# DuckDB takes its number of threads from the machine and from no variable: the process hands it to every connection.
CHILD = """
import sys
import duckdb
plain = duckdb.connect
duckdb.connect = lambda database: plain(database, config={"threads": sys.argv[2]})
sys.path.insert(0, sys.argv[1])
import small_lake
print(small_lake.release_hash(int(sys.argv[3])))
"""


def test_the_name_depends_on_neither_the_order_of_rows_nor_the_number_of_threads() -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(Path(__file__).parent), threads, shuffle],
            env={**os.environ, "POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": shuffle},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads, shuffle in (("1", "11"), ("8", "12"))
    ]
    told = [racer.communicate(timeout=120)[0].strip() for racer in racers]
    assert told == [release_hash(1)] * 2
    assert len(told[0]) == 64


@pytest.mark.parametrize("column", ["row_id", "split", "content_sha256"])
def test_one_changed_value_gives_another_name(column: str) -> None:
    rows = curated().rows
    first = pl.col("row_id") == rows["row_id"][0]
    altered = rows.with_columns(pl.when(first).then(pl.lit("other")).otherwise(pl.col(column)).alias(column))
    assert release_sha256(altered) != release_sha256(rows)
    assert release_sha256(rows.head(rows.height - 1)) != release_sha256(rows)
    assert release_sha256(pl.concat([rows, rows.head(1)])) != release_sha256(rows)


def test_a_release_is_never_written_twice_and_another_stands_beside_it(lake: Lake) -> None:
    made = curated()
    name = write(lake, made)
    assert write(lake, part(made, made.rows.sample(fraction=1.0, shuffle=True, seed=5))) == name
    other = write(lake, part(made, made.rows.head(9)))
    assert other != name
    assert read_release(lake, name).height == made.rows.height
    assert read_release(lake, other).height == 9
    entry = dict(zip(*(lake.read("releases").select("release", "rows").get_columns()), strict=True))
    assert entry == {name: made.rows.height, other: 9}


def test_decisions_clusters_and_overlaps_stand_beside_their_release_once(lake: Lake) -> None:
    made = curated()
    names = [write(lake, made), write(lake, made), write(lake, part(made, made.rows.head(5)))]
    for table, found in (("decisions", made.decisions), *made.found.items()):
        for name in set(names):
            kept = lake.read(table, {"release": name}).drop("release").select(found.columns)
            assert kept.sort(pl.all()).equals(found.sort(pl.all())), table
    assert lake.read("decisions", {"release": names[0]})["ranking_id"].n_unique() == 40


def test_what_is_read_is_what_was_released(lake: Lake) -> None:
    made = curated()
    name = write(lake, made)
    read = read_release(lake, name[:10])
    whole = pl.concat(whole_rows(made.rows, made.passages)).drop("content_sha256", "gold_answer")
    assert read.drop("release").equals(whole.select(read.drop("release").columns))
    assert read.schema == ROW_SCHEMA
    assert read["release"].unique().to_list() == [name]
    entry = lake.read("releases").row(0, named=True)
    assert entry["sft"] + entry["rl"] + entry["dev"] == entry["rows"] == made.rows.height
    assert (entry["domains"], entry["licenses"]) == (["math", "web_search"], ["CC0-1.0"])


def test_a_release_read_in_pieces_is_the_release(lake: Lake) -> None:
    made = curated()
    name = write(lake, made)
    for rows in (1, 7, 1_000):
        pieces = list(lake.pieces("training_rows", "row_id", rows, {"release": name}))
        assert len(pieces) == -(-made.rows.height // rows)
        assert pl.concat(pieces).equals(read_release(lake, name))
    assert pl.concat(release_pieces(lake, name, ["row_id", "query"])).equals(
        read_release(lake, name, ["row_id", "query"])
    )


def test_a_release_as_lists_again_is_what_its_filters_would_keep(lake: Lake) -> None:
    made = curated()
    lists = lists_of_release(lake, write(lake, made))
    assert sorted(lists.rows["ranking_id"]) == made.rows["row_id"].to_list()
    expected = made.passages.select("domain", "docid", "text")
    held = made.rows.select("domain", docid="docids").explode("docid").unique()
    assert (
        lists.passages.select("domain", "docid", "text")
        .sort(pl.all())
        .equals(expected.join(held, on=["domain", "docid"], how="semi").sort(pl.all()))
    )
    licensed = lists.passages.with_columns(license=pl.lit("CC0-1.0"))
    again = curate(replace(lists, passages=licensed), NEVER, SETTINGS)
    assert again.rows.height == made.rows.height


def test_an_unknown_or_ambiguous_name_is_answered_with_those_that_exist(lake: Lake) -> None:
    with pytest.raises(UnknownRelease, match=r"names 0 releases\. Releases: none yet: run `rankmill run`"):
        read_release(lake, "abc")
    names = [write(lake, curated()), write(lake, part(curated(), curated().rows.head(3)))]
    with pytest.raises(UnknownRelease, match="names 2 releases") as told:
        read_release(lake, "")
    assert all(name[:12] in str(told.value) for name in names)


def test_a_release_without_rows_can_be_written_and_read(lake: Lake) -> None:
    name = write(lake, part(curated(), curated().rows.clear()))
    assert read_release(lake, name).is_empty()
    assert lake.read("releases").select("rows", "sft", "domains").rows() == [(0, 0, [])]


def test_exported_rows_are_the_release_and_are_written_once(lake: Lake, tmp_path: Path) -> None:
    name = write(lake, curated())
    path = export_rows(lake, name, tmp_path / "releases")
    assert path == tmp_path / "releases" / name[:12] / "rows.parquet"
    assert pl.read_parquet(path).equals(read_release(lake, name))
    stamp = path.stat().st_mtime_ns
    assert export_rows(lake, name, tmp_path / "releases").stat().st_mtime_ns == stamp
    assert [file.name for file in path.parent.iterdir()] == ["rows.parquet"]
