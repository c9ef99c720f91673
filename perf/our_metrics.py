"""The contestant `ours` of `metrics.py`: ranking.trec and ranking.metrics, from a file, from frames and from arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from measuring import MEASURES, Means, compete

from ranking.metrics import evaluate, evaluate_arrays
from ranking.trec import read_qrels, read_run


def prepare(run_file: Path, qrels_file: Path) -> dict[str, Callable[[], Means]]:
    """Frames as the files are read, and arrays with a row a query in which every document has its grade."""
    run, qrels = read_run(run_file), read_qrels(qrels_file)
    graded = run.join(qrels, on=["qid", "docid"], how="left").sort("qid", maintain_order=True)
    queries = qrels["qid"].n_unique()
    scores = graded["score"].to_numpy().reshape(queries, -1)
    grades = graded["grade"].fill_null(0).to_numpy().reshape(queries, -1)
    docs = graded["docid"].rank("dense").to_numpy().reshape(queries, -1)
    judged = qrels.sort("qid")["grade"].to_numpy().reshape(queries, -1)

    def from_arrays() -> Means:
        return {name: float(np.mean(v)) for name, v in evaluate_arrays(scores, grades, judged, MEASURES, docs).items()}

    return {
        "file": lambda: _means(evaluate(read_run(run_file), read_qrels(qrels_file), MEASURES)),
        "frames": lambda: _means(evaluate(run, qrels, MEASURES)),
        "memory": from_arrays,
    }


def _means(per_query: pl.DataFrame) -> Means:
    return {name: float(per_query[name].to_numpy().mean()) for name in MEASURES}


if __name__ == "__main__":
    compete(prepare)
