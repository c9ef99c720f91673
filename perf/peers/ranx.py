"""The contestant `ranx` of `metrics.py`: its Run and Qrels, compiled by numba before the clock starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from measuring import Means, compete
from ranx import Qrels, Run, evaluate

NAMES = {"nDCG@10": "ndcg@10", "R@10": "recall@10", "R@100": "recall@100", "RR": "mrr", "AP": "map"}


def prepare(run_file: Path, qrels_file: Path) -> dict[str, Callable[[], Means]]:
    """A Run and a Qrels."""
    run, qrels = Run.from_file(str(run_file), kind="trec"), Qrels.from_file(str(qrels_file), kind="trec")

    def from_file() -> Means:
        return _means(Qrels.from_file(str(qrels_file), kind="trec"), Run.from_file(str(run_file), kind="trec"))

    return {"file": from_file, "memory": lambda: _means(qrels, run)}


def _means(qrels: Qrels, run: Run) -> Means:
    values = evaluate(qrels, run, list(NAMES.values()))
    return {name: float(values[theirs]) for name, theirs in NAMES.items()}


if __name__ == "__main__":
    compete(prepare)
