"""From a TREC run and two JSON-lines files to the lists that a model orders.

Only the passages that the run names are kept, so that a run over a large corpus needs the memory of its candidates.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from ranking.prompts import titled
from ranking.trec import read_run


class RerankInputError(ValueError):
    """Run, queries and passages do not fit together; the message names the first that is missing."""


@dataclass(frozen=True)
class CandidateList:
    """A query and its candidates, the first stage's best first."""

    qid: str
    query: str
    docids: tuple[str, ...]
    texts: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of what a model reads of it: equal lists are ordered once."""
        return hashlib.sha256(json.dumps([self.query, self.texts]).encode()).hexdigest()


def read_lists(run: Path, queries: Path, passages: Path) -> list[CandidateList]:
    """The lists of `run`, by qid. Raises RerankInputError and TrecFileError."""
    ranked = read_run(run)
    if (twice := ranked.filter(pl.struct("qid", "docid").is_duplicated())).height:
        raise RerankInputError(f"{run}: docid {twice['docid'][0]!r} stands more than once. Give each one line.")
    asked = _texts(queries, "qid", set(ranked["qid"]))
    texts = _texts(passages, "docid", set(ranked["docid"]))
    return lists_of(ranked, run, (asked, queries), (texts, passages))


def lists_of(
    ranked: pl.DataFrame, run: Path, queries: tuple[Mapping[str, str], Path], passages: tuple[Mapping[str, str], Path]
) -> list[CandidateList]:
    """The lists of a run (qid, docid, score) by qid; texts by id, and the files that they are from.

    Raises RerankInputError where a text is missing.
    """
    for key, (known, path) in (("qid", queries), ("docid", passages)):
        if missing := sorted(set(ranked[key]) - known.keys()):
            raise RerankInputError(
                f"{run}: {key} {missing[0]!r} and {len(missing) - 1} others are not in {path}. "
                f"Give the file that the run was made from."
            )
    asked, texts = queries[0], passages[0]
    # As trec_eval reads a run: by score, ties by docid; the rank column is not trusted.
    ordered = ranked.sort("qid", "score", "docid", descending=[False, True, True])
    grouped = ordered.group_by("qid", maintain_order=True).agg("docid")
    return [
        CandidateList(qid, asked[qid], tuple(docids), tuple(texts[docid] for docid in docids))
        for qid, docids in grouped.iter_rows()
    ]


def _texts(path: Path, key: str, wanted: set[str]) -> dict[str, str]:
    """Texts by id, of the ids that are wanted; none may be there twice."""
    found: dict[str, str] = {}
    for row in _lines(path, key):
        if row[key] not in wanted:
            continue
        if row[key] in found:
            raise RerankInputError(f"{path}: {key} {row[key]!r} stands more than once. Give each one line.")
        found[row[key]] = titled(row.get("title"), row["text"]) if key == "docid" else row["text"]
    return found


def _lines(path: Path, key: str) -> Iterator[dict]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                line = content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content
                if not line.strip():
                    continue
                row = json.loads(line.decode("utf-8"))
                for field in (key, "text"):
                    if not isinstance(row, dict) or not isinstance(row.get(field), str):
                        raise RerankInputError(
                            f"{path}:{number}: no text field {field!r}. Every line needs {key}, text."
                        )
                yield row
    except (OSError, UnicodeDecodeError) as error:
        raise RerankInputError(
            f"{path}:{number}: cannot be read ({error}). Check the path and save it as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        raise RerankInputError(f"{path}:{number}: not JSON ({error.msg}). Write one JSON object a line.") from None
