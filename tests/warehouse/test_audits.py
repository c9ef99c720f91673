"""The mark of a release that failed its audit: kept while a check fails, lifted when it passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_lake import release

from warehouse.audit.versions import releases
from warehouse.curation.audits import AuditFailed, enter_audit, failed_audits, fit_for_training
from warehouse.lake import Lake, opened


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with opened(Lake.at(tmp_path / "lake")) as lake:
        yield lake


def test_a_release_that_no_check_refused_may_be_trained_on_and_leaves_no_row(lake: Lake) -> None:
    before = lake.snapshot()
    enter_audit(lake, "abc", "ids_are_unique", True, "", "run")
    assert fit_for_training(lake, "abc") == "abc"
    assert lake.snapshot() == before


def test_a_failed_check_marks_its_release_alone_until_it_passes_and_every_change_is_kept(lake: Lake) -> None:
    for passed, detail in ((False, "2 rows"), (False, "2 rows"), (False, "3 rows")):
        enter_audit(lake, "abc", "ids_are_unique", passed, detail, "run")
    enter_audit(lake, "abc", "no_benchmark_overlap", False, "q1", "run")
    assert failed_audits(lake, "abc") == ["ids_are_unique: 3 rows", "no_benchmark_overlap: q1"]
    assert failed_audits(lake, "abd") == []
    with pytest.raises(AuditFailed, match=r"release abc failed its audit .* ids_are_unique: 3 rows; no_benchmark"):
        fit_for_training(lake, "abc")
    enter_audit(lake, "abc", "ids_are_unique", True, "", "run")
    assert failed_audits(lake, "abc") == ["no_benchmark_overlap: q1"]
    enter_audit(lake, "abc", "no_benchmark_overlap", True, "", "run")
    assert fit_for_training(lake, "abc") == "abc"
    assert lake.read("audits").sort("number", "name")["passed"].to_list() == [False, False, False, True, True]


def test_the_list_of_releases_shows_the_mark(filled_lake: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(filled_lake, tmp_path / "filled")
    with opened(Lake.at(tmp_path / "filled")) as lake:
        name = release(lake)
        assert releases(lake)["failed"].to_list() == [[]]
        enter_audit(lake, name, "ids_are_unique", False, "2 rows", "run")
        assert releases(lake)["failed"].to_list() == [["ids_are_unique: 2 rows"]]
