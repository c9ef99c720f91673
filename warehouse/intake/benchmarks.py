"""Which texts are never trained on: those of the registry benchmarks/*.yaml, and any folder given with --benchmarks.

Its queries are enough to keep training rows away from a benchmark; where it brings passages rows are kept away from
those too. A folder stands for the registered part that it is named after, as `rankmill benchmark fetch` names them
(BRIGHT/biology, NovelEval; capitals do not matter). A benchmark that cannot be reached is named in the notes and in
every report, never silently left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ranking.prompts import titled
from warehouse.benchmarks.folders import json_lines
from warehouse.benchmarks.loading import load, load_queries
from warehouse.benchmarks.registry import Benchmark, BenchmarkError, load_benchmark
from warehouse.intake.hub import HubUnreachable
from warehouse.lake import canonical_sha256

SCHEMA = {"benchmark": pl.String, "qid": pl.String, "text": pl.String, "location": pl.String, "unit": pl.String}
"""`unit` is query or passage; `qid` is the id of either."""
Item = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class BenchmarkItems:
    """Items of benchmarks (SCHEMA), and which benchmarks could not be read."""

    items: pl.DataFrame
    notes: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of the items and of what was missing."""
        return canonical_sha256([self.items.write_json(), self.notes])


def read_benchmarks(registry: Sequence[Path], folders: Sequence[Path], hub: bool) -> BenchmarkItems:
    """Items of registered benchmarks (from the hub, where `hub` allows it) and of every queries.jsonl in `folders`.

    A part that a folder stands for is not looked for elsewhere. Raises BenchmarkError for a file that cannot be read; a
    hub that cannot be reached is a note, not an error.
    """
    registered = [load_benchmark(path) for path in registry]
    rows: list[Item] = []
    unread: dict[str, str] = {}
    for folder in folders:
        rows += _folder_items(folder, [part for benchmark in registered for part in benchmark.parts])
    units: dict[str, set[str]] = {}
    for name, *_, unit in rows:
        units.setdefault(name, set()).add(unit)
    for benchmark in registered:
        # Queries alone do not stand for a benchmark whose passages are guarded, too.
        guarded = {"query", "passage"} if benchmark.guards_passages else {"query"}
        wanted = [part for part in benchmark.parts if not guarded <= units.get(part, set())]
        found, missing = _fetched(benchmark, wanted) if hub else ([], _without_a_hub(benchmark, wanted))
        rows += found
        unread |= missing
    # An id with two texts keeps both: neither may be trained on.
    distinct = ["benchmark", "unit", "qid", "text"]
    items = pl.DataFrame(rows, schema=SCHEMA, orient="row").unique(distinct, keep="first", maintain_order=True)
    items = items.sort(distinct)
    sizes = {
        unit: dict(items.filter(pl.col("unit") == unit).group_by("benchmark").len().sort("benchmark").iter_rows())
        for unit in ("query", "passage")
    }
    notes = {"queries_by_benchmark": sizes["query"], "passages_by_benchmark": sizes["passage"]}
    return BenchmarkItems(items, {**notes, "benchmarks_not_read": unread})


def _without_a_hub(benchmark: Benchmark, wanted: Sequence[str]) -> dict[str, str]:
    """Why parts could not be read where nothing may be fetched; one line where it is all of them."""
    names = (benchmark.name,) if tuple(wanted) == benchmark.parts else wanted
    why = benchmark.bring or "the profile switches the hub off"
    return {name: f"{why.rstrip('.')}; {_bring(name)}" for name in names}


def _bring(name: str) -> str:
    return f"give a folder with --benchmarks, named {name}"


def _fetched(benchmark: Benchmark, wanted: Sequence[str]) -> tuple[list[Item], dict[str, str]]:
    """What could be read of some parts of a benchmark, part by part, and why the other parts could not.

    Where the hub does not answer for the first part the others are not tried: each would wait for it again.
    """
    found: list[Item] = []
    unread: dict[str, str] = {}
    place = f"registry:{benchmark.name}"
    for part in wanted:
        try:
            if benchmark.guards_passages:
                texts = load(benchmark, part)
                asked = list(texts.queries.select("qid", "text").iter_rows())
                found += [
                    (part, i, titled(title, text), place, "passage") for i, title, text in texts.passages.iter_rows()
                ]
            else:
                asked = load_queries(benchmark, part)
        except Exception as error:  # noqa: BLE001 - datasets raises dozens of types when the hub is out of reach
            known = isinstance(error, BenchmarkError)
            why = str(error).rstrip(".") if known else f"not reached ({type(error).__name__})"
            if isinstance(error, HubUnreachable) and part == wanted[0]:
                names = (benchmark.name,) if tuple(wanted) == benchmark.parts else wanted
                return [], {name: f"{why}; {_bring(name)}" for name in names}
            unread[part] = f"{why}; {_bring(part)}"
            continue
        found += [(part, qid, text, place, "query") for qid, text in asked]
    return found, unread


def _folder_items(folder: Path, parts: Sequence[str]) -> list[Item]:
    files = sorted(folder.rglob("queries.jsonl"))
    if not files:
        raise BenchmarkError(
            f"{folder}: holds no queries.jsonl. Give a folder whose queries.jsonl has lines with qid and text."
        )
    found = []
    for file in files:
        name = _name(file.parent, folder, parts)
        for row in json_lines(file, "qid"):
            found.append((name, row["qid"], row["text"], folder.name, "query"))
        if (part := file.with_name("passages.jsonl")).is_file():
            for row in json_lines(part, "docid"):
                title = row.get("title")
                text = titled(title if isinstance(title, str) else None, row["text"])
                found.append((name, row["docid"], text, folder.name, "passage"))
    return found


def _name(of: Path, folder: Path, parts: Sequence[str]) -> str:
    """The registered part that a folder is named after, by its last two names or its last; else its path from the root.

    The root is the folder that was given.
    """
    registered = {part.lower(): part for part in parts}
    path = of.absolute()
    for tail in (f"{path.parent.name}/{path.name}", path.name):
        if (part := registered.get(tail.lower())) is not None:
            return part
    return of.relative_to(folder.parent).as_posix()
