"""A part of a benchmark as a folder, fetched by `rankmill benchmark fetch` or brought by somebody.

    queries.jsonl     qid, text; retrieval_text where the first stage reads another; excluded_docids
    passages.jsonl    docid, text, title
    qrels.tsv         qid 0 docid grade
    *.trec            a first stage's run, where there is one; else BM25 is run

qrels.tsv alone with a run is enough to score that run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ranking.trec import qrels_lines, read_qrels, read_run, write_run
from warehouse.benchmarks.loading import PASSAGES, QUERIES, Texts, texts
from warehouse.benchmarks.registry import BenchmarkError

JUDGED, ASKED, SEARCHED, FIRST = "qrels.tsv", "queries.jsonl", "passages.jsonl", "first_stage.trec"


def write_folder(found: Texts, folder: Path) -> None:
    """The folder of a part, whole or not at all; one that is there already is replaced."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    found.queries.with_columns(split=pl.lit("benchmark-do-not-train")).write_ndjson(part / ASKED)
    found.passages.write_ndjson(part / SEARCHED)
    (part / JUDGED).write_text("".join(qrels_lines(found.judgements, part / JUDGED)), encoding="utf-8")
    if found.first_stage is not None:
        write_run(part / FIRST, found.first_stage, "first-stage")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def read_folder(folder: Path, name: str, run: Path | None = None) -> Texts:
    """A part from its folder, with `run` in place of the run that it holds.

    Raises BenchmarkError, and TrecFileError for qrels or a run that cannot be read.
    """
    if not (folder / JUDGED).is_file():
        raise BenchmarkError(f"{folder}: holds no {JUDGED}. Give a folder with {JUDGED}, {ASKED} and {SEARCHED}.")
    asked: list[tuple] = []
    if (folder / ASKED).is_file():
        for row in json_lines(folder / ASKED, "qid"):
            rewritten = row.get("retrieval_text")
            asked.append(
                (row["qid"], row["text"], rewritten or None, [str(x) for x in row.get("excluded_docids") or ()])
            )
    searched: list[tuple] = []
    if (folder / SEARCHED).is_file():
        searched = [(row["docid"], row.get("title"), row["text"]) for row in json_lines(folder / SEARCHED, "docid")]
    runs = sorted(folder.glob("*.trec")) if run is None else [run]
    if len(runs) > 1:
        raise BenchmarkError(f"{folder}: holds {len(runs)} runs. Name the first stage with --run.")
    first = (read_run(runs[0]), runs[0]) if runs else (None, None)
    judged = read_qrels(folder / JUDGED)
    if not asked:
        empty = pl.DataFrame(schema=QUERIES), pl.DataFrame(searched, schema=PASSAGES, orient="row")
        return Texts(name, *empty, judged, *first)
    found = texts(name, asked, searched, judged.iter_rows())
    return Texts(name, found.queries, found.passages, found.judgements, *first)


def json_lines(file: Path, key: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON Lines file with an id, made a string, and a text. Raises BenchmarkError with file and line."""
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            row[key], text = str(row[key]), row["text"]
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
            text = None
        if not isinstance(text, str):
            raise BenchmarkError(
                f"{file}:{number}: not a JSON object (UTF-8) with {key} and text. Mend or remove the line."
            )
        yield row
