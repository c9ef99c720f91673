"""Hub sources: rows of the published shapes become tables; without a network the error is quick and names the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from warehouse.intake.door import admit
from warehouse.intake.hub import (
    MATH_SUBJECTS,
    map_math,
    map_ms_marco,
    map_stackexchange,
    plain_text,
    read_hub,
    read_reasonrank,
    sample,
)
from warehouse.intake.sources import HubSource


def run_python(code: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | settings
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path])
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def describe(folder: Path, configs: dict[str, dict[str, str]]) -> None:
    """The README header by which `datasets` finds a repository's configs."""
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [f"  - split: {split}\n    path: {path}" for split, path in splits.items()]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def ms_marco_row(number: int, selected: list[int], answers: list[str], split: str = "train") -> dict[str, Any]:
    texts = [f"shared passage about rivers {i}" if i == 0 else f"passage {number} {i}" for i in range(len(selected))]
    return {
        "answers": answers,
        "passages": {
            "is_selected": selected,
            "passage_text": texts,
            "url": [f"https://example.org/{number}/{i}" for i in range(len(selected))],
        },
        "query": f"how long is river {number}",
        "query_id": number,
        "query_type": "NUMERIC",
        "wellFormedAnswers": [],
        "split": split,
    }


def test_ms_marco_rows_share_passages_and_keep_what_people_selected() -> None:
    rows = [
        ms_marco_row(1, [0, 1, 0], ["3 km"]),
        ms_marco_row(2, [0, 0, 0], ["No Answer Present."], "validation"),
        ms_marco_row(3, [1, 0], ["short", "long"]),
    ]
    tables = admit(map_ms_marco(rows, "web_search", "ms_marco v2.1"))
    assert tables.queries.select("qid", "split", "gold_answer").rows() == [
        ("msmarco-1", "train", "3 km"),
        ("msmarco-2", "dev", None),
        ("msmarco-3", "train", "short"),
    ]
    assert tables.passages.height == 1 + 2 + 2 + 1
    assert sorted(tables.judgements["qid"].to_list()) == ["msmarco-1", "msmarco-3"]
    judged = tables.judgements.join(tables.passages, on="docid").sort("qid")["text"].to_list()
    assert judged == ["passage 1 1", "shared passage about rivers 0"]


def test_math_problems_are_each_others_passages_and_exclude_their_own_solution() -> None:
    rows = [
        {"problem": f"What is {i} + 1?", "level": "Level 1", "type": "Algebra", "solution": f"It is {i + 1}."}
        | {"subject": "algebra", "split": "test" if i == 0 else "train"}
        for i in range(6)
    ]
    tables = admit(map_math([*rows, rows[3]], "math", "hendrycks_math", limit=4))
    assert tables.passages.height == 6
    assert tables.queries.height == 4
    assert tables.judgements.height == 0
    assert all(len(excluded) == 1 for excluded in tables.queries["excluded_docids"])
    assert set(tables.queries["excluded_docids"].explode()) <= set(tables.passages["docid"])


def test_stack_exchange_questions_are_those_whose_best_answer_holds_a_link() -> None:
    def answer(number: int, text: str, score: int, selected: bool) -> dict[str, Any]:
        return {"answer_id": number, "author": "a", "pm_score": score, "selected": selected, "text": text}

    rows = [
        {
            "qid": 7,
            "question": "<p>Why do leaves&#39; colours change?</p><p>In <b>autumn</b>.</p>",
            "answers": [
                answer(71, '<p>See <a href="https://example.org/leaf">this</a>.</p>', 3, True),
                answer(72, "<p>Cold.</p>", 2, False),
                answer(73, "<p>Dunno.</p>", 0, False),
            ],
            "metadata": ["https://biology.stackexchange.com/questions/7", "https://biology.stackexchange.com"],
        },
        {"qid": 8, "question": "<p>No link?</p>", "answers": [answer(81, "<p>None.</p>", 5, True)], "metadata": []},
    ]
    tables = admit(map_stackexchange(rows, "complex_qa", "stack", "biology.stackexchange.com"))
    assert tables.queries.select("text", "gold_answer").rows() == [
        ("Why do leaves' colours change?\nIn autumn.", "See this.")
    ]
    assert tables.queries["url"].to_list() == ["https://biology.stackexchange.com/questions/7"]
    assert tables.judgements.select("docid", "grade").rows() == [
        ("biology.stackexchange.com-a71", 2),
        ("biology.stackexchange.com-a72", 1),
    ]
    assert tables.passages.height == 4
    assert set(tables.passages["license"]) == {"CC-BY-SA-4.0"}


