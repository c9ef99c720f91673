"""Releases: named by their content on any machine, written once, and never changed without notice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from small_lake import SETTINGS, curated, fill, message, release, release_hash

from warehouse.curation.curate import ROW_SCHEMA
from warehouse.curation.releases import UnknownRelease, export_rows, read_release, release_sha256, release_writes
from warehouse.lake import Lake


def write(lake: Lake, rows: pl.DataFrame) -> str:
    name, writes = release_writes(
        lake,
        rows,
        domains=rows["domain"].unique().to_list(),
        read_snapshot=lake.snapshot(),
        settings=SETTINGS.model_dump(),
        code_version="1",
    )
    if writes:
        lake.commit(writes, message("training_set"))
    return name


def test_two_fresh_lakes_give_the_release_the_same_name(new_lake: Callable[[str], Lake]) -> None:
    names = []
    for folder in ("one", "two"):
        lake = new_lake(folder)
        fill(lake)
        names.append(release(lake))
        assert release_sha256(read_release(lake, names[-1])) == names[-1]
    assert names[0] == names[1]


def test_the_name_depends_on_neither_the_order_of_rows_nor_the_number_of_threads() -> None:
    here = Path(__file__).parent
    code = f"import sys; sys.path.insert(0, {str(here)!r}); import small_lake; print(small_lake.release_hash("
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", f"{code}{shuffle}))"],
            env={**os.environ, "POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": shuffle},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads, shuffle in (("1", "11"), ("8", "12"))
    ]
    told = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert told == [release_hash(1)] * 2
    assert len(told[0]) == 64


@pytest.mark.parametrize("column", ["query", "final_order", "reasoning", "split", "license", "consistency"])
def test_one_changed_value_gives_another_name(column: str) -> None:
    rows = curated().rows
    changed = {
        "query": pl.lit("Another?"), "final_order": pl.col("final_order").list.reverse(), "reasoning": pl.lit(""),
        "split": pl.lit("test"), "license": pl.lit(None, pl.String), "consistency": pl.col("consistency") + 1e-9,
    }[column]  # fmt: skip
    first = pl.col("row_id") == rows["row_id"][0]
    altered = rows.with_columns(pl.when(first).then(changed).otherwise(pl.col(column)).alias(column))
    assert release_sha256(altered) != release_sha256(rows)
    assert release_sha256(rows.head(rows.height - 1)) != release_sha256(rows)


def test_a_release_is_never_written_twice_and_another_stands_beside_it(lake: Lake) -> None:
    rows = curated().rows
    name = write(lake, rows)
    before = lake.snapshot()
    assert write(lake, rows.sample(fraction=1.0, shuffle=True, seed=5)) == name
    assert lake.snapshot() == before
    other = write(lake, rows.head(9))
    assert other != name
    assert read_release(lake, name).height == rows.height
    assert read_release(lake, other).height == 9
    entry = dict(zip(*(lake.read("releases").select("release", "rows").get_columns()), strict=True))
    assert entry == {name: rows.height, other: 9}


def test_what_is_read_is_what_was_released(lake: Lake) -> None:
    rows = curated().rows
    name = write(lake, rows)
    read = read_release(lake, name[:10])
    assert read.drop("release").equals(rows.sort("row_id").select(read.drop("release").columns))
    assert list(read.columns) == list(ROW_SCHEMA)
    assert read["release"].unique().to_list() == [name]
    entry = lake.read("releases").row(0, named=True)
    assert entry["sft"] + entry["rl"] + entry["dev"] == entry["rows"] == rows.height
    assert (entry["domains"], entry["licenses"]) == (["math", "web_search"], ["CC0-1.0"])


def test_an_unknown_or_ambiguous_name_is_answered_with_those_that_exist(lake: Lake) -> None:
    with pytest.raises(UnknownRelease, match=r"names 0 releases\. Releases: none yet: run `rankmill run`"):
        read_release(lake, "abc")
    names = [write(lake, curated().rows), write(lake, curated().rows.head(3))]
    with pytest.raises(UnknownRelease, match="names 2 releases") as told:
        read_release(lake, "")
    assert all(name[:12] in str(told.value) for name in names)


def test_a_release_without_rows_can_be_written_and_read(lake: Lake) -> None:
    name = write(lake, curated().rows.clear())
    assert read_release(lake, name).is_empty()
    assert lake.read("releases").select("rows", "sft", "domains").rows() == [(0, 0, [])]


def test_exported_rows_are_the_release_and_are_written_once(lake: Lake, tmp_path: Path) -> None:
    name = write(lake, curated().rows)
    path = export_rows(lake, name, tmp_path / "releases")
    assert path == tmp_path / "releases" / name[:12] / "rows.parquet"
    assert pl.read_parquet(path).equals(read_release(lake, name))
    stamp = path.stat().st_mtime_ns
    assert export_rows(lake, name, tmp_path / "releases").stat().st_mtime_ns == stamp
    assert [file.name for file in path.parent.iterdir()] == ["rows.parquet"]
