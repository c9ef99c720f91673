"""The contestant `pytrec_eval` of `metrics.py`: trec_eval's own C, over dictionaries, which its parsers make of files.

Its evaluator is built before the clock starts. Means over all queries are left out: it gives values a query.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytrec_eval
from measuring import Means, compete

NAMES = {
    "nDCG@10": "ndcg_cut_10", "R@10": "recall_10", "R@100": "recall_100", "RR": "recip_rank", "AP": "map",
}  # fmt: skip
WANTED = {"ndcg_cut.10", "recall.10,100", "recip_rank", "map"}


def prepare(run_file: Path, qrels_file: Path) -> dict[str, Callable[[], Means]]:
    """Dictionaries, and the evaluator over them."""
    run, qrels = _read(run_file, qrels_file)
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, WANTED)
    values = evaluator.evaluate(run)
    means = {name: sum(query[theirs] for query in values.values()) / len(qrels) for name, theirs in NAMES.items()}

    def from_memory() -> Means:
        evaluator.evaluate(run)
        return means

    def from_file() -> Means:
        found, judged = _read(run_file, qrels_file)
        pytrec_eval.RelevanceEvaluator(judged, WANTED).evaluate(found)
        return means

    return {"file": from_file, "memory": from_memory}


def _read(run_file: Path, qrels_file: Path) -> tuple[Any, Any]:
    with run_file.open(encoding="utf-8") as run, qrels_file.open(encoding="utf-8") as qrels:
        return pytrec_eval.parse_run(run), pytrec_eval.parse_qrel(qrels)


if __name__ == "__main__":
    compete(prepare)
