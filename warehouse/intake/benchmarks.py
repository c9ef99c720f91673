"""Which texts are benchmarks: the registry in benchmarks/*.yaml, and any folder given with --benchmarks.

A benchmark is never trained on. Its queries are enough to keep training rows away from it; where it brings passages (a
passages.jsonl beside queries.jsonl, or `documents` in its registry file) rows are kept away from those too. A benchmark
that cannot be reached is named in the notes and in every report, never silently left out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ranking.prompts import titled
from warehouse.intake.hub import probe
from warehouse.lake import canonical_sha256

SCHEMA = {"benchmark": pl.String, "qid": pl.String, "text": pl.String, "location": pl.String, "unit": pl.String}
"""`unit` is query or passage; `qid` is the id of either."""
Item = tuple[str, str, str, str, str]
FOLDER_FILES = (("queries.jsonl", "qid", "query"), ("passages.jsonl", "docid", "passage"))


class BenchmarkError(ValueError):
    """A benchmark file that cannot be read; the message names file and line."""


class HubQueries(BaseModel):
    """Where a benchmark's queries stand on the Hugging Face hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="Data set of the hub, such as xlangai/BRIGHT.")
    config: str | None = Field(None, description="Configuration of the data set.")
    splits: list[str] = Field(description="Splits that hold queries; each is a set of the benchmark.")
    id_field: str = Field("id", description="Field with the query's id.")
    text_field: str = Field("query", description="Field with the query's text.")


class HubDocuments(BaseModel):
    """Where a benchmark's documents stand on the hub, in the data set of its queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str | None = Field(None, description="Configuration of the data set.")
    splits: list[str] = Field(description="Splits that hold documents; each is a set of the benchmark.")
    id_field: str = Field("id", description="Field with the document's id.")
    text_field: str = Field("content", description="Field with the document's text.")


class Benchmark(BaseModel):
    """One file of benchmarks/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name in tables and reports.")
    description: str = Field(description="What it measures, and where it is published.")
    hub: HubQueries = Field(description="Where its queries are read.")
    documents: HubDocuments | None = Field(None, description="Where its documents are read; without, queries alone.")


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

    Raises BenchmarkError for a file that cannot be read; a hub that cannot be reached is a note, not an error.
    """
    rows: list[Item] = []
    unread: dict[str, str] = {}
    for path in registry:
        benchmark = load_benchmark(path)
        if not hub:
            unread[benchmark.name] = "the profile switches the hub off; give a folder with --benchmarks"
            continue
        try:
            rows += _hub_items(benchmark)
        except Exception as error:  # noqa: BLE001 - datasets raises dozens of types when the hub is out of reach
            unread[benchmark.name] = f"hub not reached ({type(error).__name__}); give a folder with --benchmarks"
    for folder in folders:
        rows += _folder_items(folder)
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


def load_benchmark(path: Path) -> Benchmark:
    """One file of benchmarks/. Raises BenchmarkError."""
    try:
        return Benchmark.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{path} is not a valid benchmark: {error}") from None


def _hub_items(benchmark: Benchmark) -> list[Item]:
    from datasets import load_dataset

    dataset = benchmark.hub.dataset
    probe(dataset)  # fails at once where datasets would retry for half a minute
    parts: list[tuple[HubQueries | HubDocuments, str]] = [(benchmark.hub, "query")]
    if benchmark.documents is not None:
        parts.append((benchmark.documents, "passage"))
    found = []
    for where, unit in parts:
        for split in where.splits:
            location, name = f"hf:{dataset}/{where.config or ''}/{split}", f"{benchmark.name}/{split}"
            rows = load_dataset(dataset, where.config, split=split)
            found += [(name, str(row[where.id_field]), str(row[where.text_field]), location, unit) for row in rows]
    return found


def _folder_items(folder: Path) -> list[Item]:
    files = sorted(folder.rglob("queries.jsonl"))
    if not files:
        raise BenchmarkError(
            f"{folder}: holds no queries.jsonl. Give a folder whose queries.jsonl has lines with qid and text."
        )
    found = []
    for file in files:
        name = file.parent.relative_to(folder.parent).as_posix()
        for beside, key, unit in FOLDER_FILES:
            if (part := file.with_name(beside)).is_file():
                found += [(name, given, text, folder.name, unit) for given, text in _lines(part, key)]
    return found


def _lines(file: Path, key: str) -> Iterator[tuple[str, str]]:
    """(id, text) of each line of a JSON Lines file; a passage's text has its title before it. Raises BenchmarkError."""
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            given, text, title = str(row[key]), row["text"], row.get("title")
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
            text = None
        if not isinstance(text, str):
            raise BenchmarkError(
                f"{file}:{number}: not a JSON object (UTF-8) with {key} and text. Mend or remove the line."
            )
        yield given, titled(title if isinstance(title, str) else None, text)
