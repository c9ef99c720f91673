"""Reports: pages that hold what the lake holds, are safe to open, and are written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from small_lake import DOMAINS, TRAIN, message, release

from warehouse.audit.drift import Bound, DriftBounds
from warehouse.lake import Append, Lake
from warehouse.pages import pictures
from warehouse.pages.charts import Stage, histogram, sankey
from warehouse.pages.facts import facts_of
from warehouse.pages.quality import quality_values
from warehouse.pages.reports import data_uri, reasons_of, write_report

BOUNDS = DriftBounds()
PNG = b"\x89PNG\r\n\x1a\n"


def judged_by(domain: str) -> str:
    return {"web_search": "human"}.get(domain, "mined")


def test_the_quality_report_shows_the_newest_release_of_the_lake(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    known = facts_of(factory_lake, DOMAINS)
    values = quality_values(known, judged_by, 0.4, BOUNDS)
    count = len(DOMAINS) * TRAIN
    assert values["rows"] == count == sum(values["splits"].values())
    assert [stage.count for stage in known.stages()] == [46, count, count, count, count]
    assert known.stages()[0].lost == [("held out to evaluate", 6)]
    assert [(row["domain"], row["judged_by"], row["released"]) for row in values["domains"]] == [
        ("math", "mined", TRAIN),
        ("web_search", "human", TRAIN),
    ]
    page = write_report(tmp_path / "deep" / "quality.html", "data_quality.html.j2", values).read_text("utf-8")
    assert name[:12] in page
    for row in values["samples"]:
        assert row["query"] in page
    # What stands in a row is text and never markup.
    assert "&lt;b&gt;another&lt;/b&gt;" in page
    assert "<b>another</b>" not in page


def test_the_report_asks_for_nothing_outside_itself(factory_lake: Lake, tmp_path: Path) -> None:
    release(factory_lake)
    values = quality_values(facts_of(factory_lake, DOMAINS), judged_by, 0.4, BOUNDS)
    page = write_report(tmp_path / "quality.html", "data_quality.html.j2", values).read_text("utf-8")
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//|<script|@import|url\(""", page) == []
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_the_report_is_honest_where_nothing_was_looked_at(factory_lake: Lake, tmp_path: Path) -> None:
    release(factory_lake)
    values = quality_values(facts_of(factory_lake, DOMAINS), judged_by, 0.4, BOUNDS)
    page = write_report(tmp_path / "quality.html", "data_quality.html.j2", values).read_text("utf-8")
    assert "There is no earlier release to compare with." in page
    assert "The suites were not run yet." in page
    assert "<b>far</b> (away)" in page


