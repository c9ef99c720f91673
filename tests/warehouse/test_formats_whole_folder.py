"""Exports are whole or not at all, and what a format cannot hold is refused rather than lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from outside_sets import outgoing

from ranking.trec import TrecFileError
from warehouse.formats.files import FormatError
from warehouse.formats.outgoing import release_rows
from warehouse.formats.prompted import Form
from warehouse.formats.registry import ExportOptions, export, read_set
from warehouse.formats.whole_folder import ExportRefused, whole_folder, write_manifest
from warehouse.lake import Lake

ROW = {
    "row_id": "r1", "qid": "q1", "query": "Why?", "docids": ["a", "b"], "passages": ["A.", "B."],
    "final_order": [1, 0], "relevant": [1], "reasoning": "[2] says so.",
}  # fmt: skip


def write(rows: list[dict[str, Any]], name: str, out: Path, **options: Any) -> dict[str, object]:
    overwrite = options.pop("overwrite", False)
    return export(outgoing(rows), name, out, ExportOptions(**options), overwrite)


def test_an_error_half_way_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_replaced_only_when_asked_and_only_by_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write([ROW], "reasonrank", out)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with pytest.raises(ExportRefused, match="--overwrite"):
        write([ROW], "beir", out)
    twice = {**ROW, "row_id": "r2", "qid": "q2", "passages": ["Another A.", "B."]}
    with pytest.raises(ExportRefused, match="two texts"):
        write([ROW, twice], "beir", out, overwrite=True)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    write([ROW], "beir", out, overwrite=True)
    assert json.loads((out / "export.json").read_text("utf-8"))["format"] == "beir"
    assert not (out / "training_data_all.jsonl").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(ExportRefused, match=r"no export of rankmill .* not replaced"):
        write([ROW], "hub", tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write([ROW], "hub", tmp_path / "out")
    assert (tmp_path / "out" / "export.json").is_file()


def test_a_killed_export_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out, overwrite=False) as folder:
        (folder / "rows").write_text("first")
        write_manifest(folder, {"format": "hub"})
    code = (
        "import sys, time; from pathlib import Path; from warehouse.formats.whole_folder import whole_folder\n"
        "with whole_folder(Path(sys.argv[1]), overwrite=True) as folder:\n"
        "    (folder / 'rows').write_text('second'); print('there', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", code, str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "rows").read_text() == "first"


@pytest.mark.parametrize("name", ["reasonrank", "beir"])
def test_an_id_with_two_texts_is_refused_where_a_format_holds_one(name: str, tmp_path: Path) -> None:
    other = {**ROW, "row_id": "r2", "qid": "q2", "docids": ["a", "c"], "passages": ["Masked.", "C."]}
    with pytest.raises(ExportRefused, match=r"passage 'a' of math .* --format hub"):
        write([ROW, other], name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_ids_that_end_a_field_are_refused_by_the_files_they_would_break(tmp_path: Path) -> None:
    with pytest.raises(TrecFileError, match="white space"):
        write([{**ROW, "docids": ["a page", "b"]}], "trec", tmp_path / "out")
    with pytest.raises(ExportRefused, match="tab or a line break"):
        write([{**ROW, "docids": ["a\tb", "b"]}], "beir", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_second_list_of_a_query_is_refused_by_a_run(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="'q1' of math has two lists"):
        write([ROW, {**ROW, "row_id": "r2"}], "trec", tmp_path / "out")


def test_rows_that_make_no_example_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "row_id": "r2", "reasoning": ""}, {**ROW, "row_id": "r3", "relevant": []}]
    told = write(rows, "trl", tmp_path / "out")
    assert told["written"] == {"sft": 1, "the chain is empty": 1, "no relevant passage in the list": 1}
    direct = write(rows[:2], "llamafactory", tmp_path / "direct", form=Form("rank_student_direct", think=False))
    assert direct["written"] == {"sft": 2}
    (row, _) = json.loads((tmp_path / "direct" / "rankmill_sft.json").read_text("utf-8"))
    assert row["output"] == "<answer> [2] > [1] </answer>"


def test_splits_can_be_chosen_and_an_empty_choice_is_refused(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "row_id": "r2", "qid": "q2", "split": "rl"}]
    assert write(rows, "reasonrank", tmp_path / "rl", splits=("rl",))["written"] == {"lists": 1}
    assert read_set(tmp_path / "rl").rows["qid"].to_list() == ["q2"]
    with pytest.raises(ExportRefused, match="no row in the splits dev; it has: sft, rl"):
        write(rows, "hub", tmp_path / "dev", splits=("dev",))


def test_a_release_leaves_the_lake_in_chunks_and_whole(factory_lake: Lake, tmp_path: Path, monkeypatch: Any) -> None:
    from small_lake import release

    from warehouse.curation.releases import read_release
    from warehouse.formats import hub, outgoing

    name = release(factory_lake)
    monkeypatch.setattr(outgoing, "CHUNK", 3)
    for asked in ("newest", name[:10]):
        rows = release_rows(factory_lake, asked)
        assert rows.release == name
        assert max(frame.height for frame in rows.chunks()) <= 3
        export(rows, "hub", tmp_path / asked, ExportOptions(), overwrite=False)
        stored = read_release(factory_lake, name).select(outgoing.COLUMNS)
        assert hub.read_whole(tmp_path / asked).equals(stored)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("training_data_all.jsonl", "{", r"training_data_all\.jsonl:1: not valid JSON"),
        ("training_data_all.jsonl", "[1]\n", r"training_data_all\.jsonl:1: list, not an object"),
        ("training_data_all.jsonl", '\n{"dataset": "math"}\n', r"training_data_all\.jsonl:2: field 'qid' is missing"),
        ("training_data_all.jsonl", "", r"holds no rows"),
        ("id_doc/math.json", "[]", r"id_doc/math\.json: not an object of texts"),
        ("id_query/math.json", "{]", r"id_query/math\.json:1: not valid JSON"),
        ("id_query/math.json", None, r"id_query/math\.json: cannot be read .* A folder in ReasonRank's layout holds"),
    ],
)
def test_a_broken_file_is_named_with_its_line_and_what_to_do(
    file: str, content: str | None, told: str, tmp_path: Path
) -> None:
    write([ROW], "reasonrank", tmp_path / "out")
    if content is None:
        (tmp_path / "out" / file).unlink()
    else:
        (tmp_path / "out" / file).write_text(content, "utf-8")
    with pytest.raises(FormatError, match=told):
        read_set(tmp_path / "out")


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    write([ROW], "reasonrank", tmp_path / "out")
    path = tmp_path / "out" / "training_data_all.jsonl"
    path.write_bytes(path.read_bytes() + b'{"dataset": "caf\xe9"}\n')
    with pytest.raises(FormatError, match=r"training_data_all\.jsonl:2: not UTF-8 \(byte 0xe9\)"):
        read_set(tmp_path / "out")


def test_a_prompt_of_another_template_is_named_with_the_option_that_helps(tmp_path: Path) -> None:
    write([ROW], "verl", tmp_path / "out")
    with pytest.raises(FormatError, match=r"sft\.parquet:1: the prompt was not made with .* --template"):
        read_set(tmp_path / "out", template="rank_teacher")


def test_an_unknown_folder_and_an_unknown_format_name_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"in none of the known formats.*reasonrank, verl"):
        read_set(tmp_path)
    for name in ("queries.jsonl", "passages.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(FormatError, match="a source, and no training set"):
        read_set(tmp_path)
    with pytest.raises(FormatError, match=r"no format 'csv'\. Formats: reasonrank"):
        read_set(tmp_path, "csv")
    with pytest.raises(FormatError, match="there is no such folder"):
        read_set(tmp_path / "nowhere")
