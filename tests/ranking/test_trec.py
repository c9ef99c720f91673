"""TREC files: any id but white space there and back, whole or not at all, and errors that name file and line."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.trec import TrecFileError, read_qrels, read_run, write_run

WHITE_SPACE = "\t\n\x0b\x0c\r "
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=WHITE_SPACE), min_size=1, max_size=8)
# A byte order mark at the very start of a file is the file's, not the first qid's.
qids = names.filter(lambda name: not name.startswith("\ufeff"))


def frame(rows: list[tuple[str, str, int, float]]) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema={"qid": pl.String, "docid": pl.String, "rank": pl.Int64, "score": pl.Float64}, orient="row"
    )


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(qids, names, st.integers(1, 10**9), st.floats(allow_nan=False)), min_size=1, max_size=6),
    tag=names,
)
def test_a_run_written_and_read_is_the_same_run_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int, float]], tag: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "there_and_back.trec"
    write_run(path, frame(rows), tag)
    assert read_run(path).rows() == rows


@pytest.mark.parametrize(
    "docid",
    ["a%20b", "http://x/y?z=1#[2]", '"quoted"', "ü\u00a0\u2028\x85🙂", "0", "-", "#", "\\N", "NULL", "\x1c", "\x00"],
)
def test_docids_of_any_form_but_white_space_come_through(tmp_path: Path, docid: str) -> None:
    rows = [("q", docid, 1, 0.1), ("q", docid + "x", 2, -1e-300)]
    write_run(tmp_path / "run.trec", frame(rows), "tag")
    assert read_run(tmp_path / "run.trec").rows() == rows
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text(f"q 0 {docid} 2\n", encoding="utf-8", newline="\n")
    assert read_qrels(qrels).rows() == [("q", docid, 2)]


@pytest.mark.parametrize(
    ("column", "row", "tag"),
    [
        ("docid", ("q", "a b", 1, 1.0), "tag"),
        ("docid", ("q", "", 1, 1.0), "tag"),
        ("docid", ("q", None, 1, 1.0), "tag"),
        ("qid", ("q\t1", "a", 1, 1.0), "tag"),
        ("qid", ("q\n1", "a", 1, 1.0), "tag"),
        ("tag", ("q", "a", 1, 1.0), "my run"),
    ],
)
def test_an_id_that_no_reader_could_read_is_refused_and_nothing_is_written(
    tmp_path: Path, column: str, row: tuple[str, str, int, float], tag: str
) -> None:
    with pytest.raises(TrecFileError, match=f"run.trec: the {column} .* white space"):
        write_run(tmp_path / "run.trec", frame([row]), tag)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_run_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, frame([("q", "a", 1, 1.0)]), "tag")
    with pytest.raises(TypeError):
        write_run(path, pl.DataFrame({"qid": ["q"], "docid": ["b"], "rank": [None], "score": [1.0]}), "tag")
    assert read_run(path)["docid"].to_list() == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_written_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    write_run(tmp_path / "new" / "deep" / "run.trec", frame([("q", "a", 1, 1.5)]), "tag")
    assert (tmp_path / "new" / "deep" / "run.trec").read_text() == "q Q0 a 1 1.5 tag\n"


def test_tabs_windows_line_ends_blank_lines_and_a_byte_order_mark_are_read_as_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes(b"\xef\xbb\xbfq\tQ0  a 1\t2.5 tag\r\n\r\n  q Q0 b 2 1e-3 tag")
    assert read_run(path).rows() == [("q", "a", 1, 2.5), ("q", "b", 2, 0.001)]


fields = st.sampled_from(
    [b"q", b"Q0", b"-3", b"+1.", b"1.5", b"1e-5", b"inf", b'"', b"#", b"null", b"\xc3\xa9", b"0x1", b"1_0"]
)


@settings(deadline=None)
@given(st.lists(st.lists(fields, min_size=5, max_size=7), min_size=1, max_size=3), st.sampled_from([b" ", b"\t"]))
def test_what_stands_between_the_fields_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[bytes]], between: bytes
) -> None:
    said = []
    for separator in (between, b"  "):
        path = tmp_path_factory.getbasetemp() / "separated.trec"
        path.write_bytes(b"\n".join(separator.join(line) for line in lines) + b"\n")
        try:
            said.append(read_run(path).rows())
        except TrecFileError as error:
            said.append(str(error))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"q Q0 b 2 1.0", "5 fields where 6 are expected.*qid Q0 docid rank score tag"),
        (b"q Q0 b c 2 1.0 tag", "7 fields where 6"),
        (b"q Q0 b two 1.0 tag", "rank 'two' and score '1.0' must be numbers"),
        (b"q Q0 b 2 high tag", "score 'high'"),
        (b"q Q0 b 2 nan tag", "score 'nan'"),
        (b"q Q0 b 2.0 1.0 tag", "rank '2.0'"),
        (b"q Q0 b 99999999999999999999 1.0 tag", "rank '9+'"),
        (b"q Q0 \xff 2 1.0 tag", "not UTF-8"),
    ],
)
def test_a_bad_line_of_a_run_is_named_by_file_and_line(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "bad.trec"
    path.write_bytes(b"q Q0 a 1 2.0 tag\n\n" + line + b"\n")
    with pytest.raises(TrecFileError, match=words) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"q a 1", "3 fields where 4 are expected.*qid 0 docid grade"),
        (b"q 0 a one", "grade 'one' must be a whole number"),
        (b"q 0 a 1.5", "grade '1.5'"),
        (b"q 0 a 99999999999999999999", "grade '9+'"),
        (b"q 0 \xe4 1", "not UTF-8"),
    ],
)
def test_a_bad_line_of_the_judgements_is_named_by_file_and_line(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"q 0 b -1\n" + line)
    with pytest.raises(TrecFileError, match=words) as caught:
        read_qrels(path)
    assert str(caught.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_a_line_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.trec"
    path.write_bytes(content)
    with pytest.raises(TrecFileError, match=re.escape(f"{path}: holds no lines")):
        read_run(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrecFileError, match=r"none\.trec: cannot be read \(No such file"):
        read_run(tmp_path / "none.trec")


@settings(deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([b"q", b"Q0", b"0", b"-3", b"1.5", b"nan", b"1e999", b"9" * 30, b"\xc3", b"\x00", b"1_0"]),
            min_size=3,
            max_size=7,
        ).map(b" ".join),
        max_size=3,
    ).map(b"\n".join)
    | st.binary(max_size=20)
)
def test_no_content_whatever_ends_in_another_error_than_one_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.trec"
    path.write_bytes(content)
    for read in (read_run, read_qrels):
        try:
            assert read(path).height > 0
        except TrecFileError as error:
            assert str(path) in str(error)