def write_reasonrank(folder: Path) -> Path:
    rows = [
        {
            "dataset": "stackoverflow",
            "qid": "12",
            "initial_list": ["a page.txt", "b"],
            "final_list": ["b", "a page.txt"],
            "reasoning": "First, b.",
            "relevant_docids": ["b"],
        },
        {
            "dataset": "math-qa",
            "qid": "12",
            "initial_list": ["b", "c"],
            "final_list": ["c", "b"],
            "reasoning": "c.",
            "relevant_docids": ["c", "b"],
        },
    ]
    (folder / "training_data_all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind, texts in (
        ("id_query", {"stackoverflow": {"12": "How to sort?"}, "math-qa": {"12": "Why is it odd?"}}),
        (
            "id_doc",
            {"stackoverflow": {"a page.txt": "Pages.", "b": "Use sorted."}, "math-qa": {"b": "Odd.", "c": "Even."}},
        ),
    ):
        (folder / kind).mkdir(parents=True)
        for name, content in texts.items():
            (folder / kind / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_reasonrank_rows_keep_their_data_sets_apart_and_their_ids_free_of_spaces(tmp_path: Path) -> None:
    tables = admit(read_reasonrank(write_reasonrank(tmp_path), "reasonrank"))
    assert tables.queries.select("qid", "text", "source").sort("qid").rows() == [
        ("math-qa/12", "Why is it odd?", "reasonrank-math-qa"),
        ("stackoverflow/12", "How to sort?", "reasonrank-stackoverflow"),
    ]
    assert sorted(tables.passages["docid"]) == [
        "math-qa/b",
        "math-qa/c",
        "stackoverflow/a%20page.txt",
        "stackoverflow/b",
    ]
    assert sorted(tables.judgements.select("qid", "docid", "grade").rows()) == [
        ("math-qa/12", "math-qa/b", 1),
        ("math-qa/12", "math-qa/c", 1),
        ("stackoverflow/12", "stackoverflow/b", 1),
    ]


def test_one_reasonrank_data_set_can_be_taken_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    folder = write_reasonrank(tmp_path)
    assert read_reasonrank(folder, "math", "math-qa").queries["qid"].to_list() == ["math-qa/12"]
    with pytest.raises(ValueError, match="choose all or one of math-qa, stackoverflow"):
        read_reasonrank(folder, "math", "biology")


def test_a_sample_is_stable_when_keys_are_added() -> None:
    keys = [f"k{i}" for i in range(100)]
    before = {keys[i] for i in sample(keys, 20)}
    more = ["new", *keys]
    after = {more[i] for i in sample(more, 20)}
    assert len(before - after) <= 1


def test_markup_becomes_the_words_a_reader_sees() -> None:
    assert plain_text("<p>a &lt; b</p><pre><code>x = 1\ny</code></pre><ul><li>one</li></ul>") == "a < b\nx = 1\ny\none"


def test_the_loaders_read_published_layouts_through_datasets(tmp_path: Path) -> None:
    """The three `datasets` loaders on local copies of the hub's layouts: configs by name, and a folder per site."""
    marco, math, stack = tmp_path / "marco", tmp_path / "math", tmp_path / "stack"
    rows = [ms_marco_row(i, [0, 1], ["yes"]) for i in range(20)]
    for split in ("train", "validation"):
        write_rows(marco / "v2.1" / f"{split}.jsonl", [{k: v for k, v in row.items() if k != "split"} for row in rows])
        rows = [row | {"query_id": row["query_id"] + 100} for row in rows]
    describe(marco, {"v2.1": {split: f"v2.1/{split}.jsonl" for split in ("train", "validation")}})
    for subject in MATH_SUBJECTS:
        for split in ("train", "test"):
            problem = {"problem": f"{subject} {split}?", "level": "Level 1", "type": subject, "solution": "One."}
            write_rows(math / subject / f"{split}.jsonl", [problem])
    describe(math, {s: {split: f"{s}/{split}.jsonl" for split in ("train", "test")} for s in MATH_SUBJECTS})
    answers = [
        {"answer_id": 1, "pm_score": 2, "selected": True, "text": "<a href='https://x.org'>here</a>"},
        {"answer_id": 2, "pm_score": 0, "selected": False, "text": "no"},
    ]
    post = {"qid": 5, "question": "<p>Why?</p>", "answers": answers, "metadata": ["https://b.org/questions/5"]}
    write_rows(stack / "data" / "b.org" / "train.jsonl", [post])

    wanted = [
        ("ms_marco", str(marco), {"version": "v2.1", "queries": 10}),
        ("math", str(math), {"queries": 9}),
        ("stackexchange", str(stack), {"site": "b.org", "queries": 9}),
    ]
    code = (
        "from warehouse.intake.door import admit\n"
        "from warehouse.intake.hub import DATASETS\n"
        f"for name, place, options in {wanted!r}:\n"
        "    tables = admit(DATASETS[name].load(place, 'd', options))\n"
        "    print(name, tables.queries.height, tables.passages.height, tables.judgements.height)\n"
    )
    done = run_python(code, {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"})
    assert done.stdout.splitlines() == ["ms_marco 10 11 10", "math 9 14 0", "stackexchange 1 2 1"], done.stderr


def test_an_option_that_a_data_set_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="hub source ms_marco has no option 'site'; options: version, queries"):
        read_hub("ms_marco", "web", {"site": "x"})


@pytest.mark.parametrize("name", ["ms_marco", "math", "stackexchange", "reasonrank"])
def test_without_a_network_the_error_is_quick_and_names_the_offline_way(name: str) -> None:
    code = (
        "from warehouse.intake.hub import HubUnreachable\n"
        "from warehouse.intake.sources import HubSource, read_source\n"
        "try:\n"
        f"    read_source(HubSource({name!r}, 'far'))\n"
        "except HubUnreachable as error:\n"
        "    print(error)\n"
    )
    # A port nobody listens on: refused at once, wherever the tests run.
    start = time.monotonic()
    done = run_python(code, {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"})
    assert time.monotonic() - start < 20
    assert done.returncode == 0, done.stderr
    assert "cannot be reached" in done.stdout
    assert "--sources DIR" in done.stdout
    assert "HF_HOME" in done.stdout


def test_a_fingerprint_tells_options_apart_and_asks_nobody() -> None:
    assert HubSource("ms_marco", "a").fingerprint() == HubSource("ms_marco", "b", {"version": "v2.1"}).fingerprint()
    assert HubSource("ms_marco", "a").fingerprint() != HubSource("ms_marco", "a", {"version": "v1.1"}).fingerprint()
