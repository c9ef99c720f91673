"""Every format gives back what it holds, whatever stands in the texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outside_sets import outgoing

from ranking.prompts import passage_text, plain_text
from ranking.responses import renumber_chain
from warehouse.formats import hub
from warehouse.formats.outgoing import Outgoing
from warehouse.formats.registry import FORMATS, ExportOptions, export, read_set, recognised

ODD = [
    "é ü 数学 🙂",
    "see [1] and [12]",
    "two\nlines\r\nand\ttabs",
    'she said "no"',
    "back\\slash",
    "\u2028 \u00a0",
    "{brace}",
    "",
]
texts = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
)
ids = st.text("abcé-_/.%0123", min_size=1, max_size=8)
PROMPTED = ("verl", "llamafactory", "trl")


@st.composite
def releases(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of up to three queries in two domains, whose passages come from a pool, each id with one text."""
    rows = []
    for domain in ("math", "web_search"):
        pool = draw(st.dictionaries(ids, texts, min_size=2, max_size=6))
        for number, qid in enumerate(draw(st.lists(ids, max_size=3, unique=True))):
            docids = draw(st.lists(st.sampled_from(sorted(pool)), min_size=2, unique=True))
            places = range(len(docids))
            rows.append(
                {
                    "row_id": f"{domain}{number}", "domain": domain, "qid": qid, "query": draw(texts) + "?",
                    "split": draw(st.sampled_from(["sft", "rl", "dev"])), "docids": docids,
                    "passages": [pool[docid] for docid in docids], "final_order": list(draw(st.permutations(places))),
                    "relevant": sorted(draw(st.sets(st.sampled_from(places), min_size=1))),
                    "reasoning": "So. " + draw(texts), "judge": "t", "consistency": 0.5, "source": "s",
                    "license": "CC0-1.0", "passage_licenses": ["CC0-1.0"],
                }
            )  # fmt: skip
    return rows


def there_and_back(rows: list[dict[str, Any]], name: str) -> tuple[pl.DataFrame, dict[tuple[str, str], str]]:
    """Rows read again by (domain, qid), and the texts of passages by (domain, docid)."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        export(outgoing(rows), name, out, ExportOptions(), overwrite=False)
        assert recognised(out) == name
        read = read_set(out)
    held = {(domain, docid): text for domain, docid, text in read.texts.select("domain", "docid", "text").iter_rows()}
    return read.rows, held


def lists_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What a row says with ids in place of positions."""
    return {
        (row["domain"], row["qid"]): {
            "initial_list": row["docids"],
            "final_list": [row["docids"][place] for place in row["final_order"]],
            "relevant_docids": [row["docids"][place] for place in row["relevant"]],
            "query": row["query"], "reasoning": row["reasoning"], "split": row["split"],
        }
        for row in rows
    }  # fmt: skip


def told_by(frame: pl.DataFrame, *columns: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["domain"], row["qid"]): {name: row[name] for name in columns} for row in frame.iter_rows(named=True)}


