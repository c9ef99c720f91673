"""TREC files by domain: the list as it was shown, the teacher's order, and the labels.

    {domain}/initial.trec, {domain}/teacher.trec     qid Q0 docid rank score tag
    {domain}/qrels.tsv                               qid 0 docid grade: 1 relevant, 0 in the list and not relevant

`rankmill score --run {domain}/teacher.trec --qrels {domain}/qrels.tsv` measures the teacher. A score is the number of
passages from this one to the end of its list, so that the order by score is the order by rank.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from ranking.trec import qrels_lines, read_qrels, read_run, run_lines
from warehouse.formats.files import FormatError
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing, with_lists
from warehouse.formats.whole_folder import ExportRefused

INITIAL, TEACHER, QRELS = "initial.trec", "teacher.trec", "qrels.tsv"
LACKS = ("texts of queries and passages", "reasoning", "split", "teacher", "licences", "consistency")


def write(rows: Outgoing, folder: Path) -> dict[str, int]:
    """Three files a domain; returns the lists written. Raises ExportRefused, or TrecFileError for ids with blanks."""
    written = 0
    with ExitStack() as stack:
        files = {}
        for name in (INITIAL, TEACHER, QRELS):
            for domain in rows.domains:
                path = folder / domain / name
                path.parent.mkdir(exist_ok=True)
                files[domain, name] = stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
        known: dict[str, set[str]] = {domain: set() for domain in rows.domains}
        for domain, frame in rows.by("domain"):
            _refuse_second_lists(domain, frame["qid"], known[domain])
            lists, at = with_lists(frame), folder / domain
            files[domain, INITIAL].writelines(run_lines(_run(lists, "initial_list"), "initial", at / INITIAL))
            files[domain, TEACHER].writelines(run_lines(_run(lists, "final_list"), "teacher", at / TEACHER))
            files[domain, QRELS].writelines(qrels_lines(_labels(lists), at / QRELS))
            written += frame.height
    return {"lists": written}


def read(folder: Path, template: str = "") -> Incoming:  # noqa: ARG001 - every reader is called alike
    """The lists of every domain below the folder. Raises FormatError, TrecFileError."""
    told: list[dict[str, Any]] = []
    homes = sorted(path.parent for path in folder.glob(f"*/{INITIAL}"))
    if not homes:
        raise FormatError(
            f"{folder}: no folder in it holds {INITIAL}. Give a folder with {INITIAL}, {TEACHER}, {QRELS} a domain."
        )
    for home in homes:
        initial = _lists(read_run(home / INITIAL))
        teacher = _lists(read_run(home / TEACHER)) if (home / TEACHER).is_file() else {}
        labels = read_qrels(home / QRELS).filter(pl.col("grade") > 0)
        relevant = dict(labels.group_by("qid", maintain_order=True).agg("docid").iter_rows())
        told += [
            {
                "place": f"{home.name}/{INITIAL}:{qid}", "domain": home.name, "qid": qid, "initial_list": docids,
                "final_list": teacher.get(qid), "relevant_docids": relevant.get(qid, []),
            }
            for qid, docids in initial.items()
        ]  # fmt: skip
    return incoming("trec", folder, told, {}, LACKS)


def _run(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    size = pl.col(column).list.len().cast(pl.Int64)
    rank = pl.int_ranges(1, size + 1, dtype=pl.Int64)
    score = pl.int_ranges(size, 0, -1, dtype=pl.Int64).cast(pl.List(pl.Float64))
    columns = frame.select("qid", docid=column, rank=rank, score=score)
    return columns.explode("docid", "rank", "score").drop_nulls("docid")


def _labels(frame: pl.DataFrame) -> pl.DataFrame:
    shown = frame.select("qid", "relevant_docids", docid="initial_list").explode("docid").drop_nulls("docid")
    return shown.select("qid", "docid", grade=pl.col("docid").is_in(pl.col("relevant_docids")).cast(pl.Int64))


def _lists(run: pl.DataFrame) -> dict[str, list[str]]:
    return dict(run.sort("rank", maintain_order=True).group_by("qid", maintain_order=True).agg("docid").iter_rows())


def _refuse_second_lists(domain: str, qids: pl.Series, known: set[str]) -> None:
    for qid in qids:
        if qid in known:
            raise ExportRefused(
                f"query {qid!r} of {domain} has two lists in the release, and a TREC run holds one a query. "
                "Nothing was written. Export one --split, or another --format."
            )
        known.add(qid)
