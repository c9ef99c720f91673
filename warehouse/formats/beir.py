"""BEIR's layout, a folder a domain: what a list's passages, query and labels are, without any order.

    {domain}/corpus.jsonl        {"_id", "title", "text"}
    {domain}/queries.jsonl       {"_id", "text"}
    {domain}/qrels/{split}.tsv   query-id, corpus-id, score under a header: 1 relevant, 0 in the list and not relevant

`GenericDataLoader(folder / domain).load(split="sft")` reads it. A title stays empty: the text of a release is title and
body in one.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from warehouse.formats.files import FormatError, Lines, read_lines, read_text
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing, Texts
from warehouse.formats.whole_folder import ExportRefused

HEADER = "query-id\tcorpus-id\tscore"
LACKS = ("the order of a list and the teacher's order", "reasoning", "teacher", "licences", "consistency")
_REMEDY = "A BEIR folder holds corpus.jsonl, queries.jsonl and qrels/{split}.tsv."


def write(rows: Outgoing, folder: Path) -> dict[str, int]:
    """A folder a domain; returns the queries written. Raises ExportRefused where an id cannot stand in a TSV."""
    written = 0
    with ExitStack() as stack:
        queries, corpora = (
            {name: stack.enter_context(Lines(folder / name / file)) for name in rows.domains}
            for file in ("queries.jsonl", "corpus.jsonl")
        )
        labels = {key: stack.enter_context(_qrels(folder / key[0] / "qrels" / f"{key[1]}.tsv")) for key in rows.sizes}
        query_texts = {name: Texts("query", name) for name in rows.domains}
        passage_texts = {name: Texts("passage", name) for name in rows.domains}
        for name, frame in rows.by("domain"):
            asked = query_texts[name].fresh(frame["qid"], frame["query"])
            queries[name].write(asked.rename({"id": "_id"}))
            held = frame.select("docids", "passages").explode("docids", "passages")
            fresh = passage_texts[name].fresh(held["docids"], held["passages"])
            corpora[name].write(fresh.select(_id="id", title=pl.lit(""), text="text"))
            for part in frame.partition_by("split", maintain_order=True):
                labels[name, part["split"][0]].writelines(_labels(part, name))
            written += asked.height
    return {"queries": written}


def read(folder: Path, template: str = "") -> Incoming:  # noqa: ARG001 - every reader is called alike
    """A BEIR folder, or every one in a folder: a query's judged passages are its list. Raises FormatError."""
    homes = [folder] if (folder / "corpus.jsonl").is_file() else sorted(p.parent for p in folder.glob("*/corpus.jsonl"))
    if not homes:
        raise FormatError(f"{folder}: no corpus.jsonl here or one folder below. {_REMEDY}")
    told: list[dict[str, Any]] = []
    texts: dict[tuple[str, str], str] = {}
    for home in homes:
        asked = dict(_texts(home / "queries.jsonl"))
        texts |= {(home.name, name): text for name, text in _texts(home / "corpus.jsonl")}
        for path in sorted((home / "qrels").glob("*.tsv")):
            judged: dict[str, list[tuple[str, int]]] = {}
            for qid, docid, grade in _judgements(path):
                judged.setdefault(qid, []).append((docid, grade))
            told += [
                {
                    "place": f"{home.name}/qrels/{path.name}:{qid}", "domain": home.name, "qid": qid,
                    "query": asked.get(qid), "initial_list": [docid for docid, _ in pairs],
                    "relevant_docids": [docid for docid, grade in pairs if grade > 0], "split": path.stem,
                }
                for qid, pairs in judged.items()
            ]  # fmt: skip
    return incoming("beir", folder, told, texts, LACKS)


def _qrels(path: Path) -> TextIO:
    path.parent.mkdir(exist_ok=True)
    file = path.open("w", encoding="utf-8", newline="\n")
    file.write(f"{HEADER}\n")
    return file


def _labels(frame: pl.DataFrame, domain: str) -> pl.Series:
    relevant = pl.col("place").is_in(pl.col("relevant"))
    rows = frame.select(
        "qid", "relevant", docid="docids", place=pl.int_ranges(0, pl.col("docids").list.len(), dtype=pl.Int64)
    ).explode("docid", "place")
    for name in ("qid", "docid"):
        broken = rows.filter(pl.col(name).str.contains(r"[\t\r\n]"))
        if broken.height:
            raise ExportRefused(
                f"the {name} {broken[name][0]!r} of {domain} holds a tab or a line break, which a TSV cannot. Nothing "
                "was written. Export another --format."
            )
    rows = rows.drop_nulls("docid")
    return rows.select(pl.format("{}\t{}\t{}\n", "qid", "docid", relevant.cast(pl.Int64))).to_series()


def _texts(path: Path) -> list[tuple[str, str]]:
    found = []
    for place, row in read_lines(path, _REMEDY):
        if not isinstance(row.get("text"), str) or "_id" not in row:
            raise FormatError(f"{path.parent / place}: a row needs _id and text. Mend the line.")
        title = row.get("title")
        found.append((str(row["_id"]), f"{title}. {row['text']}" if title else row["text"]))
    return found


def _judgements(path: Path) -> list[tuple[str, str, int]]:
    found = []
    for number, line in enumerate(read_text(path, _REMEDY).split("\n"), start=1):
        fields = line.rstrip("\r").split("\t")
        if fields == [""] or (number == 1 and fields[:2] == ["query-id", "corpus-id"]):
            continue
        try:
            found.append((fields[0], fields[1], int(fields[2])))
        except (IndexError, ValueError):
            raise FormatError(
                f"{path}:{number}: not `query-id, tab, corpus-id, tab, whole number`. Mend the line."
            ) from None
    return found
