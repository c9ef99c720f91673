"""Sets in others' formats, made by rule from the shipped seed: real prose, honest labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ranking.lists import assemble_list
from ranking.retrieval import first_stage
from ranking.trec import read_qrels
from warehouse.curation.rows import ROW_SCHEMA
from warehouse.formats.outgoing import COLUMNS, Outgoing

SEED = Path(__file__).resolve().parents[2] / "seed"
SET = "complex_qa"


def outgoing(rows: Sequence[dict[str, Any]], chunk: int = 2) -> Outgoing:
    """Rows that are in memory, handed on as a release's are."""
    whole = [{**dict.fromkeys(COLUMNS), "split": "sft", "domain": "math", **row} for row in rows]
    schema = {name: ROW_SCHEMA[name] for name in COLUMNS}
    frame = pl.DataFrame(whole, schema=schema, orient="row")

    sizes = {(d, split): size for d, split, size in frame.group_by("domain", "split").len().iter_rows()}
    return Outgoing("f" * 64, sizes, lambda: frame.sort("row_id").iter_slices(chunk))


def reasonrank_rows() -> tuple[list[dict[str, Any]], dict[str, str], dict[str, str]]:
    """Lists of the seed's training queries, their texts, and the passages': what an honest set holds."""
    queries = pl.read_ndjson(SEED / SET / "queries.jsonl").filter(pl.col("split") == "train")
    passages = pl.read_ndjson(SEED / SET / "passages.jsonl")
    qrels = read_qrels(SEED / SET / "qrels.tsv")
    texts = dict(passages.select("docid", "text").iter_rows())
    excluded = queries.with_columns(excluded_docids=pl.lit([], pl.List(pl.String)))
    found = first_stage(excluded, passages, 20)
    rows = []
    for qid in queries["qid"]:
        positives = qrels.filter((pl.col("qid") == qid) & (pl.col("grade") > 0))["docid"].to_list()
        others = found.filter(pl.col("qid") == qid).sort("rank")["docid"].to_list()
        made = assemble_list(qid, positives, [], others, texts, size=8)
        order = [*made.relevant, *(docid for docid in made.docids if docid not in made.relevant)]
        cited = " ".join(f"[{made.docids.index(docid) + 1}]" for docid in made.relevant)
        rows.append(
            {
                "dataset": SET, "qid": qid, "initial_list": list(made.docids), "final_list": order,
                "reasoning": f"The question turns on what {cited} says, so it comes first; the others are beside it.",
                "relevant_docids": list(made.relevant),
            }
        )  # fmt: skip
    return rows, dict(queries.select("qid", "text").iter_rows()), texts


def write_reasonrank(
    folder: Path, rows: Sequence[dict[str, Any]], queries: dict[str, str], passages: dict[str, str]
) -> Path:
    """The three kinds of file of the layout, for one data set."""
    for kind in ("id_query", "id_doc"):
        (folder / kind).mkdir(parents=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "training_data_all.jsonl").write_text(lines, "utf-8")
    (folder / "id_query" / f"{SET}.json").write_text(json.dumps(queries), "utf-8")
    (folder / "id_doc" / f"{SET}.json").write_text(json.dumps(passages), "utf-8")
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n\n# A set\n", "utf-8")
    return folder
