"""RankLLM's requests: a JSON array a domain, each request a query and the candidates to rerank, in the list's order.

    {domain}.json      [{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc": {"contents"}}]}]

`rank_llm.data.read_requests_from_file` reads it. A score is the number of candidates from this one to the end.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.formats.files import FormatError, JsonArray, read_json, read_lines
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing

TEXT_FIELDS = ("text", "segment", "contents", "content", "body", "passage")
"""Where RankLLM looks for a candidate's text, in its order."""
LACKS = ("labels and the teacher's order", "reasoning", "split", "teacher", "licences", "consistency")
_REMEDY = 'A request is {"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc"}]}.'


def write(rows: Outgoing, folder: Path) -> dict[str, int]:
    """One file a domain; returns the requests written."""
    with ExitStack() as stack:
        files = {domain: stack.enter_context(JsonArray(folder / f"{domain}.json")) for domain in rows.domains}
        written = 0
        for domain, frame in rows.by("domain"):
            files[domain].write(_requests(frame))
            written += frame.height
    return {"requests": written}


def read(folder: Path, template: str = "") -> Incoming:  # noqa: ARG001 - every reader is called alike
    """The requests of every .json and .jsonl file of the folder; a file is a domain. Raises FormatError."""
    told: list[dict[str, Any]] = []
    texts: dict[tuple[str, str], str] = {}
    files = sorted(path for path in folder.glob("*.json*") if path.name != "export.json")
    if not files:
        raise FormatError(f"{folder}: holds no .json or .jsonl file of requests. {_REMEDY}")
    for path in files:
        for place, row in _rows(path):
            try:
                qid, query = str(row["query"]["qid"]), row["query"]["text"]
                held = {str(one["docid"]): _text(one["doc"]) for one in row["candidates"]}
                shown = [str(one["docid"]) for one in row["candidates"]]
            except (KeyError, TypeError, StopIteration):
                raise FormatError(f"{path.parent / place}: not a request. {_REMEDY}") from None
            told.append({"place": place, "domain": path.stem, "qid": qid, "query": query, "initial_list": shown})
            texts |= {(path.stem, docid): text for docid, text in held.items()}
    return incoming("rankllm", folder, told, texts, LACKS)


def _rows(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return read_lines(path, _REMEDY)
    value = read_json(path, _REMEDY)
    if not isinstance(value, list):
        raise FormatError(f"{path}: not a JSON array of requests. {_REMEDY}")
    return ((f"{path.name}:{number}", row) for number, row in enumerate(value, start=1))


def _text(doc: dict[str, Any]) -> str:
    text = str(doc[next(name for name in TEXT_FIELDS if name in doc)])
    return f"{doc['title']}. {text}" if doc.get("title") else text


def _requests(frame: pl.DataFrame) -> pl.DataFrame:
    size = pl.col("docids").list.len().cast(pl.Int64)
    numbered = frame.select(
        "row_id", "qid", "query", docid="docids", contents="passages",
        score=pl.int_ranges(size, 0, -1, dtype=pl.Int64).cast(pl.List(pl.Float64)),
    )  # fmt: skip
    return (
        numbered.explode("docid", "contents", "score")
        .group_by("row_id", maintain_order=True)
        .agg(
            query=pl.struct(text="query", qid="qid").first(),
            candidates=pl.struct("docid", "score", doc=pl.struct("contents")),
        )
        .drop("row_id")
    )
