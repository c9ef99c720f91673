"""The audit of somebody else's set: every fault by its name and its place, and nothing said of a clean row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from outside_sets import SET, outgoing, reasonrank_rows, write_reasonrank

from warehouse.curation.contamination import never_train_on
from warehouse.curation.curate import ReleaseSettings
from warehouse.formats.audit import audit, reasons, store, summary, values
from warehouse.formats.files import FormatError
from warehouse.formats.registry import ExportOptions, export, read_set
from warehouse.intake.benchmarks import read_benchmarks
from warehouse.intake.door import admit
from warehouse.intake.source_tables import QUERIES
from warehouse.intake.sources import FolderSource
from warehouse.lake import Lake
from warehouse.pages.reports import write_report

ROOT = Path(__file__).resolve().parents[2]
BRIGHT = ROOT.parent / "shared" / "data" / "bright_runs"
NOTHING = pl.DataFrame(schema={"benchmark": pl.String, "qid": pl.String, "text": pl.String})
Rows = list[dict[str, Any]]
Set = tuple[Rows, dict[str, str], dict[str, str]]


def never(folder: Path | None = None) -> pl.DataFrame:
    items = NOTHING if folder is None else read_benchmarks([], [folder], hub=False).items
    return never_train_on(items, QUERIES.to_frame())


def faults(folder: Path, benchmarks: Path | None = None) -> dict[str, set[str]]:
    """Reasons by line of training_data_all.jsonl."""
    found = audit(read_set(folder), never(benchmarks), ReleaseSettings(), 0.4).faults()
    told: dict[str, set[str]] = {}
    for place, reason in found.select("ranking_id", "reason").iter_rows():
        told.setdefault(place.removeprefix("training_data_all.jsonl:"), set()).add(reason)
    return told


def all_positive(row: dict[str, Any]) -> None:
    row["relevant_docids"] = list(row["initial_list"])


def one_passage(row: dict[str, Any]) -> None:
    row["initial_list"] = row["final_list"] = row["relevant_docids"] = row["relevant_docids"][:1]
    row["reasoning"] = "Only [1] is there."


def first_pick_not_positive(row: dict[str, Any]) -> None:
    wrong = next(docid for docid in row["final_list"] if docid not in row["relevant_docids"])
    row["final_list"] = [wrong, *(docid for docid in row["final_list"] if docid != wrong)]


def upside_down(row: dict[str, Any]) -> None:
    row["final_list"] = row["final_list"][::-1]
    row["relevant_docids"] = row["final_list"][-1:]


def unknown_in_order(row: dict[str, Any]) -> None:
    row["final_list"] = [*row["final_list"][:-1], "cq-p9999"]


def unknown_label(row: dict[str, Any]) -> None:
    row["relevant_docids"] = [*row["relevant_docids"], "cq-p9999"]


def no_label(row: dict[str, Any]) -> None:
    row["relevant_docids"] = []


def no_chain(row: dict[str, Any]) -> None:
    row["reasoning"] = ""


def phantom(row: dict[str, Any]) -> None:
    row["reasoning"] = "Passage [9] settles it, and [1] is beside the point."


PLANTED = {
    all_positive: {"all_relevant"},
    one_passage: {"list_length", "all_relevant"},
    first_pick_not_positive: {"first_pick_not_relevant"},
    upside_down: {"inconsistent", "first_pick_not_relevant"},
    unknown_in_order: {"not_a_permutation"},
    unknown_label: {"relevant_out_of_range"},
    no_label: {"none_relevant", "inconsistent", "first_pick_not_relevant"},
    no_chain: {"empty_chain"},
    phantom: {"phantom_passage"},
}


@pytest.fixture(scope="module")
def honest() -> Set:
    return reasonrank_rows()


def copy(rows: Rows) -> Rows:
    return json.loads(json.dumps(rows))


def test_nothing_is_said_of_a_clean_set(honest: Set, tmp_path: Path) -> None:
    folder = write_reasonrank(tmp_path / "set", *honest)
    assert faults(folder) == {}
    told = summary(audit(read_set(folder), never(), ReleaseSettings(), 0.4))
    assert (told["lists"], told["clean"], told["reasons"]) == (32, 32, [])


def test_every_planted_fault_is_named_at_its_line_and_no_clean_row_is(honest: Set, tmp_path: Path) -> None:
    rows, queries, passages = copy(honest[0]), dict(honest[1]), dict(honest[2])
    expected = {}
    for number, (plant, named) in enumerate(PLANTED.items()):
        line = 3 * number + 1
        plant(rows[line - 1])
        expected[str(line)] = named
    # The same text twice in a list, once relevant and once not.
    row = rows[28]
    copied = row["relevant_docids"][0]
    passages["cq-copy"] = passages[copied].upper()
    lost = next(docid for docid in row["initial_list"] if docid not in row["relevant_docids"])
    for name in ("initial_list", "final_list"):
        row[name] = ["cq-copy" if docid == lost else docid for docid in row[name]]
    expected["29"] = {"opposite_labels"}
    # A query asked again under another id, and a list that names a passage without a text.
    rows.append({**rows[1], "qid": "cq-again"})
    queries["cq-again"] = queries[rows[1]["qid"]].lower().replace(",", "")
    expected["33"] = {"duplicate_query"}
    rows[30]["initial_list"] = [*rows[30]["initial_list"], "cq-ghost"]
    rows[30]["final_list"] = [*rows[30]["final_list"], "cq-ghost"]
    expected["31"] = {"passage_unknown"}
    assert faults(write_reasonrank(tmp_path / "set", rows, queries, passages)) == expected


@pytest.mark.skipif(not BRIGHT.is_dir(), reason="the shared data folder is not beside this checkout")
def test_queries_of_bright_are_found_word_for_word_and_the_finding_names_both_sides(
    honest: Set, tmp_path: Path
) -> None:
    rows, queries, passages = copy(honest[0]), dict(honest[1]), dict(honest[2])
    planted = {}
    for place, domain in ((2, "biology"), (9, "economics"), (17, "leetcode")):
        item = pl.read_ndjson(BRIGHT / domain / "queries.jsonl").row(3, named=True)
        queries[rows[place - 1]["qid"]] = item["text"]
        planted[f"training_data_all.jsonl:{place}"] = (f"bright_runs/{domain}", item["qid"], "query", "exact")
    audited = audit(
        read_set(write_reasonrank(tmp_path / "set", rows, queries, passages)), never(BRIGHT), ReleaseSettings(), 0.4
    )
    caught = audited.faults().filter(pl.col("reason") == "contaminated")["ranking_id"].to_list()
    assert caught == list(planted)
    overlaps = audited.found["benchmark_overlaps"].select("ranking_id", "benchmark", "item", "unit", "test")
    assert {row[0]: row[1:] for row in overlaps.iter_rows()} == planted
    assert summary(audited)["benchmark_items"] == 633


def test_the_licence_of_a_set_is_the_one_that_its_readme_states(honest: Set, tmp_path: Path) -> None:
    folder = write_reasonrank(tmp_path / "set", *honest)
    assert set(read_set(folder).queries()["license"]) == {"CC0-1.0"}
    (folder / "README.md").unlink()
    assert {reason for told in faults(folder).values() for reason in told} == {"licence_not_stated"}
    (folder / "README.md").write_text("---\nlicense: 'cc-by-nc-nd-4.0'\n---\n", "utf-8")
    assert {reason for told in faults(folder).values() for reason in told} == {"licence_not_allowed"}


def test_what_was_found_stands_in_a_lake_of_its_own_and_on_a_page(honest: Set, lake: Lake, tmp_path: Path) -> None:
    rows, queries, passages = copy(honest[0]), dict(honest[1]), dict(honest[2])
    all_positive(rows[4])
    queries[rows[6]["qid"]] = "<script>alert(1)</script> " + queries[rows[6]["qid"]]
    read = read_set(write_reasonrank(tmp_path / "set", rows, queries, passages))
    audited = audit(read, never(), ReleaseSettings(), 0.4)
    for _ in range(2):
        store(lake, audited, "run-1")
        assert lake.query("SELECT count(*) FROM rankings").item() == 32
    told = lake.query("SELECT ranking_id, domain FROM decisions WHERE reason = 'all_relevant'").rows()
    assert told == [("training_data_all.jsonl:5", SET)]
    behind = lake.query("SELECT DISTINCT judge, exchange_key, prompt_sha256 FROM rankings").rows()
    assert behind == [("imported", None, None)]
    assert lake.query("SELECT count(DISTINCT ranking_id) FROM decisions").item() == 32
    page = write_report(tmp_path / "report.html", "audit.html.j2", values(audited)).read_text("utf-8")
    assert "training_data_all.jsonl:5" in page and "all_relevant" in page
    assert "Nothing was compared with a benchmark" in page
    assert "<script>" not in page


def test_every_reason_says_what_to_do(honest: Set, tmp_path: Path) -> None:
    rows = copy(honest[0])
    for number, plant in enumerate(PLANTED):
        plant(rows[number])
    told = reasons(
        audit(read_set(write_reasonrank(tmp_path / "set", rows, *honest[1:])), never(), ReleaseSettings(), 0.4)
    )
    assert len(told) >= len(set.union(*PLANTED.values()))
    assert [reason["reason"] for reason in told if not reason["remedy"].endswith(".")] == []


@pytest.mark.parametrize("name", ["verl", "trl", "hub", "reasonrank"])
def test_formats_with_lists_labels_and_an_order_are_audited_and_agree(name: str, tmp_path: Path) -> None:
    rows, queries, passages = reasonrank_rows()
    all_positive(rows[3])
    told = [
        {
            "row_id": f"r{n:02}", "domain": SET, "qid": row["qid"], "query": queries[row["qid"]], "split": "sft",
            "docids": row["initial_list"], "passages": [passages[docid] for docid in row["initial_list"]],
            "final_order": [row["initial_list"].index(docid) for docid in row["final_list"]],
            "relevant": sorted(row["initial_list"].index(docid) for docid in row["relevant_docids"]),
            "reasoning": row["reasoning"], "license": "CC0-1.0",
        }
        for n, row in enumerate(rows)
    ]  # fmt: skip
    export(outgoing(told), name, tmp_path / "set", ExportOptions(), overwrite=False)
    audited = audit(read_set(tmp_path / "set"), never(), ReleaseSettings(), 0.4)
    assert audited.decisions.unique(["ranking_id", "filter"]).height == audited.decisions.height
    assert audited.decisions["filter"].n_unique() * len(rows) == audited.decisions.height
    found = audited.faults()
    found = found.filter(pl.col("reason") != "licence_not_stated")
    assert [(place.split(":")[1], reason) for place, reason in found.select("ranking_id", "reason").iter_rows()] == [
        ("4", "all_relevant")
    ]


def test_a_format_without_labels_is_refused_with_those_that_can_be_audited(tmp_path: Path) -> None:
    row = {
        "row_id": "r1", "qid": "q1", "query": "Why?", "docids": ["a", "b"], "passages": ["A.", "B."],
        "final_order": [1, 0], "relevant": [1], "reasoning": "[2].",
    }  # fmt: skip
    export(outgoing([row]), "rankllm", tmp_path / "set", ExportOptions(), overwrite=False)
    with pytest.raises(FormatError, match=r"does not hold labels .* An audit reads: reasonrank, verl, trl, hub"):
        audit(read_set(tmp_path / "set"), never(), ReleaseSettings(), 0.4)


def test_a_folder_in_reasonranks_layout_is_a_source(honest: Set, tmp_path: Path) -> None:
    folder = write_reasonrank(tmp_path / "set", *honest)
    source = FolderSource(folder, "set")
    tables = admit(source.read())
    assert tables.queries.height == 32 and set(tables.queries["license"]) == {"CC0-1.0"}
    assert tables.judgements.height == sum(len(row["relevant_docids"]) for row in honest[0])
    assert tables.passages.height == len({docid for row in honest[0] for docid in row["initial_list"]})
    before = source.fingerprint()
    texts = folder / "id_doc" / f"{SET}.json"
    texts.write_text(texts.read_text("utf-8").replace("water", "waters", 1), "utf-8")
    assert source.fingerprint() != before


def test_a_source_whose_texts_are_missing_says_which(honest: Set, tmp_path: Path) -> None:
    lost = honest[0][1]["initial_list"][0]
    texts = {docid: text for docid, text in honest[2].items() if docid != lost}
    folder = write_reasonrank(tmp_path / "set", honest[0], honest[1], texts)
    with pytest.raises(FormatError, match=rf"id_doc/{SET}\.json: has no text for the passage '{lost}'"):
        FolderSource(folder, "set").read()
