"""Reports: pages that hold what the lake holds, are safe to open, and are written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from jinja2 import UndefinedError
from small_lake import DOMAINS, TRAIN, release

from warehouse.curation.releases import read_release
from warehouse.lake import Lake
from warehouse.pages import pictures
from warehouse.pages.cards import card_values, quality_values
from warehouse.pages.reports import FUNNEL, data_uri, funnel_of, reasons_of, write_report

PNG = b"\x89PNG\r\n\x1a\n"
SAMPLING = {"model": "stand-in-teacher", "temperature": 0.6, "top_p": 0.95, "max_tokens": 512}


def judged_by(domain: str) -> str:
    return {"web_search": "human"}.get(domain, "mined")


def test_the_quality_report_shows_the_newest_release_of_the_lake(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    values = quality_values(factory_lake, DOMAINS, judged_by, 0.4)
    count = len(DOMAINS) * TRAIN
    assert values["rows"] == count == sum(values["splits"].values())
    assert [found for _, found in values["funnel"]] == [46, count, count, count, count]
    assert [(row["domain"], row["judged_by"], row["released"]) for row in values["domains"]] == [
        ("math", "mined", TRAIN),
        ("web_search", "human", TRAIN),
    ]
    page = write_report(tmp_path / "deep" / "quality.html", "data_quality.html.j2", values).read_text("utf-8")
    assert name[:12] in page
    assert page.count("data:image/png;base64,") == 2
    for row in values["samples"]:
        assert row["query"] in page
    # What stands in a row is text and never markup.
    assert "&lt;b&gt;another&lt;/b&gt;" in page
    assert "<b>another</b>" not in page


def test_the_card_names_teacher_licence_and_what_was_not_read(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    values = card_values(factory_lake, DOMAINS, SAMPLING)
    assert (values["teachers"], values["stand_in"]) == (["stand-in-teacher"], True)
    rows = read_release(factory_lake, name)
    for part in values["domains"]:
        ours = rows.filter(pl.col("domain") == part["domain"])
        assert {s: part[s] for s in ("sft", "rl", "dev")} == {
            s: ours.filter(pl.col("split") == s).height for s in ("sft", "rl", "dev")
        }
    card = write_report(tmp_path / "README.md", "dataset_card.md.j2", values).read_text("utf-8")
    for told in (name[:12], "stand-in-teacher", "CC0-1.0", "far", "0.95"):
        assert told in card


def test_a_report_needs_a_release(lake: Lake) -> None:
    with pytest.raises(LookupError, match=r"there is no release yet\. Materialize training_set first"):
        quality_values(lake, DOMAINS, judged_by, 0.4)


def test_a_page_that_cannot_be_rendered_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "quality.html"
    path.write_text("the old page")
    with pytest.raises(UndefinedError):
        write_report(path, "data_quality.html.j2", {"release": "x"})
    assert [file.name for file in tmp_path.iterdir()] == ["quality.html"]
    assert path.read_text() == "the old page"


def test_the_funnel_sums_over_partitions_in_the_order_of_the_factory() -> None:
    made = pl.DataFrame({"asset": [asset for asset, _ in FUNNEL[:3]] * 2, "rows_out": [10, 6, 4, 20, 12, 8]})
    steps = funnel_of(made, 25)
    assert [count for _, count in steps] == [30, 25, 18, 12, 0]
    assert [title for title, _ in steps][2:] == [title for _, title in FUNNEL[1:]]


def test_reasons_come_most_frequent_first_with_examples() -> None:
    rows = pl.DataFrame(
        [
            ("training_set", "", "training_set", f"k{n}", reason, "detail")
            for n, reason in enumerate(["a", "b", "b", "b"])
        ],
        schema=["asset", "partition_key", "stage", "key", "reason", "detail"],
        orient="row",
    )
    found = reasons_of(rows)
    assert [(row["reason"], row["rows"]) for row in found] == [("b", 3), ("a", 1)]
    assert found[0]["examples"] == ["k1: detail", "k2: detail"]
    assert reasons_of(rows.clear()) == []


BARS: list[dict[str, Any]] = [
    {"domain": d, "stage": s, "value": 0.4, "low": 0.3, "high": 0.5} for d in ("a", "b") for s in ("bm25", "rl")
]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: pictures.histogram([0.1, 0.9], 0.4, "NDCG@10"),
        lambda: pictures.histogram([], 0.4, "NDCG@10"),
        lambda: pictures.funnel([("read", 10), ("kept", 3)]),
        lambda: pictures.funnel([("read", 0)]),
        lambda: pictures.curves(
            [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "reward": 0.1}], ["loss", "reward"]
        ),
        lambda: pictures.curves([], ["loss"]),
        lambda: pictures.leaderboard_bars(BARS),
        lambda: pictures.leaderboard_bars(BARS[:1]),
    ],
)
def test_every_picture_is_a_png_also_of_little_data(draw: Callable[[], bytes]) -> None:
    png = draw()
    assert png.startswith(PNG)
    assert len(png) > 1000
    assert data_uri(png).startswith("data:image/png;base64,iVBOR")
