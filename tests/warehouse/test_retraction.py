"""Taking back: everything that was reached is shown and marked, a release without it is made, and it stays out."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from later_releases import change, here, put
from small_lake import DOMAINS, SETTINGS, message
from told_lake import tell

from warehouse.audit.drift import DriftBounds
from warehouse.audit.provenance import explain
from warehouse.audit.retraction import NothingToRetract, Reach, Retraction, Selector, reach_of, retract
from warehouse.audit.verify import verify
from warehouse.audit.versions import diff_releases, releases
from warehouse.curation.contamination import never_train_on
from warehouse.curation.curate import curate
from warehouse.curation.releases import read_release, release_writes
from warehouse.curation.rows import lists_at
from warehouse.lake import Lake
from warehouse.laws import releases_that_cannot_be_rebuilt, releases_that_changed
from warehouse.pages.beside import write_beside
from warehouse.pages.facts import facts_of
from warehouse.pages.marks import mark_written
from warehouse.pages.quality import quality_values
from warehouse.pages.reports import write_report


def take_back(lake: Lake, kind: str, value: str, reason: str = "withdrawn") -> tuple[Reach, Retraction]:
    reach = reach_of(lake, Selector(kind, value))
    return reach, retract(lake, reach, reason=reason, who="auditor", code_version="1")


def run_again(lake: Lake) -> str:
    """The training set made again, as its asset makes it."""
    at = lake.snapshot()
    queries = lake.read("queries", columns=["domain", "qid", "text", "split"], snapshot=at)
    never = never_train_on(lake.read("benchmarks", snapshot=at), queries)
    made = curate(lists_at(lake, DOMAINS, at), never, SETTINGS, lake.read("retractions"))
    name, writes = release_writes(
        lake, made, domains=DOMAINS, read_snapshot=at, settings=SETTINGS.model_dump(mode="json"), code_version="1"
    )
    lake.commit(writes, message("training_set"))
    return name


def prepare(lake: Lake) -> str:
    """One query and one passage from other places than the rest, and a release."""
    ours = here("math", "train3")
    change(lake, "queries", put("source", "forum", ours), put("license", "CC-BY-4.0", ours))
    page = (pl.col("domain") == "web_search") & (pl.col("docid") == "d0")
    change(lake, "passages", put("source", "newspaper", page), put("license", "CC-BY-SA-4.0", page))
    return tell(lake)


def test_looking_writes_nothing_and_shows_rows_releases_models_and_scores(factory_lake: Lake) -> None:
    release = prepare(factory_lake)
    before = factory_lake.snapshot()
    reach = reach_of(factory_lake, Selector("source", "forum"))
    assert reach.rows.select("release", "domain", "qid").rows() == [(release, "math", "train3")]
    assert reach.releases.select("release", "taken").rows() == [(release, 1)]
    assert reach.models["model"].to_list() == ["first-model", "next-model"]
    assert reach.scores["model"].to_list() == ["first-model"]
    assert factory_lake.snapshot() == before


@pytest.mark.parametrize(
    ("kind", "value", "qids"),
    [
        ("source", "forum", [("math", "train3")]),
        ("license", "CC-BY-4.0", [("math", "train3")]),
        ("query", "math/train3", [("math", "train3")]),
        # A passage on a list takes the list with it: d0 stands on every list of web_search.
        ("source", "newspaper", [("web_search", f"train{n}") for n in range(20)]),
        ("license", "CC-BY-SA-4.0", [("web_search", f"train{n}") for n in range(20)]),
    ],
)
def test_a_retraction_makes_a_release_without_what_it_reached(
    factory_lake: Lake, kind: str, value: str, qids: list[tuple[str, str]]
) -> None:
    lake = factory_lake
    release = prepare(lake)
    old = read_release(lake, release)
    reach, done = take_back(lake, kind, value)
    assert sorted(reach.rows.select("domain", "qid").rows()) == sorted(qids)
    assert done.successor is not None
    left = read_release(lake, done.successor)
    gone = old.join(left, on="row_id", how="anti")
    assert sorted(gone.select("domain", "qid").rows()) == sorted(qids)
    assert left.drop("release").equals(old.join(gone, on="row_id", how="anti").sort("row_id").drop("release"))
    entry = lake.read("releases", {"release": done.successor}).row(0, named=True)
    assert (entry["rows"], entry["parent"], entry["retraction"]) == (left.height, release, done.retraction)
    assert entry["sft"] + entry["rl"] + entry["dev"] == left.height == done.rows
    assert ("CC-BY-4.0" in entry["licenses"]) == (value not in ("forum", "CC-BY-4.0", "math/train3"))
    # The old release is still there, marked, and both hash to their names.
    assert read_release(lake, release).equals(old)
    assert releases_that_changed(lake) == []
    assert verify(lake).errors == ()
    marked = {row["release"]: row for row in releases(lake).iter_rows(named=True)}
    assert marked[release]["successor"] == done.successor
    assert len(marked[release]["retracted"]) == 1
    assert marked[done.successor]["retracted"] == []


def test_a_retraction_records_who_when_why_and_everything_that_it_reached(factory_lake: Lake) -> None:
    lake = factory_lake
    release = prepare(lake)
    reach, done = take_back(lake, "source", "forum")
    record = lake.read("retractions").row(0, named=True)
    assert {name: record[name] for name in ("retraction", "selector", "value", "reason", "who")} == {
        "retraction": done.retraction, "selector": "source", "value": "forum", "reason": "withdrawn", "who": "auditor",
    }  # fmt: skip
    assert record["retracted_at"].startswith("20")
    marks = lake.read("retraction_marks").select("unit", "id", "release", "successor").rows()
    row_id = reach.rows["row_id"][0]
    assert sorted(marks) == sorted(
        (unit, name, release, done.successor)
        for unit, name in (("row", row_id), ("release", release), ("model", "first-model"), ("model", "next-model"))
    )
    told = explain(lake, row_id)
    assert [(r["retracted"], r["who"], r["reason"], r["successor"]) for r in told.releases] == [
        (True, "auditor", "withdrawn", done.successor)
    ]
    assert [m["retracted"] for m in told.models] == [True, True]
    (line,) = diff_releases(lake, release, str(done.successor)).rows.to_dicts()
    assert (line["change"], line["why"], line["qid"]) == ("went", "retracted", "train3")
    assert line["detail"].startswith("source forum, by auditor on 20")


def test_what_was_taken_back_stays_out_of_the_next_release(factory_lake: Lake) -> None:
    lake = factory_lake
    release = prepare(lake)
    _, done = take_back(lake, "source", "newspaper")
    again = run_again(lake)
    assert again == done.successor
    told = lake.read("decisions", {"release": again, "filter": "retracted", "outcome": "rejected"})
    assert told["domain"].to_list() == ["web_search"] * 20
    assert set(told["detail"].str.slice(0, 27)) == {"source newspaper, by audito"}
    # Its other data is back when the retraction reaches a row of another place, and the newspaper is not.
    change(lake, "queries", put("url", "http://elsewhere", here("math", "train2")))
    later = run_again(lake)
    assert later not in (again, release)
    assert set(read_release(lake, later)["domain"]) == {"math"}
    assert releases_that_cannot_be_rebuilt(lake) == []
    why = diff_releases(lake, release, later).rows.filter(pl.col("change") == "went")["why"].unique().to_list()
    assert why == ["filter retracted"]


def test_two_retractions_one_after_another_leave_a_chain_of_releases(factory_lake: Lake) -> None:
    lake = factory_lake
    release = prepare(lake)
    _, first = take_back(lake, "source", "forum")
    reach, second = take_back(lake, "query", "math/train4")
    assert reach.releases["release"].to_list() == [first.successor, release]
    assert lake.read("releases", {"release": str(second.successor)})["parent"].to_list() == [first.successor]
    assert second.rows == first.rows - 1
    assert releases_that_changed(lake) == []
    went = diff_releases(lake, release, str(second.successor)).rows
    assert set(went["qid"]) == {"train3", "train4"}
    assert set(went["why"]) == {"retracted"}


def test_data_that_no_release_holds_yet_can_be_kept_out_from_the_start(factory_lake: Lake) -> None:
    lake = factory_lake
    _, done = take_back(lake, "query", "math/train5")
    assert (done.successor, done.rows) == (None, 0)
    rows = read_release(lake, run_again(lake))
    assert rows.filter(here("math", "train5")).is_empty()
    assert rows.filter(here("math", "train6")).height == 1


def test_taking_back_everything_leaves_no_release_in_its_place(factory_lake: Lake) -> None:
    prepare(factory_lake)
    _, done = take_back(factory_lake, "source", "tiny")
    assert (done.successor, done.rows) == (None, 0)
    assert all(row["retracted"] for row in releases(factory_lake).iter_rows(named=True))


def test_what_the_lake_never_held_is_answered_with_what_it_holds(factory_lake: Lake) -> None:
    for kind, value, held in (
        ("source", "nothing", "tiny"),
        ("license", "GPL", "CC0-1.0"),
        ("query", "q", "math/dev0"),
    ):
        with pytest.raises(NothingToRetract, match=held):
            reach_of(factory_lake, Selector(kind, value))


def test_what_was_written_of_a_release_is_marked_and_so_is_what_is_written_of_it_later(
    factory_lake: Lake, tmp_path: Path
) -> None:
    lake, folders = factory_lake, (tmp_path / "releases", tmp_path / "reports")
    name = tell(lake)

    def written() -> list[str]:
        known = facts_of(lake, DOMAINS, name)
        card = write_beside(known, folders[0], {})["card"]
        values = quality_values(known, lambda _: "mined", 0.4, DriftBounds())
        page = write_report(folders[1] / "data_quality.html", "data_quality.html.j2", values)
        return [path.read_text("utf-8") for path in (card, page)]

    clean = written()
    assert not any("Retracted" in text for text in clean)
    _, done = take_back(lake, "query", "math/train3", reason="held <b>personal</b> data")
    assert done.successor is not None
    paths = mark_written(lake, name, *folders)
    marked = [path.read_text("utf-8") for path in paths]
    said = "(query math/train3): held &lt;b&gt;personal&lt;/b&gt; data; release " + done.successor[:12]
    assert [text.count(said) for text in marked] == [1, 1]
    assert [text.count("Retracted by auditor on ") for text in written()] == [1, 1]
    take_back(lake, "query", "math/train4")
    mark_written(lake, name, *folders)
    assert [path.read_text("utf-8").count("Retracted by auditor on ") for path in paths] == [2, 2]
    assert mark_written(lake, done.successor, *folders) == []  # nothing was written of it, and the page is not its own
