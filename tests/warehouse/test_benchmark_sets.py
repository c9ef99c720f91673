"""Benchmarks as they are measured on: every kind of place over small local copies of its shape, and folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from warehouse.benchmarks import loading
from warehouse.benchmarks.boards import published_averages
from warehouse.benchmarks.folders import read_folder, write_folder
from warehouse.benchmarks.registry import Benchmark, BenchmarkError, find, registered
from warehouse.intake.benchmarks import read_benchmarks
from warehouse.intake.hub import HubUnreachable

REGISTRY = Path(__file__).resolve().parents[2] / "benchmarks"
Rows = Iterable[Mapping[str, Any]]


def dataset(folder: Path, configs: Mapping[tuple[str, str], Rows]) -> str:
    """A data set of the hub as a local folder, which `datasets` loads as it does one of the hub."""
    folder.mkdir(parents=True)
    lines = ["---", "configs:"]
    for name in dict.fromkeys(config for config, _ in configs):
        lines += [f"- config_name: {name}", "  data_files:"]
        for config, split in configs:
            if config == name:
                lines += [f"  - split: {split}", f"    path: {config}-{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), "utf-8")
    for (config, split), rows in configs.items():
        (folder / f"{config}-{split}.jsonl").write_text("\n".join(json.dumps(dict(row)) for row in rows), "utf-8")
    return str(folder)


@pytest.fixture(autouse=True)
def in_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "probe", lambda _: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def at_place(name: str, place: str, **changes: Any) -> Benchmark:
    """A registered benchmark whose data set stands in a local folder."""
    known = find(registered(REGISTRY), name)
    assert known.hub is not None
    hub = known.hub.model_copy(update={"dataset": place, **changes})
    return known.model_copy(update={"hub": hub})


def test_queries_that_hold_their_judgements_are_read_with_rewritten_ones_and_exclusions(tmp_path: Path) -> None:
    asked = [
        {"id": "0", "query": "Why?", "gold_ids": ["a", "b"], "excluded_ids": ["N/A"]},
        {"id": "1", "query": "How?", "gold_ids": ["c"], "excluded_ids": ["d"]},
    ]
    again = [{"id": "0", "query": "Why, at length", "gold_ids": [], "excluded_ids": []}]
    texts = [{"id": docid, "content": f"text {docid}"} for docid in "abcd"]
    place = dataset(
        tmp_path / "bright",
        {("examples", "biology"): asked, ("gpt4_reason", "biology"): again, ("documents", "biology"): texts},
    )
    found = loading.load(at_place("BRIGHT/biology", place), "BRIGHT/biology")
    assert found.queries.rows() == [("0", "Why?", "Why, at length", []), ("1", "How?", None, ["d"])]
    assert found.judgements.rows() == [("0", "a", 1), ("0", "b", 1), ("1", "c", 1)]
    assert found.passages["text"].to_list() == ["text a", "text b", "text c", "text d"]


@pytest.mark.parametrize(
    ("name", "query", "document"), [("R2MED/Biology", "q_id", "p_id"), ("BEIR/scifact", "query-id", "corpus-id")]
)
def test_judgements_of_their_own_are_read_with_their_grades(
    tmp_path: Path, name: str, query: str, document: str
) -> None:
    known = find(registered(REGISTRY), name)
    assert known.hub is not None and known.hub.judgements is not None
    ids, hub = known.hub.queries.id, known.hub
    config = {"queries": hub.queries.config, "documents": hub.documents.config}
    place = dataset(
        tmp_path / "texts",
        {
            (config["queries"], hub.queries.split): [{ids: "q1", "text": "What?"}],
            (config["documents"], hub.documents.split): [{hub.documents.id: "d1", "text": "This.", "title": "It"}],
            ("qrels", hub.judgements.split): [{query: "q1", document: "d1", "score": 2}],
        },
    )
    judged = hub.judgements.model_copy(update={"dataset": None, "config": "qrels"})
    found = loading.load(at_place(name, place, judgements=judged), name)
    assert found.queries["qid"].to_list() == ["q1"]
    assert found.passages.rows() == [("d1", "It" if hub.documents.title else None, "This.")]
    assert found.judgements.rows() == [("q1", "d1", 2)]


def test_ir_datasets_hands_out_judged_documents_and_those_that_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries

    class File:
        def __init__(self, text: str) -> None:
            self.file = tmp_path / f"{abs(hash(text))}.tsv"
            self.file.write_text(text, "utf-8")

        def path(self, force: bool = True) -> Path:
            return self.file

        def stream(self) -> Any:
            return self.file.open("rb")

    docs = TsvDocs(File("d1\tOne.\nd2\tTwo.\nd3\tThree.\n"), namespace="small", lang="en")
    monkeypatch.setattr(docs, "docs_path", lambda force=True: str(tmp_path / "docs.tsv"))
    held = ir_datasets.Dataset(
        docs,
        TsvQueries(File("q1\tWhich?\n"), namespace="small", lang="en"),
        TrecQrels(File("q1 0 d2 3\n"), {3: "perfect"}),
    )
    ir_datasets.registry.register("small-passage/trec-dl-2019/judged", held)
    benchmark = find(registered(REGISTRY), "TREC-DL/2019")
    small = benchmark.model_copy(update={"ir_datasets": "small-passage/trec-dl-{set}/judged"})
    found = loading.load(small, "TREC-DL/2019", wanted=["d3"])
    assert found.queries["text"].to_list() == ["Which?"]
    assert found.judgements.rows() == [("q1", "d2", 3)]
    assert found.passages.select("docid", "text").rows() == [("d2", "Two."), ("d3", "Three.")]


def test_what_no_library_fetches_says_where_it_is() -> None:
    with pytest.raises(BenchmarkError, match=r"fetched by no library: clone RankGPT's"):
        loading.load(find(registered(REGISTRY), "NovelEval"), "NovelEval")
    unknown = find(registered(REGISTRY), "TREC-DL/2020").model_copy(update={"ir_datasets": "no-such-set"})
    with pytest.raises(BenchmarkError, match="ir_datasets cannot read no-such-set"):
        loading.load(unknown, "TREC-DL/2020")


def test_a_hub_out_of_reach_names_the_way_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise HubUnreachable(name, "no route")

    monkeypatch.setattr(loading, "probe", unreachable)
    with pytest.raises(HubUnreachable, match=r"xlangai/BRIGHT .* save the data set as a folder"):
        loading.load(find(registered(REGISTRY), "BRIGHT/pony"), "BRIGHT/pony")


def test_published_rows_stand_by_part_with_their_setting() -> None:
    known = registered(REGISTRY)
    assert {one.name for one in known} == {"BEIR", "BRIGHT", "NovelEval", "R2MED", "TREC-DL"}
    bright = find(known, "BRIGHT/biology")
    assert len(bright.parts) == 12 and len(find(known, "R2MED/Biology").parts) == 8
    row, value = bright.reported("BRIGHT/biology")["ReasonRank 7B"]
    assert value == pytest.approx(0.5670) and "windows of 20 by 10" in row.setting
    by_set = [row for row in bright.published if len(row.scores) > 1]
    assert len(by_set) == 5
    for row in by_set:
        sets = [row.scores[one] for one in bright.sets]
        assert row.scores["average"] == pytest.approx(sum(sets) / len(sets), abs=0.011), row.system


def test_every_figure_of_the_method_on_a_benchmark_stands_there_as_published() -> None:
    averages = {
        (row["part"].split(" (")[0], row["system"]): round(100 * row["measures"]["nDCG@10"], 2)
        for one in registered(REGISTRY)
        for row in published_averages(one)
    }
    bright = [value for (name, _), value in averages.items() if name == "BRIGHT"]
    told = [30.59, 29.66, 28.34, 35.74, 38.03, 40.80]  # the table, and the leaderboard's figure
    ablation = [30.08, 34.20, 28.69, 33.15, 34.20, 32.96, 33.60]
    relatives = [
        22.6,
        31.2,
        22.7,
        38.7,
        25.9,
        27.1,
    ]  # TFRank and ERank, each on two first stages; with a chain, without
    assert bright == told + ablation + relatives
    assert sorted(value for (name, _), value in averages.items() if name == "R2MED") == [23.84, 39.53, 42.85]
    assert sorted(value for (name, _), value in averages.items() if name == "BEIR") == [43.74, 54.35, 55.44]
    dl = {one: find(registered(REGISTRY), f"TREC-DL/{one}").reported(f"TREC-DL/{one}") for one in ("2019", "2020")}
    assert [[dl[one][system][1] for one in dl] for system in ("Rank-R1 7B", "FIRST")] == [
        pytest.approx([0.727, 0.685]), pytest.approx([0.729, 0.704]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "told"), [("BRIGHT", "has sets: name one of BRIGHT/economics"), ("MTEB", "Known: BEIR/")]
)
def test_a_part_that_is_not_there_is_answered_with_those_that_are(asked: str, told: str) -> None:
    with pytest.raises(BenchmarkError, match=told):
        find(registered(REGISTRY), asked)


def small(tmp_path: Path) -> loading.Texts:
    return loading.texts(
        "small",
        [("q1", "What is it?", "What is it, said otherwise?", ["d3"]), ("q2", "Überall?", None, [])],
        [("d1", "It", "This.\u2028That."), ("d2", None, "Other.")],
        [("q1", "d1", 2), ("q2", "d2", 1)],
    )


def test_a_folder_gives_back_what_was_written_and_is_replaced_whole(tmp_path: Path) -> None:
    texts, folder = small(tmp_path), tmp_path / "benchmarks" / "SMALL" / "one"
    run = pl.DataFrame({"qid": ["q1"], "docid": ["d1"], "rank": [1], "score": [2.5]})
    write_folder(loading.Texts("small", texts.queries, texts.passages, texts.judgements, run), folder)
    found = read_folder(folder, "small")
    assert found.first_stage is not None and found.first_stage["docid"].to_list() == ["d1"]
    for frame in ("queries", "passages", "judgements"):
        assert getattr(found, frame).equals(getattr(texts, frame)), frame
    write_folder(texts, folder)
    assert read_folder(folder, "small").first_stage is None
    assert sorted(path.name for path in folder.parent.iterdir()) == ["one"]


def test_a_folder_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds no qrels\.tsv"):
        read_folder(tmp_path, "nothing")
    folder = tmp_path / "small"
    write_folder(small(tmp_path), folder)
    (folder / "a.trec").write_text("q1 Q0 d1 1 1.0 x\n")
    (folder / "b.trec").write_text("q1 Q0 d2 1 1.0 x\n")
    with pytest.raises(BenchmarkError, match=r"holds 2 runs\. Name the first stage with --run"):
        read_folder(folder, "small")
    named = read_folder(folder, "small", folder / "b.trec").first_stage
    assert named is not None and named["docid"].to_list() == ["d2"]
    (folder / "qrels.tsv").write_text("q1 0 d1 1\nq9 0 d1 1\n")
    with pytest.raises(BenchmarkError, match="1 judgements are of queries without text, such as 'q9'"):
        read_folder(folder, "small", folder / "b.trec")
    (folder / "passages.jsonl").write_text('{"docid": "d1", "text": "x"}\n{"docid": "d1", "text": "y"}\n')
    (folder / "qrels.tsv").write_text("q1 0 d1 1\n")
    with pytest.raises(BenchmarkError, match="the passage 'd1' stands more than once"):
        read_folder(folder, "small", folder / "b.trec")


def test_training_is_kept_from_queries_alone_where_a_corpus_is_shared_and_a_part_out_of_reach_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {("q", "test"): [{"id": "7", "text": "Which?"}], ("d", "test"): [{"id": "d", "text": "x"}]}
    dataset(tmp_path / "one", rows)
    described = {
        "name": "SMALL", "description": "Small.", "license": "CC0-1.0", "sets": ["one", "gone"], "passage_tokens": 9,
        "hub": {
            "dataset": f"{tmp_path}/{{set}}",
            "queries": {"config": "q", "split": "test", "text": "text", "relevant": "x"},
            "documents": {"config": "d", "split": "test"},
        },
    }  # fmt: skip

    def probe(name: str) -> None:
        if not Path(name).is_dir():
            raise HubUnreachable(name, "no such data set")

    monkeypatch.setattr(loading, "probe", probe)
    registry = tmp_path / "small.yaml"
    registry.write_text(json.dumps(described), "utf-8")
    found = read_benchmarks([registry], [], hub=True)
    assert found.items.select("benchmark", "qid", "text", "unit").rows() == [("SMALL/one", "7", "Which?", "query")]
    assert found.notes["benchmarks_not_read"] == {
        "SMALL/gone": "not reached (HubUnreachable); give a folder with --benchmarks, named SMALL/gone"
    }
    registry.write_text(json.dumps({**described, "sets": ["gone", "one"]}), "utf-8")
    assert list(read_benchmarks([registry], [], hub=True).notes["benchmarks_not_read"]) == ["SMALL"]
