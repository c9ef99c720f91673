"""What other people's programs say: trec_eval through pytrec_eval, and where the real runs and judgements lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import pytrec_eval

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data is not at {SHARED}")

Scores = dict[str, dict[str, float]]
Grades = dict[str, dict[str, int]]


def trec_names(measures: Sequence[str]) -> dict[str, str]:
    """trec_eval's name of each of ours, in its output form."""
    whole = {"nDCG": "ndcg", "RR": "recip_rank", "AP": "map"}
    cut = {"nDCG": "ndcg_cut", "R": "recall", "P": "P"}
    return {m: f"{cut[m.split('@')[0]]}_{m.split('@')[1]}" if "@" in m else whole[m] for m in measures}


def trec_eval(run: Scores, qrels: Grades, measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """qid -> measure -> value for the queries that run and qrels share (trec_eval passes over the others).

    A query whose judgements are all negative is kept from it: trec_eval crashes on one, sooner or later. Nothing is
    relevant to such a query, so every measure is 0, as for one that it passes over.
    """
    names = trec_names(measures)
    cuts = {name.rsplit("_", 1)[0] + "." + name.rsplit("_", 1)[1] if "@" in m else name for m, name in names.items()}
    safe = {qid: judged for qid, judged in qrels.items() if max(judged.values()) >= 0}
    found = pytrec_eval.RelevanceEvaluator(safe, cuts).evaluate(run) if safe else {}
    return {qid: {m: values[name] for m, name in names.items()} for qid, values in found.items()}


def trec_eval_of_order(order: Sequence[int], relevant: Sequence[int], measures: Sequence[str]) -> dict[str, float]:
    """The measures of one order of positions under binary relevance."""
    run = {"q": {str(position): float(-rank) for rank, position in enumerate(order)}}
    return trec_eval(run, {"q": {str(position): 1 for position in relevant}}, measures)["q"]
