"""The ledger: counts that add up or nothing is written, one row an asset and partition, and hashes of inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from small_lake import candidates, message

from warehouse.lake import Lake, LakeError, Replace
from warehouse.laws import counts_that_do_not_add_up
from warehouse.ledger import CountError, Materialization, Product, enter, input_sha256, latest, rejected

MADE = Materialization(
    asset="queries",
    partition_key="math",
    input_sha256="in",
    content_sha256="content",
    read_snapshot=3,
    rows_in=5,
    rows_out=4,
    rows_rejected=1,
    figures={},
    shown={},
    seconds=1.0,
    run_id="run",
    code_version="1",
    created_at="2025-01-01",
)


def product(asset: str, domain: str, count: int, dropped: int = 0, rows_in: int | None = None) -> Product:
    reasons = [(f"q{n}", "no_candidate", "no word in common") for n in range(dropped)]
    return Product(
        (Replace("candidates", candidates(domain, count), {"domain": domain}),),
        f"content-{count}",
        count + dropped if rows_in is None else rows_in,
        count,
        pl.concat([rejected(asset, reasons), rejected("passage", [("d1", "duplicate_passage", "smaller unit")])]),
        {"share": 0.5, "nested": {"überall": [1, 2]}},
        {"preview": "| qid |\n| --- |\n| „q1“ |"},
    )


def put(lake: Lake, products: dict[str, Product], partition_key: str = "math", inputs: str = "i") -> Any:
    return enter(
        lake, products, partition_key=partition_key, inputs_sha256=inputs, read_snapshot=lake.snapshot(), seconds=1.5,
        message=message(", ".join(products)),
    )  # fmt: skip


def test_counts_that_do_not_add_up_stop_everything_before_a_write(lake: Lake) -> None:
    before = lake.snapshot()
    for rows_in in (0, 4, 6, 7):
        good, bad = product("queries", "coding", 2), product("candidates", "math", 3, dropped=2, rows_in=rows_in)
        with pytest.raises(CountError, match=f"candidates math: {rows_in} in, 3 out and 2 rejected do not add up"):
            put(lake, {"queries": good, "candidates": bad})
    assert lake.snapshot() == before
    assert lake.read("candidates").is_empty()
    assert latest(lake, "queries", "math") is None


def test_what_was_made_and_why_rows_were_left_out_stand_in_one_commit(lake: Lake) -> None:
    before = lake.snapshot()
    entered, snapshot = put(lake, {"candidates": product("candidates", "math", 3, dropped=2)})
    assert snapshot == before + 1 == lake.snapshot()
    assert latest(lake, "candidates", "math") == entered["candidates"]
    assert latest(lake, "candidates") is None
    made = entered["candidates"]
    assert (made.rows_in, made.rows_out, made.rows_rejected, made.read_snapshot) == (5, 3, 2, before)
    assert made.figures == {"share": 0.5, "nested": {"überall": [1, 2]}}
    assert "„q1“" in made.shown["preview"]
    left = lake.read("rejections", {"asset": "candidates", "partition_key": "math"})
    assert sorted(left["stage"].to_list()) == ["candidates", "candidates", "passage"]
    assert counts_that_do_not_add_up(lake, "candidates") == []


def test_a_product_that_cannot_be_written_leaves_no_ledger_row(lake: Lake) -> None:
    wrong = candidates("math", 1).with_columns(rank=pl.lit("first"))
    with pytest.raises(LakeError):
        put(lake, {"candidates": Product((Replace("candidates", wrong),), "c", 1, 1)})
    assert latest(lake, "candidates", "math") is None


def test_making_a_partition_again_replaces_its_rows_and_leaves_the_others(lake: Lake) -> None:
    put(lake, {"candidates": product("candidates", "math", 3, dropped=4)})
    put(lake, {"candidates": product("candidates", "coding", 2, dropped=1)}, "coding")
    put(lake, {"candidates": product("candidates", "math", 5)}, inputs="other")
    now = latest(lake, "candidates", "math")
    assert now is not None
    assert (now.input_sha256, now.rows_out, now.rows_rejected) == ("other", 5, 0)
    assert lake.read("materializations").height == 2
    kept = lake.read("rejections", {"stage": "candidates"})
    assert kept.select("partition_key", "key").rows() == [("coding", "q0")]
    assert counts_that_do_not_add_up(lake, "candidates") == []


def test_the_law_of_counts_notices_a_rejection_that_went_missing(lake: Lake) -> None:
    put(lake, {"candidates": product("candidates", "math", 3, dropped=2)})
    lake.commit([Replace("rejections", rejected("x", []), {"asset": "candidates", "key": "q1"})], message())
    assert counts_that_do_not_add_up(lake, "candidates") == [
        "candidates math: 5 in, 3 out, 2 rejected, 1 rejections kept"
    ]


def test_the_same_inputs_give_the_same_hash_in_any_order() -> None:
    passages = replace(MADE, asset="passages", content_sha256="p")
    digest = input_sha256("1", {"alpha": 0.4, "seed": 0}, [MADE, passages])
    assert input_sha256("1", {"seed": 0, "alpha": 0.4}, [passages, MADE]) == digest
    later = replace(MADE, created_at="2026-01-01", run_id="another", seconds=9.0, read_snapshot=8, rows_in=7)
    assert input_sha256("1", {"alpha": 0.4, "seed": 0}, [later, passages]) == digest


@pytest.mark.parametrize(
    ("code", "settings", "made"),
    [
        ("2", {"alpha": 0.4}, MADE),
        ("1", {"alpha": 0.5}, MADE),
        ("1", {"alpha": 0.4, "seed": 0}, MADE),
        ("1", {"alpha": 0.4}, replace(MADE, content_sha256="other")),
        ("1", {"alpha": 0.4}, replace(MADE, partition_key="coding")),
        ("1", {"alpha": 0.4}, replace(MADE, asset="passages")),
    ],
)
def test_another_code_version_setting_or_content_gives_another_hash(
    code: str, settings: dict[str, Any], made: Materialization
) -> None:
    assert input_sha256(code, settings, [made]) != input_sha256("1", {"alpha": 0.4}, [MADE])
