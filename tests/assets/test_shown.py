"""What the UI shows beside a materialization: files where they lie now, short figures, tables that can be read."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.production import _result
from warehouse.lake import Lake, opened
from warehouse.ledger import WHOLE, Materialization, Product
from warehouse.production import Made, Shop, Step, perform

HASH = "f43f8ef411597a1af69eeda41c27b25175f1a54356a60dc19292f105102b1bdf"
PREVIEW = pl.DataFrame({"qid": [f"q{n}" for n in range(9)], "p": [None, *[0.123456] * 8], "text_sha256": [HASH] * 9})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Materialization]:
    """The home of a page, and the page's row in the ledger."""
    home = tmp_path_factory.mktemp("shown") / "home"

    def work(_: Shop) -> Mapping[str, Made]:
        report, outside = home / "reports" / "page.html", home.parent / "outside.html"
        report.parent.mkdir(parents=True)
        for page in (report, outside):
            page.write_text("<html></html>", "utf-8")
        product = Product((), "content", 9, 9, figures={"share": 1 / 3, "whole": 3, "yes": True, "_hidden": 1})
        return {"page": Made(product, PREVIEW, links={"report": str(report), "outside": str(outside)}, preview_rows=7)}

    with opened(Lake.at(home / "lake")) as lake:
        return home, perform(lake, Step(("page",), WHOLE, {}, work), "run-1", home=home).rows["page"]


def metadata(home: Path, row: Materialization, now: Path) -> Mapping[str, object]:
    with opened(Lake.at(home / "lake")) as lake:
        found = _result(lake, "page", row, now, {}).metadata
    assert found is not None
    return found


def test_a_file_of_the_home_is_shown_where_the_home_lies_now(made: tuple[Path, Materialization]) -> None:
    home, row = made
    moved = Path("/elsewhere/home")
    shown = metadata(home, row, moved)
    assert shown["report"] == dg.MetadataValue.path(str(moved / "reports" / "page.html"))
    assert shown["outside"] == dg.MetadataValue.path(str(home.parent / "outside.html"))
    whole = replace(row, shown={**row.shown, "report": f"`{home}/reports/page.html`"})  # as earlier versions wrote it
    assert metadata(home, whole, moved)["report"] == shown["report"]


def test_figures_are_short_and_keep_their_kind(made: tuple[Path, Materialization]) -> None:
    shown = metadata(made[0], made[1], made[0])
    assert (shown["share"], shown["whole"], shown["yes"]) == (0.333333, 3, True)
    assert type(shown["whole"]) is int and "_hidden" not in shown


def test_a_preview_has_as_many_rows_as_asked_for_no_null_and_no_whole_hash(made: tuple[Path, Materialization]) -> None:
    lines = made[1].shown["preview"].splitlines()
    assert len(lines) == 2 + 7
    assert lines[2] == "| q0 |  | f43f8ef41159… |"
    assert lines[3] == "| q1 | 0.1235 | f43f8ef41159… |"
