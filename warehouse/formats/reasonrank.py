"""ReasonRank's released layout: one line a list, texts in one JSON object a data set.

    training_data_all.jsonl     dataset, qid, initial_list, final_list, reasoning, relevant_docids
    id_query/{dataset}.json     {qid: text}
    id_doc/{dataset}.json       {docid: text}

A domain of a release is a data set. The same reader serves the audit of such a folder, a folder as a source, and the
published set on the hub. A folder's licence is what the header of its README.md states, if it has one.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from warehouse.formats.files import FormatError, JsonObject, Lines, members, read_json, read_lines
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing, Texts, with_lists

ROWS_FILE, QUERIES, PASSAGES = "training_data_all.jsonl", "id_query", "id_doc"
FIELDS = ("dataset", "qid", "initial_list", "final_list", "reasoning", "relevant_docids")
LACKS = ("split", "teacher", "licence and address of a text", "consistency", "prompt and exchange behind a chain")
_LISTS = ("initial_list", "final_list", "relevant_docids")
_REMEDY = (
    f"A folder in ReasonRank's layout holds {ROWS_FILE}, {QUERIES}/{{dataset}}.json and {PASSAGES}/{{dataset}}.json."
)
_LICENSE = re.compile(r"\A---\n.*?^license:\s*['\"]?([\w.+-]+)['\"]?\s*$.*?^---$", re.MULTILINE | re.DOTALL)
_SPDX = {"mit": "MIT", "apache-2.0": "Apache-2.0", "cc0-1.0": "CC0-1.0", "odc-by": "ODC-By-1.0"}


def is_reasonrank(folder: Path) -> bool:
    """Whether a folder is in this layout."""
    return (folder / ROWS_FILE).is_file()


def files_of(folder: Path) -> list[Path]:
    """The files that the layout is made of, in a fixed order."""
    texts = [path for kind in (QUERIES, PASSAGES) for path in sorted((folder / kind).glob("*.json"))]
    return [folder / ROWS_FILE, *texts]


def write(rows: Outgoing, folder: Path) -> dict[str, int]:
    """Returns the lists written. Raises ExportRefused where an id has two texts."""
    written = 0
    with ExitStack() as files, Lines(folder / ROWS_FILE) as lists:
        queries, passages = (
            {name: files.enter_context(JsonObject(folder / kind / f"{name}.json")) for name in rows.domains}
            for kind in (QUERIES, PASSAGES)
        )
        query_texts = {name: Texts("query", name) for name in rows.domains}
        passage_texts = {name: Texts("passage", name) for name in rows.domains}
        for name, frame in rows.by("domain"):
            lists.write(with_lists(frame).rename({"domain": "dataset"}).select(FIELDS))
            queries[name].write_values(members(query_texts[name].fresh(frame["qid"], frame["query"])))
            held = frame.select("docids", "passages").explode("docids", "passages")
            passages[name].write_values(members(passage_texts[name].fresh(held["docids"], held["passages"])))
            written += frame.height
    return {"lists": written}


def read(folder: Path, template: str = "") -> Incoming:  # noqa: ARG001 - every reader is called alike
    """The lists of a folder. Raises FormatError naming file and line."""
    rows = list(read_rows(folder))
    query_texts, passage_texts = read_texts(folder, sorted({row["dataset"] for row in rows}))
    told = (
        {
            "place": row["place"], "domain": row["dataset"], "qid": row["qid"],
            "query": query_texts[row["dataset"]].get(row["qid"]), "reasoning": row["reasoning"],
            "source": f"reasonrank-{row['dataset']}",
            **{name: row[name] for name in _LISTS},
        }
        for row in rows
    )  # fmt: skip
    needed = {(row["dataset"], docid) for row in rows for docid in row["initial_list"]}
    texts = {
        (dataset, docid): text
        for dataset, held in passage_texts.items()
        for docid, text in held.items()
        if (dataset, docid) in needed
    }
    return incoming("reasonrank", folder, told, texts, LACKS, stated_license(folder))


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of training_data_all.jsonl, ids as strings, each with its `place`. Raises FormatError."""
    path = folder / ROWS_FILE
    for place, row in read_lines(path, _REMEDY):
        where = f"{path.parent / place}"
        if missing := [name for name in FIELDS if name not in row and name != "reasoning"]:
            raise FormatError(f"{where}: field {missing[0]!r} is missing. A row has {', '.join(FIELDS)}.")
        for name in _LISTS:
            if not isinstance(row[name], list):
                raise FormatError(f"{where}: {name} is {type(row[name]).__name__}, not a list of ids. Mend the row.")
        yield {
            "place": place, "dataset": str(row["dataset"]), "qid": str(row["qid"]),
            "reasoning": row.get("reasoning"), **{name: [str(docid) for docid in row[name]] for name in _LISTS},
        }  # fmt: skip


def read_texts(folder: Path, names: list[str]) -> tuple[dict[str, Mapping[str, str]], dict[str, Mapping[str, str]]]:
    """Texts of queries and of passages by data set and id. Raises FormatError."""
    return (
        {name: _texts(folder / QUERIES / f"{name}.json") for name in names},
        {name: _texts(folder / PASSAGES / f"{name}.json") for name in names},
    )


def stated_license(folder: Path) -> str | None:
    """The licence that the header of README.md states, as an SPDX id where it is a common one."""
    readme = folder / "README.md"
    found = _LICENSE.match(readme.read_text("utf-8", errors="replace")) if readme.is_file() else None
    if found is None or found[1] in ("other", "unknown"):
        return None
    return _SPDX.get(found[1].lower(), found[1].upper())


def _texts(path: Path) -> Mapping[str, str]:
    value = read_json(path, _REMEDY)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError(f'{path}: not an object of texts by id. Write {{"id": "text", ...}}.')
    return value