def some(rows: dict[tuple[str, str], dict[str, Any]], *columns: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {key: {name: row[name] for name in columns} for key, row in rows.items()}


def all_texts(rows: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    return {
        (row["domain"], docid): text for row in rows for docid, text in zip(row["docids"], row["passages"], strict=True)
    }


def nonempty(strategy: st.SearchStrategy[list[dict[str, Any]]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return strategy.filter(bool)


@settings(max_examples=40, deadline=None)
@given(nonempty(releases()))
def test_reasonranks_layout_holds_lists_labels_chains_and_texts(rows: list[dict[str, Any]]) -> None:
    read, held = there_and_back(rows, "reasonrank")
    columns = ("initial_list", "final_list", "relevant_docids", "query", "reasoning")
    assert told_by(read, *columns) == some(lists_of(rows), *columns)
    assert held == all_texts(rows)


@settings(max_examples=40, deadline=None)
@given(nonempty(releases()))
def test_a_dataset_folder_holds_every_column_of_a_release(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export(outgoing(rows), "hub", Path(folder) / "out", ExportOptions(), overwrite=False)
        whole = hub.read_whole(Path(folder) / "out")
    sent = pl.concat(outgoing(rows).chunks()).sort("row_id")
    assert whole.equals(sent)
    read, _ = there_and_back(rows, "hub")
    columns = ("initial_list", "final_list", "relevant_docids", "query", "reasoning", "split")
    assert told_by(read, *columns) == some(lists_of(rows), *columns)


@pytest.mark.parametrize("name", ["verl", "trl"])
@settings(max_examples=25, deadline=None)
@given(rows=nonempty(releases()))
def test_rl_and_trl_sets_hold_lists_and_labels_and_texts_as_prompts_show_them(
    name: str, rows: list[dict[str, Any]]
) -> None:
    read, held = there_and_back(rows, name)
    columns = ("initial_list", "final_list", "relevant_docids", "split")
    assert told_by(read, *columns) == some(lists_of(rows), *columns)
    assert set(held.values()) == {passage_text(text) for text in all_texts(rows).values()}
    assert told_by(read, "query") == {key: {"query": plain_text(row["query"])} for key, row in lists_of(rows).items()}
    if name == "trl":
        chains = {
            key: {"reasoning": renumber_chain(row["reasoning"], range(len(row["initial_list"])))}
            for key, row in lists_of(rows).items()
            if row["split"] != "rl"
        }
        assert told_by(read.filter(pl.col("split") != "rl"), "reasoning") == chains


@settings(max_examples=25, deadline=None)
@given(nonempty(releases()))
def test_supervised_json_holds_texts_order_and_chain(rows: list[dict[str, Any]]) -> None:
    read, held = there_and_back(rows, "llamafactory")
    told = sorted(
        (row["query"], [held[row["domain"], docid] for docid in row["final_list"]], row["reasoning"], row["split"])
        for row in read.iter_rows(named=True)
    )
    sent = sorted(
        (
            plain_text(row["query"]),
            [passage_text(row["passages"][place]) for place in row["final_order"]],
            renumber_chain(row["reasoning"], range(len(row["docids"]))),
            row["split"],
        )
        for row in rows
    )
    assert told == sent


@settings(max_examples=25, deadline=None)
@given(nonempty(releases()))
def test_trec_files_hold_both_orders_and_the_labels(rows: list[dict[str, Any]]) -> None:
    read, _ = there_and_back(rows, "trec")
    columns = ("initial_list", "final_list", "relevant_docids")
    assert told_by(read, *columns) == some(lists_of(rows), *columns)


@settings(max_examples=25, deadline=None)
@given(nonempty(releases()))
def test_requests_hold_queries_and_candidates_in_order(rows: list[dict[str, Any]]) -> None:
    read, held = there_and_back(rows, "rankllm")
    assert told_by(read, "query", "initial_list") == some(lists_of(rows), "query", "initial_list")
    assert held == all_texts(rows)


@settings(max_examples=25, deadline=None)
@given(nonempty(releases()))
def test_beir_folders_hold_texts_and_labels(rows: list[dict[str, Any]]) -> None:
    read, held = there_and_back(rows, "beir")
    columns = ("query", "initial_list", "relevant_docids", "split")
    assert told_by(read, *columns) == some(lists_of(rows), *columns)
    assert held == all_texts(rows)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_reader_found_lacking_is_what_the_manifest_says(name: str, tmp_path: Path) -> None:
    told = export(one_row(), name, tmp_path / "out", ExportOptions(), overwrite=False)
    assert told == json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert tuple(told["not_held"]) == tuple(read_set(tmp_path / "out").lacks)  # type: ignore[arg-type]


def one_row(**changes: Any) -> Outgoing:
    row = {
        "row_id": "r1", "qid": "q1", "query": "Why?", "docids": ["a", "b"], "passages": ["A.", "B."],
        "final_order": [1, 0], "relevant": [1], "reasoning": "[2] says so.",
    }  # fmt: skip
    return outgoing([{**row, **changes}])


def test_the_rl_file_has_the_fields_and_types_that_verl_reads(tmp_path: Path) -> None:
    export(one_row(split="rl"), "verl", tmp_path / "out", ExportOptions(), overwrite=False)
    row = pl.read_parquet(tmp_path / "out" / "rl.parquet").row(0, named=True)
    assert list(row) == [
        "data_source", "prompt", "ability", "reward_model", "extra_info", "label", "initial_list", "final_list",
        "relevant_docids", "dataset",
    ]  # fmt: skip
    assert (row["data_source"], row["dataset"], row["label"]) == ("ranking", "math", "[2] > [1]")
    assert row["reward_model"] == {"ground_truth": "[2] > [1]", "style": "rule"}
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert (row["initial_list"], row["final_list"], row["relevant_docids"]) == (["a", "b"], ["b", "a"], ["b"])
    assert row["extra_info"] == {"split": "rl", "qid": "q1", "row_id": "r1", "index": 0}


def test_the_supervised_file_and_its_entry_are_what_llama_factory_reads(tmp_path: Path) -> None:
    export(one_row(), "llamafactory", tmp_path / "out", ExportOptions(), overwrite=False)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text("utf-8"))
    columns = {"prompt": "instruction", "response": "output", "system": "system"}
    assert info == {"rankmill_sft": {"file_name": "rankmill_sft.json", "columns": columns}}
    (row,) = json.loads((tmp_path / "out" / "rankmill_sft.json").read_text("utf-8"))
    assert list(row) == ["instruction", "output", "system"]
    assert row["output"] == "<think> [2] says so. </think> <answer> [2] > [1] </answer>"
    assert "[1] A.\n[2] B.\n" in row["instruction"] and row["system"].startswith("You rank passages")


def test_a_dataset_folder_and_a_trl_set_load_with_datasets_offline(tmp_path: Path) -> None:
    """In a process of its own: `datasets` reads its settings from the environment when it is imported."""
    rows = [
        {
            "row_id": f"r{n}", "qid": f"q{n}", "query": "Why?", "docids": ["a", "b"], "passages": ["A.", "B."],
            "final_order": [1, 0], "relevant": [1], "reasoning": "[2] says so.", "split": split,
        }
        for n, split in enumerate(["sft", "sft", "sft", "rl", "dev"])
    ]  # fmt: skip
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: cc0-1.0\n---\n# A card\n", "utf-8")
    for name in ("hub", "trl"):
        export(outgoing(rows), name, tmp_path / name, ExportOptions(card=card), overwrite=False)
    assert (tmp_path / "hub" / "README.md").read_text("utf-8") == card.read_text("utf-8")
    code = (
        "import datasets, sys\n"
        "whole = datasets.load_dataset(sys.argv[1])\n"
        "print({name: whole[name].num_rows for name in sorted(whole)}, whole['sft'][0]['final_order'])\n"
        "chat = datasets.load_dataset(sys.argv[2], 'sft')\n"
        "print(chat['sft'][0]['completion'], sorted(chat))\n"
        "print(datasets.load_dataset(sys.argv[2], 'rl', split='rl').column_names)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "hub"), str(tmp_path / "trl")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, chat, rollouts = done.stdout.splitlines()
    assert whole == "{'dev': 1, 'rl': 1, 'sft': 3} [1, 0]"
    written = "<think> [2] says so. </think> <answer> [2] > [1] </answer>"
    assert "'role': 'assistant'" in chat and f"'content': '{written}'" in chat and chat.endswith("['dev', 'sft']")
    assert rollouts == str(["prompt", "dataset", "qid", "initial_list", "final_list", "relevant_docids"])


def test_shards_are_numbered_by_their_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SHARD", 3)
    rows = [
        {
            "row_id": f"r{n}", "qid": f"q{n}", "query": "Why?", "docids": ["a", "b"], "passages": ["A.", "B."],
            "final_order": [1, 0], "relevant": [1], "reasoning": "Yes.",
        }
        for n in range(7)
    ]  # fmt: skip
    export(outgoing(rows), "hub", tmp_path / "out", ExportOptions(), overwrite=False)
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"sft-0000{n}-of-00003.parquet" for n in range(3)]
    assert hub.read_whole(tmp_path / "out")["row_id"].to_list() == [f"r{n}" for n in range(7)]
