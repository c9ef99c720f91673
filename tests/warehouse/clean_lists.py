"""Lists without a fault, and the means to plant one: what the tests of single filters share."""

from __future__ import annotations

from typing import Any

import polars as pl

from warehouse.curation.filters import KEPT, PASSAGES, ROWS, Filter, Judged, Lists

DOMAIN = "biology"
TEXTS = {
    "d1": "Cones give colour and fine detail, but they need plenty of light before they answer at all.",
    "d2": "Rods pool their signals over many cells and register light so faint that only single photons arrive.",
    "d3": "As a thick lava flow cools it shrinks and cracks, and the cracks meet in a roughly hexagonal net.",
    "d4": "The iris opens in the dark, which lets through about sixteen times the light of a bright noon.",
    "d5": "def median(values):\n    ordered = sorted(values)\n    return ordered[len(ordered) // 2]",
}
GOLD = (
    "At night only the rods answer, and since every rod holds the same pigment the brain has nothing to compare, so "
    "what is left of the scene is brightness alone and never hue."
)


def row(ranking_id: str = "clean", **changed: Any) -> dict[str, Any]:
    """A list of three passages without a fault, with `changed` columns."""
    return {
        "ranking_id": ranking_id, "domain": DOMAIN, "qid": ranking_id, "query": "Why do we see no colours at night?",
        "gold_answer": GOLD, "docids": ["d1", "d2", "d3"], "final_order": [1, 0, 2], "relevant": [1],
        "reasoning": "[2] is about faint light, [1] about colour; [3] is about lava. So [2] comes first.",
        "exchange_key": "key", "prompt_sha256": "prompt", "judge": "stand-in-teacher", "consistency": 1.0,
        "agreement": None, "source": "tiny", "license": "CC0-1.0", "url": None, **changed,
    }  # fmt: skip


def lists(*rows: dict[str, Any], texts: dict[str, str] | None = None, license: str = "CC0-1.0") -> Lists:
    """`rows` beside a clean one, with the passages TEXTS and `texts`."""
    held = [(DOMAIN, docid, text, "tiny", license) for docid, text in {**TEXTS, **(texts or {})}.items()]
    passages = pl.DataFrame(held, schema=PASSAGES, orient="row")
    return Lists(pl.DataFrame([row(), *rows], schema=ROWS), passages)


def faults(judged: Judged) -> set[tuple[str, str, str]]:
    """(ranking_id, outcome, reason) of every decision that is not `kept`."""
    told = judged.decisions.filter(pl.col("outcome") != KEPT)
    return set(told.select("ranking_id", "outcome", "reason").iter_rows())


def judge(filter_: Filter, given: Lists) -> Judged:
    """What the filter says, after a look that it has decided about every list and lost none."""
    judged = filter_(given)
    assert set(judged.decisions["ranking_id"]) == set(given.rows["ranking_id"])
    rejected = judged.decisions.filter(pl.col("outcome") == "rejected")["ranking_id"].unique()
    assert sorted([*judged.lists.rows["ranking_id"], *rejected]) == sorted(given.rows["ranking_id"])
    return judged
