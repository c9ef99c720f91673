"""Releases side by side: every row that came, went or changed is named with the cause that the lake recorded."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from later_releases import change, here, put, release_now
from small_lake import LONG, fill, message

from warehouse.audit.snapshots import diff_table
from warehouse.audit.versions import diff_releases, releases
from warehouse.curation.releases import UnknownRelease, export_rows, read_release
from warehouse.lake import Append, Lake, LakeError


def causes(rows: pl.DataFrame) -> set[tuple[str, str, str, str]]:
    return set(rows.select("change", "qid", "why", "detail").iter_rows())


def test_every_row_that_left_a_release_is_named_with_its_cause(factory_lake: Lake) -> None:
    lake = factory_lake
    first = release_now(lake)
    lake.commit(
        [Append("rejections", pl.DataFrame([
            {"asset": "consistent_rankings", "partition_key": "math", "stage": "consistent_rankings", "key": "math-2",
             "reason": "inconsistent", "detail": "NDCG@10 0.210 below alpha 0.4"},
            {"asset": "teacher_rankings", "partition_key": "math", "stage": "teacher_rankings", "key": "train4",
             "reason": "empty_chain", "detail": "no chain"},
        ]))], message("labels"),
    )  # fmt: skip
    change(lake, "queries", put("text", LONG, here("math", "train1")), put("split", "dev", here("math", "train3")),
           keep=~here("math", "train0"))  # fmt: skip
    change(lake, "consistent_rankings", keep=~here("math", "train2"))
    change(lake, "rankings", keep=~(here("math", "train4") | here("math", "train5") | here("math", "train0")))
    second = release_now(lake)
    made = diff_releases(lake, first[:9], second[:9])
    assert (made.a, made.b) == (first, second)
    told = {(qid, why): detail for change_, qid, why, detail in causes(made.rows) if change_ == "went"}
    assert told.keys() == {
        ("train0", "source"), ("train1", "leak"), ("train2", "filter consistency"), ("train3", "source"),
        ("train4", "teacher"), ("train5", "teacher"),
    }  # fmt: skip
    assert told["train0", "source"] == "its sources did not hold the query"
    assert "bench" in told["train1", "leak"]
    assert told["train2", "filter consistency"] == "inconsistent: NDCG@10 0.210 below alpha 0.4"
    assert told["train3", "source"] == "its sources hold the query out (dev)"
    assert told["train4", "teacher"] == "empty_chain: no chain"
    assert told["train5", "teacher"] == "the teacher had not ranked a list for the query"
    assert set(made.rows["change"]) == {"went"}
    assert made.same == read_release(lake, second).height
    # The other way round the same rows came, for the same causes.
    back = diff_releases(lake, second, first)
    assert {(q, w, d) for _, q, w, d in causes(back.rows)} == {(q, w, d) for _, q, w, d in causes(made.rows)}
    assert set(back.rows["change"]) == {"came"}
    assert back.rows["row_id_a"].null_count() == made.rows["row_id_b"].null_count() == 6


def test_a_row_that_changed_is_named_with_every_cause_and_the_columns(factory_lake: Lake) -> None:
    lake = factory_lake
    first = release_now(lake)
    ours = here("math", "train0") | here("math", "train1")
    change(lake, "queries", put("license", "MIT", here("math", "train0")))
    change(lake, "rankings", put("reasoning", "Another chain.", ours), put("exchange_key", "other", ours))
    change(lake, "passages", put("text", "new words in it", (pl.col("docid") == "d5") & (pl.col("domain") == "math")))
    second = release_now(lake)
    made = diff_releases(lake, first, second)
    assert causes(made.rows) == {
        ("changed", "train0", "source", "other license"),
        ("changed", "train0", "teacher", "other exchange_key, reasoning"),
        ("changed", "train1", "teacher", "other exchange_key, reasoning"),
    }
    assert made.same == read_release(lake, first).height - 2
    assert made.counts().rows() == [("changed", "teacher", 2), ("changed", "source", 1)]
    # A passage that a list holds is part of the row: d0 stands on every list of math.
    change(lake, "passages", put("text", "other words", (pl.col("docid") == "d0") & (pl.col("domain") == "math")))
    third = diff_releases(lake, second, release_now(lake))
    assert set(third.rows["why"]) == {"source"}
    assert set(third.rows["detail"]) == {"other texts of passages"}
    assert set(third.rows["domain"]) == {"math"}


def test_two_equal_releases_differ_in_nothing(factory_lake: Lake) -> None:
    name = release_now(factory_lake)
    made = diff_releases(factory_lake, name, name)
    assert made.rows.is_empty()
    assert made.same == read_release(factory_lake, name).height


def test_a_release_that_does_not_exist_is_named_with_those_that_do(factory_lake: Lake) -> None:
    name = release_now(factory_lake)
    with pytest.raises(UnknownRelease, match=name[:12]):
        diff_releases(factory_lake, name, "nothing")


def test_releases_are_listed_with_what_was_trained_on_them(factory_lake: Lake) -> None:
    lake = factory_lake
    name = release_now(lake)
    lake.commit(
        [Append("models", pl.DataFrame([{"model": "m" * 24, "recipe": "reasonrank", "stage": "sft", "release": name,
                                         "created_at": "2026-01-01"}]))],
        message("sft_model"),
    )  # fmt: skip
    change(lake, "consistent_rankings", keep=~here("math", "train2"))
    other = release_now(lake)
    listed = {row["release"]: row for row in releases(lake).iter_rows(named=True)}
    assert listed.keys() == {name, other}
    assert listed[name]["models"] == [f"reasonrank sft {'m' * 12}"]
    assert (listed[other]["models"], listed[other]["retracted"], listed[other]["successor"]) == ([], [], None)
    assert listed[name]["rows"] == listed[other]["rows"] + 1


def test_a_past_release_is_read_and_exported_long_after(factory_lake: Lake, tmp_path: Path) -> None:
    lake = factory_lake
    name = release_now(lake)
    before = read_release(lake, name)
    for table in ("queries", "passages", "rankings", "consistent_rankings"):
        change(lake, table, keep=pl.lit(False))
    assert read_release(lake, name).equals(before)
    assert pl.read_parquet(export_rows(lake, name, tmp_path)).sort("row_id").equals(before)


def test_a_table_at_two_snapshots_tells_its_rows_and_columns(lake: Lake) -> None:
    fill(lake)
    before = lake.snapshot()
    ours = here("math", "train1")
    change(lake, "queries", put("text", "Other?", ours), put("url", "http://a", ours), keep=~here("math", "train0"))
    new = lake.read("queries").filter(here("math", "train2")).with_columns(qid=pl.lit("new"))
    lake.commit([Append("queries", new)], message("queries"))
    made = diff_table(lake, "queries", before, lake.snapshot())
    assert made.rows.rows() == [
        ("came", "math", "new", []), ("changed", "math", "train1", ["text", "url"]), ("went", "math", "train0", []),
    ]  # fmt: skip
    assert dict(made.counts()) == {"came": 1, "went": 1, "changed": 1}
    assert made.same == 46 - 2
    for table, snapshot, told in (("rejections", before, "no key"), ("queries", 999, "no snapshot 999")):
        with pytest.raises(LakeError, match=told):
            diff_table(lake, table, before, snapshot)


def test_a_table_is_compared_with_a_snapshot_at_which_it_had_fewer_columns(lake: Lake) -> None:
    first = next(number for number in range(1, 50) if "releases" in _tables(lake, number))
    assert diff_table(lake, "releases", first, lake.snapshot()).rows.is_empty()
    lake.commit([Append("releases", pl.DataFrame({"release": ["r"], "parent": ["p"]}))], message("releases"))
    assert diff_table(lake, "releases", first, lake.snapshot()).rows.rows() == [("came", "r", [])]


def _tables(lake: Lake, snapshot: int) -> list[str]:
    rows = lake.connection().execute(
        "SELECT table_name FROM __ducklake_metadata_lake.ducklake_table WHERE begin_snapshot <= ?", [snapshot]
    )
    return [name for (name,) in rows.fetchall()]
