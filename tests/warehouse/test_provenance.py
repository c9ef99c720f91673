"""Why a row is what it is: the whole history from the lake, at the time of its release, and what is missing said."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
from later_releases import change, here, put, release_now
from small_lake import message
from told_lake import OURS, tell

from warehouse.audit.provenance import Explanation, UnknownRow, explain
from warehouse.lake import Append, Lake
from warehouse.pages.reports import write_report


def row_of(lake: Lake, release: str) -> dict:
    return lake.read("training_rows", {"release": release}).filter(OURS).row(0, named=True)


def test_a_row_is_followed_from_its_sources_to_the_scores_of_its_models(factory_lake: Lake) -> None:
    lake = factory_lake
    release = tell(lake)
    row = row_of(lake, release)
    told = explain(lake, row["row_id"][:10])
    assert (told.row_id, told.ranking_id, told.domain, told.qid) == (row["row_id"], "math-7", "math", "train7")
    assert told.query == {
        "text": row["query"], "source": "tiny", "license": "CC0-1.0", "url": "https://example.org/q7",
    }  # fmt: skip
    assert [p["docid"] for p in told.passages] == row["docids"]
    assert [p["place"] for p in told.passages] == [5, 4, 3, 2, 1]
    assert [p["docid"] for p in told.passages if p["relevant"]] == ["d3", "d4"]
    assert {(p["source"], p["license"]) for p in told.passages} == {("tiny", "CC0-1.0")}
    assert told.chain == "Because 7."
    exchanges = {x["key"]: x for x in told.exchanges}
    assert exchanges.keys() == {"key7", "first", "mine"}
    assert exchanges["key7"]["repair_of"] == "first"
    assert exchanges["first"]["fault"] == "missing [3]"
    assert exchanges["mine"]["sampling"] == {"temperature": 0.6, "top_p": 0.95}
    assert exchanges["mine"]["messages"] == [{"role": "user", "content": "Rank for mine."}]
    assert exchanges["mine"]["served_model"] == "teacher-1-0528"
    assert [(j["docid"], j["grade"], j["origin"]) for j in told.judgements] == [
        ("d0", 0, "human"),
        ("d4", 1, "teacher"),
    ]
    assert (told.consistency, told.alpha) == (0.75, 0.4)
    decided = {d["filter"]: d["outcome"] for d in told.decisions}
    assert decided.keys() >= {"structure", "licences", "duplicates", "contamination"}
    assert set(decided.values()) == {"kept"}
    assert [(r["release"], r["split"], r["retracted"]) for r in told.releases] == [(release, row["split"], False)]
    assert [(m["model"], m["use"]) for m in told.models] == [
        ("first-model", "trained on this row"), ("next-model", "started from a model trained on this row"),
    ]  # fmt: skip
    assert [(s["model"], s["measures"]["nDCG@10"]) for s in told.scores] == [("first-model", 0.5)]
    assert told.missing == ("5 of 5 passages have no url in their source",)
    assert explain(lake, "math-7") == told


def test_a_row_that_no_step_drew_was_not_trained_on(factory_lake: Lake) -> None:
    lake = factory_lake
    release = tell(lake)
    ours = row_of(lake, release)
    beside = lake.read("training_rows", {"release": release, "split": ours["split"]}).filter(
        pl.col("row_id") != ours["row_id"]
    )
    told = explain(lake, beside["row_id"][0])
    assert [m["use"] for m in told.models] == [
        "trained on this row's split; none of its 5 steps drew the row",
        f"of the same release; the row is in its split {ours['split']}",
    ]
    assert "no model was trained on this row" in told.missing


def test_a_row_is_told_as_it_was_when_it_was_released(factory_lake: Lake) -> None:
    lake = factory_lake
    row = row_of(lake, tell(lake))
    before = explain(lake, row["row_id"])
    for table in ("queries", "passages", "exchanges", "judgements", "consistent_rankings", "rankings"):
        change(lake, table, keep=pl.lit(False))
    assert explain(lake, row["row_id"]) == before


def test_a_row_of_two_releases_names_both_and_a_changed_row_is_another_row(factory_lake: Lake) -> None:
    lake = factory_lake
    first = tell(lake)
    row_id = row_of(lake, first)["row_id"]
    change(lake, "consistent_rankings", keep=~here("math", "train1"))
    second = release_now(lake)
    assert [r["release"] for r in explain(lake, row_id).releases] == sorted([first, second], key=_made(lake).get)
    change(lake, "queries", put("license", "MIT", OURS))
    third = release_now(lake)
    assert [r["release"] for r in explain(lake, row_of(lake, third)["row_id"]).releases] == [third]
    # The ranking's own id leads to its newest row.
    assert explain(lake, "math-7").row_id == row_of(lake, third)["row_id"]


def test_a_ranking_that_no_release_holds_is_told_with_what_rejected_it(factory_lake: Lake) -> None:
    lake = factory_lake
    tell(lake)
    change(lake, "queries", put("text", lake.read("queries").filter(OURS)["text"][0], here("web_search", "train3")))
    release_now(lake)
    told = explain(lake, "web_search-3")
    assert any((d["filter"], d["outcome"]) == ("duplicates", "rejected") for d in told.decisions)
    nowhere = explain_unreleased(lake)
    assert nowhere.row_id is None
    assert nowhere.split is None
    assert "no release holds it" in nowhere.missing
    assert len(nowhere.passages) == 5


def explain_unreleased(lake: Lake) -> Explanation:
    rows = lake.read("rankings").head(1).with_columns(ranking_id=pl.lit("fresh-ranking"), qid=pl.lit("dev1"))
    lake.commit([Append("rankings", rows)], message("teacher_rankings"))
    return explain(lake, "fresh")


def test_what_the_lake_does_not_hold_is_said(factory_lake: Lake) -> None:
    lake = factory_lake
    release = release_now(lake)
    told = explain(lake, row_of(lake, release)["row_id"])
    assert told.missing == (
        "the query has no url in its source",
        "5 of 5 passages have no url in their source",
        "the exchange key7 is not in the lake",
        "no judgement of a passage of this list is in the lake",
        "no model was trained on this row",
    )


def test_an_id_that_is_unknown_or_not_enough_is_answered_with_rows_there_are(factory_lake: Lake) -> None:
    lake = factory_lake
    with pytest.raises(UnknownRow, match=r"begins with 'x'\. Some rows: none yet: run `rankmill run`"):
        explain(lake, "x")
    release = release_now(lake)
    known = lake.read("training_rows", {"release": release})["row_id"].to_list()
    with pytest.raises(UnknownRow, match="Some rows: ") as told:
        explain(lake, "")
    assert known_in(str(told.value), known)
    first = next(digit for digit in "0123456789abcdef" if sum(row.startswith(digit) for row in known) > 1)
    with pytest.raises(UnknownRow, match="rows have an id that begins with") as told:
        explain(lake, first)
    assert known_in(str(told.value), known)


def test_the_page_of_a_row_shows_every_text_and_escapes_it(factory_lake: Lake, tmp_path: Path) -> None:
    lake = factory_lake
    change(lake, "rankings", put("reasoning", "<script>alert(1)</script> Because.", OURS))
    told = explain(lake, row_of(lake, tell(lake))["row_id"])
    page = write_report(tmp_path / "row.html", "row.html.j2", {"e": told}).read_text("utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; Because." in page
    for text in (told.row_id, "train7", "teacher-1-0528", "Chain of mine.", "Rank for key7.", "https://example.org/q7"):
        assert str(text) in page
    assert page.count("<details>") == len(told.passages) + len(told.exchanges)
    assert json.loads(json.dumps(asdict(told)))["chain"] == told.chain


def known_in(told: str, rows: list[str]) -> bool:
    return any(row in told for row in rows)


def _made(lake: Lake) -> dict[str, str]:
    return dict(lake.read("releases").select("release", pl.concat_str("created_at", "release")).iter_rows())
