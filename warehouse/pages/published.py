"""Tables of what was measured here on published benchmarks, beside what others report for them.

    tables = benchmark_tables(boards_of(scores, registered(folder)))      # a table a benchmark, for the page's template

Deliberately absent: any comparison in numbers. A published row is measured in a setting of its own, which stands by it.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from warehouse.benchmarks.boards import PUBLISHED, Board, published_averages


def benchmark_tables(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """A table a benchmark: rows of every part that was measured here, ours and published ones, best first.

    Published means over all sets follow, since many papers tell no more.
    """
    shown = []
    for name, group in groupby(boards, key=lambda board: board.benchmark.name):
        parts = list(group)
        benchmark = parts[0].benchmark
        headline = benchmark.measures[0]
        rows = [
            row
            for part in parts
            for row in sorted(part.rows, key=lambda row: row["measures"].get(headline, 0.0), reverse=True)
        ]
        rows += sorted(published_averages(benchmark), key=lambda row: row["measures"].get(headline, 0.0), reverse=True)
        told = [
            {"versus": None, "costs": None, **row, "published": row["origin"] == PUBLISHED, "how": _how(row)}
            for row in rows
        ]
        shown.append({"name": name, "description": benchmark.description, "measures": benchmark.measures, "rows": told})
    return shown


def _how(row: Mapping[str, Any]) -> str:
    """First stage, window and fusion of a row on a benchmark."""
    setting = row["setting"]
    if row["origin"] == PUBLISHED:
        return f"{setting['told']}; fusion: {setting['fusion']}; {setting['source']}"
    read = setting["query_retrieved"]
    first = f"{setting['first_stage']}{f' over {read}' if read.isidentifier() else ''}, top {setting['depth']}"
    decoding = setting.get("decoding")
    if decoding is None:
        return f"{first}, no reranking"
    how = ", ".join(f"{name} {value}" for name, value in decoding.items() if name != "name" and value is not None)
    left = f"; {setting['not_reranked']} lists too long for it" if setting.get("not_reranked") else ""
    return (
        f"{first}; {decoding['name']} ({how}), {setting['passage_tokens']} tokens a passage, "
        f"{setting['query_reranked']} of the query{_then(setting)}; fusion: {setting['fusion']}; "
        f"{' '.join(filter(None, (setting['engine'], setting.get('engine_version'))))}{left}"
    )


def _then(setting: Mapping[str, Any]) -> str:
    """The second model of a cascade."""
    then = setting.get("then")
    if then is None:
        return ""
    how = ", ".join(
        f"{name} {value}" for name, value in then["decoding"].items() if name != "name" and value is not None
    )
    return f"; its first {then['keep']} ordered anew by {then['decoding']['name']} ({how})"
