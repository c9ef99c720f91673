"""What was measured here of a benchmark, beside what others published for it.

    for board in boards_of(lake.read("benchmark_scores"), registered(folder)):
        board.rows                                    # `origin` is here or published; each row has its setting

A row is a dict: part, system, origin, measures (by name, 0 to 1) and setting; one from here also has model, queries,
low, high, malformed_rate, run, run_sha256 and created_at, and where a model ranked it, versus (the paired comparison
with the first stage that it ranked) and costs (of a query). Deliberately absent: any ranking of the rows. Two numbers
compare only as far as their settings do.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from ranking.metrics import DEFAULT_MEASURES
from ranking.statistics import holm
from warehouse.benchmarks.registry import AVERAGE, Benchmark
from warehouse.lake import canonical_sha256

HERE, PUBLISHED = "here", "published"


@dataclass(frozen=True)
class Board:
    """A part of a benchmark, and the rows that were measured on it."""

    part: str
    benchmark: Benchmark
    rows: tuple[dict[str, Any], ...]


def boards_of(scores: pl.DataFrame, registered: Sequence[Benchmark]) -> list[Board]:
    """A board for every part that has rows in `scores` (table benchmark_scores), by its name.

    A part that is not registered is a folder that somebody brought, with nothing published for it.
    """
    of_part = {part: one for one in registered for part in one.parts}
    read = [_read(row) for row in scores.sort("part", "created_at").iter_rows(named=True)]
    found = []
    for name, rows in groupby(corrected(read), key=lambda row: str(row["part"])):
        ours = list(rows)
        benchmark = of_part.get(name) or unregistered(name, tuple(ours[0]["measures"]))
        found.append(Board(name, benchmark, (*ours, *published(benchmark, name))))
    return found


def _read(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: json.loads(row[name] or "null") for name in ("measures", "setting", "versus", "costs")}
    return {**row, **told, "origin": HERE}


def corrected(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose comparisons also have p_holm: corrected by Holm for all of them that stand beside one another."""
    compared = [row for row in rows if row["versus"]]
    p = dict(zip(map(id, compared), holm([row["versus"]["p"] for row in compared]), strict=True))
    return [{**row, "versus": {**row["versus"], "p_holm": p[id(row)]}} if id(row) in p else row for row in rows]


def published(benchmark: Benchmark, part: str) -> list[dict[str, Any]]:
    """What others reported for a part."""
    return [
        _published(part, row.system, row.measure, value, row.setting, row.fusion, row.source)
        for row, value in benchmark.reported(part).values()
    ]


def published_averages(benchmark: Benchmark) -> list[dict[str, Any]]:
    """What others reported as their mean over all sets of a benchmark."""
    part = f"{benchmark.name} ({AVERAGE} of {len(benchmark.sets)})"
    return [
        _published(part, row.system, row.measure, row.scores[AVERAGE] / 100, row.setting, row.fusion, row.source)
        for row in benchmark.published
        if AVERAGE in row.scores
    ]


def published_how(row: dict[str, Any]) -> str:
    """Where a published row stands, and in which setting it was measured."""
    setting = row["setting"]
    return f"published ({setting['source']}): {setting['told']}; fusion: {setting['fusion']}"


def shown_sha256(boards: Sequence[Board]) -> str:
    """Hash of what some boards show, published means included; the same where the same was measured again.

    What it took, in seconds too, is no part of it.
    """
    shown = [
        [{name: value for name, value in row.items() if name not in ("created_at", "costs")} for row in board.rows]
        + published_averages(board.benchmark)
        for board in boards
    ]
    return canonical_sha256(shown)


def unregistered(name: str, measures: tuple[str, ...] = DEFAULT_MEASURES) -> Benchmark:
    """A folder that stands for no registered benchmark."""
    told = f"The folder {name}."
    return Benchmark(name=name, description=told, license="unknown", bring=told, passage_tokens=512, measures=measures)


def _published(
    part: str, system: str, measure: str, value: float, told: str, fusion: str, source: str
) -> dict[str, Any]:
    setting = {"told": told, "fusion": fusion, "source": source}
    return {"part": part, "system": system, "origin": PUBLISHED, "measures": {measure: value}, "setting": setting}
