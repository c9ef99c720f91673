"""Benchmarks: the registry's files, folders of queries, and what could not be read, which is never left unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warehouse.benchmarks.registry import BenchmarkError, load_benchmark
from warehouse.intake.benchmarks import read_benchmarks

REPOSITORY = Path(__file__).resolve().parents[2]
REGISTRY = sorted((REPOSITORY / "benchmarks").glob("*.yaml"))


def folder_of(path: Path, *lines: str | bytes) -> Path:
    path.mkdir(parents=True)
    (path / "queries.jsonl").write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return path


def query(qid: str, text: str) -> str:
    return json.dumps({"qid": qid, "text": text, "split": "benchmark-do-not-train"}, ensure_ascii=False)


def test_every_shipped_benchmark_file_is_valid() -> None:
    names = [load_benchmark(path).name for path in REGISTRY]
    assert names
    assert len(set(names)) == len(names)


def test_a_benchmark_that_was_not_read_is_named_with_the_way_to_bring_it() -> None:
    found = read_benchmarks(REGISTRY, [], hub=False)
    assert found.items.is_empty()
    told = found.notes["benchmarks_not_read"]
    assert sorted(told) == sorted(load_benchmark(path).name for path in REGISTRY)
    assert all("give a folder with --benchmarks" in reason for reason in told.values())


@pytest.mark.parametrize("hub", [False, True])
@pytest.mark.parametrize("name", ["NovelEval", "noveleval"])
def test_a_folder_named_after_a_registered_benchmark_stands_for_it(tmp_path: Path, name: str, hub: bool) -> None:
    folder = folder_of(tmp_path / name, query("1", "What is new?"))
    registry = [path for path in REGISTRY if path.stem == "noveleval"]
    assert list(read_benchmarks(registry, [], hub).notes["benchmarks_not_read"]) == ["NovelEval"]
    found = read_benchmarks(registry, [folder], hub)
    assert found.notes["queries_by_benchmark"] == {"NovelEval": 1} and found.notes["benchmarks_not_read"] == {}


def test_a_benchmark_of_which_folders_bring_some_parts_names_the_others(tmp_path: Path) -> None:
    folder_of(tmp_path / "R2MED" / "Biology", query("1", "Why?"))
    alone = folder_of(tmp_path / "elsewhere" / "R2MED" / "IIYi-Clinical", query("2", "How?"))
    registry = [path for path in REGISTRY if path.stem == "r2med"]
    found = read_benchmarks(registry, [tmp_path / "R2MED", alone], hub=False)
    read = {"R2MED/Biology", "R2MED/IIYi-Clinical"}
    assert found.notes["queries_by_benchmark"].keys() == read
    assert found.notes["benchmarks_not_read"].keys() == {*load_benchmark(registry[0]).parts} - read


def test_queries_alone_do_not_stand_for_a_benchmark_whose_passages_are_guarded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "BRIGHT" / "biology", query("1", "Why do cells divide?"))
    registry = [path for path in REGISTRY if path.stem == "bright"]
    assert list(read_benchmarks(registry, [folder], hub=False).notes["benchmarks_not_read"]) == ["BRIGHT"]
    (folder / "passages.jsonl").write_text(json.dumps({"docid": "d1", "text": "They grow."}))
    assert "BRIGHT/biology" not in read_benchmarks(registry, [folder], hub=False).notes["benchmarks_not_read"]


def test_every_queries_file_below_a_folder_is_read_under_its_own_name(tmp_path: Path) -> None:
    folder_of(tmp_path / "sets" / "biology", query("1", "Why do cells\u2028divide?"), "", query("2", "Überall?"))
    folder_of(tmp_path / "sets" / "deep" / "robotics", query("1", "Why does it spin?"))
    found = read_benchmarks([], [tmp_path / "sets"], hub=False)
    assert found.items.select("benchmark", "qid", "text").rows() == [
        ("sets/biology", "1", "Why do cells\u2028divide?"),
        ("sets/biology", "2", "Überall?"),
        ("sets/deep/robotics", "1", "Why does it spin?"),
    ]
    assert found.notes["queries_by_benchmark"] == {"sets/biology": 2, "sets/deep/robotics": 1}


def test_an_id_with_two_texts_keeps_both_and_hashes_the_same_in_any_order(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "a" / "bench", query("1", "First text?"), query("2", "Second?"))
    two = folder_of(tmp_path / "b" / "bench", query("1", "Another text?"), query("2", "Second?"))
    found = read_benchmarks([], [one, two], hub=False)
    assert found.items["text"].to_list() == ["Another text?", "First text?", "Second?"]
    assert read_benchmarks([], [two, one], hub=False).sha256 == found.sha256
    assert read_benchmarks([], [two], hub=False).sha256 != found.sha256


def test_a_passages_file_beside_the_queries_brings_passages_as_they_are_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sets" / "biology", query("1", "Why do cells divide?"))
    lines = [{"docid": "d1", "title": "Cells", "text": "They grow."}, {"docid": "d2", "text": "No title."}]
    (folder / "passages.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read_benchmarks([], [tmp_path / "sets"], hub=False)
    assert found.items.select("qid", "unit", "text").rows() == [
        ("d1", "passage", "Cells. They grow."),
        ("d2", "passage", "No title."),
        ("1", "query", "Why do cells divide?"),
    ]
    assert found.notes["queries_by_benchmark"] == {"sets/biology": 1}
    assert found.notes["passages_by_benchmark"] == {"sets/biology": 2}


def test_a_bad_passage_is_named_with_file_and_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bench", query("1", "Good?"))
    (folder / "passages.jsonl").write_text('{"docid": "d1", "text": "Good."}\n{"qid": "d2", "text": "No docid."}\n')
    with pytest.raises(BenchmarkError, match=r"passages\.jsonl:2: not a JSON object \(UTF-8\) with docid and text"):
        read_benchmarks([], [folder], hub=False)


@pytest.mark.parametrize(
    "line",
    [
        '{"qid": "2"',
        '["2", "text"]',
        '{"qid": "2"}',
        '{"text": "no id"}',
        '{"qid": "2", "text": null}',
        b"\xff\xfe",
        "7",
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path: Path, line: str | bytes) -> None:
    folder = folder_of(tmp_path / "bench", query("1", "Good?"), "", line)
    with pytest.raises(BenchmarkError) as told:
        read_benchmarks([], [folder], hub=False)
    assert str(told.value).startswith(f"{folder / 'queries.jsonl'}:3: not a JSON object")
    assert "Mend or remove the line." in str(told.value)


def test_a_folder_without_queries_is_an_error_and_not_an_empty_benchmark(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds no queries\.jsonl"):
        read_benchmarks([], [tmp_path], hub=False)


@pytest.mark.parametrize(
    "text", ["name: x", "name: [", "{name: x, description: y, hub: {dataset: z, splits: [a]}, w: 1}"]
)
def test_a_bad_registry_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=r"wrong\.yaml is not a valid benchmark"):
        load_benchmark(path)
