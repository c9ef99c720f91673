"""The door: a bad folder is refused with file, line and remedy; every row of a good one is kept or accounted for.

Each folder in tests/bad_folders has one thing wrong with it, and in expected.txt the fault that must be reported.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.intake import folders
from warehouse.intake.door import REMEDIES, DoorLimits, SourceError, admit
from warehouse.intake.folders import PASSAGE_LAYOUT, QUERY_LAYOUT, parse_lines, read_folder
from warehouse.intake.source_tables import JUDGEMENTS, PASSAGES, QUERIES, REJECTIONS, SourceTables, gold_passages
from warehouse.intake.sources import FolderSource, folder_sources, read_source

REPOSITORY = Path(__file__).resolve().parents[2]
BAD_FOLDERS = REPOSITORY / "tests" / "bad_folders"
REAL_DATA = REPOSITORY.parent / "shared" / "data"


def write_folder(
    folder: Path, queries: Sequence[dict[str, Any]], passages: Sequence[dict[str, Any]], judgements: Sequence[str]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("queries.jsonl", queries), ("passages.jsonl", passages)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_bytes(text.encode())
    (folder / "qrels.tsv").write_bytes("".join(line + "\n" for line in judgements).encode())
    return folder


def query(qid: str, **fields: Any) -> dict[str, Any]:
    return {
        "qid": qid,
        "text": f"Text of {qid}",
        "source": "tiny",
        "split": "train",
        "license": "CC0-1.0",
    } | fields


def passage(docid: str, **fields: Any) -> dict[str, Any]:
    return {"docid": docid, "title": "", "text": f"Text of {docid}", "source": "tiny", "license": "CC0-1.0"} | fields


def assert_counts_add_up(tables: SourceTables, inputs: dict[str, int]) -> None:
    outputs = {"queries": tables.queries, "passages": tables.passages, "judgements": tables.judgements}
    for name, frame in outputs.items():
        count = tables.notes["counts"][name]
        assert count["in"] == inputs[name]
        assert count["out"] == frame.height
        assert count["rejected"] == tables.rejections.filter(pl.col("stage") == name).height
        assert count["in"] == count["out"] + count["rejected"] + count["beyond_limit"]


@pytest.mark.parametrize("name", sorted(folder.name for folder in BAD_FOLDERS.iterdir()))
def test_a_bad_folder_is_refused_with_file_line_and_remedy(name: str) -> None:
    expected = (BAD_FOLDERS / name / "expected.txt").read_text().strip()
    with pytest.raises(SourceError) as caught:
        read_source(FolderSource(BAD_FOLDERS / name, name))
    assert len(expected) > 40
    assert f"  {expected}" in str(caught.value)
    assert str(BAD_FOLDERS / name) in str(caught.value)
    assert len(caught.value.errors) == 1


def test_all_faults_are_reported_together_and_the_message_stops_at_twenty(tmp_path: Path) -> None:
    queries = [query("q1"), *(query("q1") for _ in range(30))]
    folder = write_folder(tmp_path / "many", queries, [passage("d1"), passage("d1")], ["q1 0 d1"])
    with pytest.raises(SourceError) as caught:
        read_source(FolderSource(folder, "many"))
    assert len(caught.value.errors) == 30 + 1 + 1
    lines = str(caught.value).splitlines()
    assert "32 faults" in lines[0]
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "  and 12 more"
    assert {fault.file for fault in caught.value.errors} == {"queries.jsonl", "passages.jsonl", "qrels.tsv"}


def test_line_numbers_count_blank_lines_and_not_line_separators_inside_a_text(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "lines", [query("q1")], [passage("d1")], ["q1 0 d1 1"])
    rows = [query("q1", text="one\u2028line\u0085still"), query("q2"), query("q2")]
    (folder / "queries.jsonl").write_text("\n\r\n" + "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    with pytest.raises(SourceError, match=r"queries.jsonl:7: duplicate qid 'q2' \(first at line 5\)"):
        read_source(FolderSource(folder, "lines"))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "windows", [query("q1"), query("q2")], [passage("d1")], ["q1 0 d1 1"])
    for name in ("queries.jsonl", "passages.jsonl", "qrels.tsv"):
        file = folder / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    tables = read_source(FolderSource(folder, "windows"))
    assert tables.queries["qid"].to_list() == ["q1", "q2"]
    assert tables.judgements.rows() == [("windows", "q1", "d1", 1, "human")]


def test_rows_that_can_be_left_out_are_counted_rejections(tmp_path: Path) -> None:
    queries = [query("q1"), query("q2", text=" \n\t"), query("q3"), query("q4")]
    passages = [
        passage("d1"),
        passage("d2"),
        passage("d3"),
        passage("d4"),
        passage("blank", text=""),
        passage("noise", text="\u0000\u0007 \u200b"),
        passage("long", text="x" * 101),
    ]
    judgements = ["q1 0 d1 2", "q2 0 d1 1", "q3 0 long 1", "q3 0 d2 1", "q3 0 d2 1", "q3 0 nowhere 1", "nobody 0 d1 1"]
    judgements += ["q4 0 d3 1", "q4 0 d4 0", "q1 0 d2 0", "q1 0 d3 0"]
    folder = write_folder(tmp_path / "tiny", queries, passages, judgements)
    tables = read_source(FolderSource(folder, "tiny"), limits=DoorLimits(max_chars=100))
    assert_counts_add_up(tables, {"queries": 4, "passages": 7, "judgements": 11})
    left_out = [
        ("queries", "q2", "empty text", "queries.jsonl:2:"),
        ("passages", "blank", "empty text", "passages.jsonl:5:"),
        ("passages", "noise", "control characters only", "passages.jsonl:6:"),
        ("passages", "long", "text over the limit", "passages.jsonl:7: 101 characters of 100."),
        ("judgements", "q2 d1", "its query was rejected", "qrels.tsv:2:"),
        ("judgements", "q3 long", "its passage was rejected", "qrels.tsv:3:"),
        ("judgements", "q3 d2", "repeated judgement", "qrels.tsv:5:"),
        ("judgements", "q3 nowhere", "unknown passage", "qrels.tsv:6:"),
        ("judgements", "nobody d1", "unknown query", "qrels.tsv:7:"),
    ]
    assert sorted(tables.rejections.rows()) == sorted(
        (stage, "tiny", key, reason, f"{place} {REMEDIES[reason]}") for stage, key, reason, place in left_out
    )
    assert REMEDIES.keys() == {reason for _, _, reason, _ in left_out}
    assert tables.queries.schema == QUERIES
    assert tables.passages.schema == PASSAGES
    assert tables.judgements.schema == JUDGEMENTS
    assert tables.rejections.schema == REJECTIONS


def test_unknown_fields_are_left_out_and_counted_with_their_first_line(tmp_path: Path) -> None:
    queries = [query("q1"), query("q2", tags=["a"]), query("q3", tags=["b"], gold_answer_docid="d1")]
    folder = write_folder(tmp_path / "extra", queries, [passage("d1", author=7)], ["q1 0 d1 1"])
    tables = read_source(FolderSource(folder, "extra"))
    assert tables.notes["unknown_fields"] == {
        "queries.jsonl": {
            "tags": {"rows": 2, "first_line": 2},
            "gold_answer_docid": {"rows": 1, "first_line": 3},
        },
        "passages.jsonl": {"author": {"rows": 1, "first_line": 1}},
    }


def test_a_missing_source_or_licence_is_filled_in_and_said(tmp_path: Path) -> None:
    bare = {"qid": "q1", "text": "What is bare?", "split": "test"}
    folder = write_folder(tmp_path / "bare", [bare, query("q2")], [{"docid": "d1", "text": "Bare."}], ["q1 0 d1 1"])
    tables = read_source(FolderSource(folder, "bare"))
    assert tables.queries["source"].to_list() == ["bare", "tiny"]
    assert tables.queries["license"].to_list() == ["NOASSERTION", "CC0-1.0"]
    assert tables.passages.select("title", "source", "license").rows() == [("", "bare", "NOASSERTION")]
    assert tables.notes["filled_fields"] == {
        "queries.jsonl": {"source": 1, "license": 1},
        "passages.jsonl": {"source": 1, "license": 1},
    }


def test_excluded_passages_and_gold_answers_come_through(tmp_path: Path) -> None:
    queries = [query("q1", excluded_docids=["d1"], gold_answer="Yes."), query("q2", gold_answer=" ", url="https://x.y")]
    folder = write_folder(tmp_path / "through", queries, [passage("d1")], ["q2 0 d1 1"])
    tables = read_source(FolderSource(folder, "through"))
    assert tables.queries["excluded_docids"].to_list() == [["d1"], []]
    assert tables.queries["gold_answer"].to_list() == ["Yes.", None]
    assert tables.queries["url"].to_list() == [None, "https://x.y"]


def test_a_passage_that_is_the_gold_answer_is_found_and_a_short_one_only_by_equality() -> None:
    long = "The sky is blue because short waves are scattered far more strongly than long ones. " * 3
    queries = pl.DataFrame(
        {
            "qid": ["same", "held", "cut", "short", "equal", "none"],
            "gold_answer": [long, long, long, "yes", "No!", None],
        }
    )
    queries = queries.with_columns(
        gold_answer=pl.col("gold_answer")
        + pl.col("qid").replace_strict(
            {"same": "Same.", "held": "Held.", "cut": "Cut, and then much more of the same."}, default=""
        )
    )
    passages = pl.DataFrame(
        {
            "docid": ["p-same", "p-held", "p-cut", "p-yes", "p-no", "p-other"],
            "text": [
                f"  {long.upper()} SAME",
                f"```\n{long}Held.\n``` and a remark",
                f"{long}Cut, and then",
                "yes, this holds the word yes",
                "no",
                "The sky is blue.",
            ],
        }
    )
    assert gold_passages(queries, passages).rows() == [
        ("cut", "p-cut"),
        ("equal", "p-no"),
        ("held", "p-held"),
        ("same", "p-same"),
    ]


def test_a_limit_keeps_every_split_and_every_passage_and_does_not_reshuffle_when_rows_are_added(tmp_path: Path) -> None:
    queries = [query(f"q{i}", split="dev" if i % 10 == 0 else "train") for i in range(200)]
    judgements = [f"q{i} 0 d{i % 7} 1" for i in range(200)]
    passages = [passage(f"d{i}") for i in range(7)]
    folder = write_folder(tmp_path / "a" / "grow", queries, passages, judgements)
    few = read_source(FolderSource(folder, "grow"), limit=40, seed=3)
    assert dict(few.queries["split"].value_counts().iter_rows()) == {"train": 36, "dev": 4}
    assert few.passages.height == 7
    assert few.judgements["qid"].to_list() == few.queries["qid"].to_list()
    assert few.notes["counts"]["queries"] == {"in": 200, "out": 40, "rejected": 0, "beyond_limit": 160}
    assert few.notes["counts"]["judgements"]["beyond_limit"] == 160

    more = [*(query(f"new{i}") for i in range(10)), *queries]
    grown = read_source(
        FolderSource(write_folder(tmp_path / "b" / "grow", more, passages, judgements), "grow"), limit=40, seed=3
    )
    pushed_out = set(few.queries["qid"]) - set(grown.queries["qid"])
    assert len(pushed_out) <= 10
    assert grown.queries.height == 40
    other = read_source(FolderSource(folder, "grow"), limit=40, seed=4)
    assert set(other.queries["qid"]) != set(few.queries["qid"])


def test_the_content_hash_depends_on_the_rows_and_not_on_their_order(tmp_path: Path) -> None:
    queries, passages = [query("q1"), query("q2")], [passage("d1"), passage("d2")]
    judgements = ["q1 0 d1 1", "q2 0 d2 1"]
    one = read_source(FolderSource(write_folder(tmp_path / "one", queries, passages, judgements), "x"))
    two = read_source(
        FolderSource(write_folder(tmp_path / "two", queries[::-1], passages[::-1], judgements[::-1]), "x")
    )
    assert one.content_sha256 == two.content_sha256
    changed = [passages[0], passage("d2", text="Another text")]
    three = read_source(FolderSource(write_folder(tmp_path / "three", queries, changed, judgements), "x"))
    assert three.content_sha256 != one.content_sha256


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    source = FolderSource(write_folder(tmp_path / "f", [query("q1")], [passage("d1")], ["q1 0 d1 1"]), "f")
    before = source.fingerprint()
    assert source.fingerprint() == before
    (source.path / "qrels.tsv").write_text("q1 0 d1 2\n")
    assert source.fingerprint() != before


def test_folders_given_by_hand_must_exist_and_have_names_of_their_own(tmp_path: Path) -> None:
    for place in ("one/math", "two/math", "one/ma th", "all"):
        (tmp_path / place).mkdir(parents=True)
    given_paths = [tmp_path / place for place in ("one/math", "two/math", "one/math", "one/ma th", "nowhere", "all")]
    with pytest.raises(SourceError) as caught:
        folder_sources(given_paths)
    assert [fault.what.split(" (")[0] for fault in caught.value.errors] == [
        "the folder's name 'all' cannot be a domain's name, which stands for all of them",
        "there is no such folder",
        "the folder's name 'ma th' cannot be a domain's name",
        "a second folder named 'math'",
    ]
    assert [source.domain for source in folder_sources([tmp_path / "one/math"])] == ["math"]


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", "  ", "\u0000", "plain words", "x" * 30]
)
names = st.text(string.ascii_letters + string.digits + "-_./(){}'\"\\é中", min_size=1, max_size=6)


@st.composite
def folder_rows(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[str, str, int]]]:
    qids = draw(st.lists(names, min_size=1, max_size=8, unique=True))
    docids = draw(st.lists(names, min_size=1, max_size=8, unique=True))
    splits = st.sampled_from(["train", "dev", "test"])
    optional = st.fixed_dictionaries(
        {},
        optional={
            "gold_answer": st.none() | texts,
            "excluded_docids": st.lists(names, max_size=2),
            "note": st.integers(),
        },
    )
    queries = [query(qid, text=draw(texts), split=draw(splits)) | draw(optional) for qid in qids]
    passages = [passage(docid, text=draw(texts)) for docid in docids]
    pairs = st.tuples(st.sampled_from(qids) | names, st.sampled_from(docids) | names)
    grades = draw(st.dictionaries(pairs, st.integers(0, 3), min_size=1, max_size=10))
    return queries, passages, [(qid, docid, grade) for (qid, docid), grade in grades.items()]


@settings(deadline=None, max_examples=150)
@given(folder_rows())
def test_every_row_of_a_well_formed_folder_is_kept_or_rejected(
    tmp_path_factory: pytest.TempPathFactory,
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[str, str, int]]],
) -> None:
    queries, passages, judgements = rows
    folder = write_folder(
        tmp_path_factory.mktemp("folder"), queries, passages, [f"{qid} 0 {docid} {g}" for qid, docid, g in judgements]
    )
    raw = read_folder(folder, "random")
    assert raw.faults == ()
    try:
        tables = admit(raw, DoorLimits(max_chars=20))
    except SourceError as error:
        assert all("would be rejected" in fault.what for fault in error.errors)
        return
    assert_counts_add_up(tables, {"queries": len(queries), "passages": len(passages), "judgements": len(judgements)})
    kept = {row["qid"]: row["text"] for row in queries} | {row["docid"]: row["text"] for row in passages}
    assert {(row["qid"], row["text"]) for row in queries} >= set(tables.queries.select("qid", "text").iter_rows())
    assert {(row["docid"], row["text"]) for row in passages} >= set(tables.passages.select("docid", "text").iter_rows())
    assert all(0 < len(text.strip()) <= 20 for text in [*tables.queries["text"], *tables.passages["text"]]), kept
    assert set(tables.judgements.select("qid", "docid", "grade").iter_rows()) == {
        (qid, docid, grade)
        for qid, docid, grade in judgements
        if qid in set(tables.queries["qid"]) and docid in set(tables.passages["docid"])
    }


@settings(deadline=None, max_examples=100)
@given(folder_rows())
def test_reading_at_once_and_line_by_line_give_the_same_rows(
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[str, str, int]]],
) -> None:
    queries, passages, _ = rows
    for records, layout in ((queries, QUERY_LAYOUT), (passages, PASSAGE_LAYOUT)):
        data = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in records).encode()
        at_once = folders._parse_at_once(data, layout)
        slow = folders._parse_line_by_line(data, "rows.jsonl", layout)
        assert at_once is not None
        assert at_once.frame.equals(slow.frame)
        assert at_once.notes == slow.notes
        assert slow.faults == ()
        assert parse_lines(data, "rows.jsonl", layout).frame.equals(at_once.frame)


def test_a_field_of_mixed_types_that_is_not_ours_does_no_harm() -> None:
    data = b'{"docid": "a", "text": "t", "extra": 1}\n{"docid": "b", "text": "u", "extra": "two"}\n'
    lines = parse_lines(data, "passages.jsonl", PASSAGE_LAYOUT)
    assert lines.faults == ()
    assert lines.frame["docid"].to_list() == ["a", "b"]
    assert (lines.notes or {})["unknown_fields"] == {"extra": {"rows": 2, "first_line": 1}}


def test_a_null_inside_excluded_docids_is_a_fault() -> None:
    data = b'{"qid": "a", "text": "t", "split": "dev", "excluded_docids": ["d", null]}\n'
    faults = parse_lines(data, "queries.jsonl", QUERY_LAYOUT).faults
    assert [(fault.line, fault.what) for fault in faults] == [(1, "field 'excluded_docids' is not a list of strings")]


@pytest.mark.parametrize(
    ("name", "queries", "passages", "judgements"),
    [
        ("complex_qa", 3191, 7471, 7445),
        ("coding", 1229, 4424, 1618),
        ("math", 645, 4613, 1586),
        ("web_search", 2298, 5828, 2870),
    ],
)
def test_real_folders_come_in_whole(name: str, queries: int, passages: int, judgements: int) -> None:
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no {name} folder beside this repository (../shared/data)")
    tables = read_source(FolderSource(REAL_DATA / name, name))
    assert (tables.queries.height, tables.passages.height, tables.judgements.height) == (queries, passages, judgements)
    assert tables.rejections.height == 0


def test_the_gold_passages_of_the_stack_exchange_questions_are_those_its_makers_name() -> None:
    file = REAL_DATA / "complex_qa" / "queries.jsonl"
    if not file.is_file():
        pytest.skip("no complex_qa folder beside this repository (../shared/data)")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    named = {(row["qid"], row["gold_answer_docid"]) for row in rows if row.get("gold_answer_docid")}
    tables = read_source(FolderSource(file.parent, "complex_qa"))
    assert set(gold_passages(tables.queries, tables.passages).iter_rows()) == named