def test_leaks_copies_findings_and_licences_are_told(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    leak = {"release": name, "domain": "math", "ranking_id": "leaky", "unit": "query", "docid": None,
            "benchmark": "bench", "item": "b1", "item_unit": "query", "test": "13-gram", "similarity": None,
            "shared": "how do you show that", "exception": None}  # fmt: skip
    vetted = {**leak, "ranking_id": "fine", "docid": "d1", "unit": "passage", "exception": "a common phrase"}
    told = {"release": name, "domain": "math", "ranking_id": "posted", "filter": "contents", "outcome": "masked",
            "reason": "personal_email", "value": 2.0, "threshold": 0.0, "detail": "d1: 2 addresses"}  # fmt: skip
    barred = {**told, "filter": "licences", "outcome": "warned", "reason": "licence_not_publishable",
              "ranking_id": "math-0", "detail": "CC-BY-NC-4.0"}  # fmt: skip
    copies = [{"release": name, "unit": "passage", "cluster": "c", "domain": "math", "id": f"copy{n}",
               "representative": n == 0, "similarity": 0.9} for n in range(3)]  # fmt: skip
    frames = {"benchmark_overlaps": [leak, vetted], "decisions": [told, barred], "duplicate_clusters": copies}
    factory_lake.commit([Append(table, pl.DataFrame(rows)) for table, rows in frames.items()], message("test"))
    values = quality_values(facts_of(factory_lake, DOMAINS), judged_by, 0.4, BOUNDS)
    assert (values["leaks"]["lists"], values["leaks"]["vetted"]) == (1, 1)
    assert values["clusters"]["shown"][-1]["members"] == 3
    assert values["contents"][0]["reason"] == "personal_email"
    assert values["licences"]["hindrances"][0]["rows"] == 1
    page = write_report(tmp_path / "quality.html", "data_quality.html.j2", values).read_text("utf-8")
    for words in ("leaky", "how do you show that", "a common phrase", "math/copy0", "math/copy2", "2 addresses",
                  "Masked as &lt;EMAIL&gt;", "Not publishable yet", "CC-BY-NC-4.0"):  # fmt: skip
        assert words in page


def test_a_second_release_is_held_against_the_first(factory_lake: Lake) -> None:
    name = release(factory_lake)
    assert quality_values(facts_of(factory_lake, DOMAINS), judged_by, 0.4, BOUNDS)["drift"] is None
    earlier = factory_lake.read("releases").with_columns(release=pl.lit("0" * 64), created_at=pl.lit("2020-01-01"))
    rows = factory_lake.read("training_rows").filter(domain="math").with_columns(release=pl.lit("0" * 64))
    factory_lake.commit([Append("releases", earlier), Append("training_rows", rows)], message("test"))
    moved = quality_values(facts_of(factory_lake, DOMAINS), judged_by, 0.4, BOUNDS)["drift"]
    assert moved["before"] == "0" * 64
    mix = next(row for row in moved["rows"] if row["measure"] == "domain_mix")
    assert mix["distance"] == pytest.approx(0.5)
    assert mix["level"] == "error"
    wide = DriftBounds(domain_mix=Bound(warning=0.45, error=0.9))
    moved = quality_values(facts_of(factory_lake, DOMAINS), judged_by, 0.4, wide)["drift"]
    assert next(row for row in moved["rows"] if row["measure"] == "domain_mix")["level"] == "warning"
    assert facts_of(factory_lake, DOMAINS, "000").name == "0" * 64
    assert facts_of(factory_lake, DOMAINS).name == name


def test_a_report_needs_a_release(lake: Lake) -> None:
    with pytest.raises(LookupError, match=r"there is no release yet\. Materialize training_set first"):
        facts_of(lake, DOMAINS)


def test_a_page_that_cannot_be_rendered_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "quality.html"
    path.write_text("the old page")
    with pytest.raises(UndefinedError):
        write_report(path, "data_quality.html.j2", {"release": "x"})
    assert [file.name for file in tmp_path.iterdir()] == ["quality.html"]
    assert path.read_text() == "the old page"


titles = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
losses = st.lists(st.tuples(titles, st.integers(1, 10**7)), max_size=6)


@given(st.lists(st.builds(Stage, titles, st.integers(0, 10**7), losses), max_size=6), st.sampled_from([380, 760]))
def test_a_sankey_is_well_formed_and_counts_every_lost_row(stages: list[Stage], width: int) -> None:
    drawn = ElementTree.fromstring(sankey(stages, width))
    bars = [float(bar.attrib["width"]) for bar in drawn.iter("rect") if bar.attrib["class"] == "bar"]
    most = max((stage.count for stage in stages), default=0) or 1
    assert len(bars) == len(stages)
    for bar, stage in zip(bars, stages, strict=True):
        assert bar <= width * 0.5
        assert (bar > 0) == (stage.count > 0)
        assert stage.count < most or bar == max(bars)
    told = [int(text.text[1:].replace(",", "")) for text in drawn.iter("tspan") if (text.text or "").startswith("−")]
    assert sum(told) == sum(count for stage in stages[:-1] for _, count in stage.lost)


@given(st.lists(st.integers(0, 10**6), max_size=25), st.floats(0, 1))
def test_a_histogram_is_well_formed_and_shows_every_filled_bin(counts: list[int], threshold: float) -> None:
    drawn = ElementTree.fromstring(histogram(counts, (0, 1), "a < b", threshold))
    heights = [float(bar.attrib["height"]) for bar in drawn.iter("rect")]
    assert len(heights) == sum(count > 0 for count in counts)
    assert all(0 <= height <= 100 for height in heights)


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
