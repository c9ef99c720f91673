"""Which queries are benchmarks: the registry in benchmarks/*.yaml, and any folder given with --benchmarks.

A benchmark is never trained on. Its queries are enough to keep training rows away from it; passages come with
evaluation. A benchmark that cannot be reached is named in the notes and in every report, never silently left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from warehouse.intake.hub import probe
from warehouse.lake import canonical_sha256

SCHEMA = {"benchmark": pl.String, "qid": pl.String, "text": pl.String, "location": pl.String}


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


class Benchmark(BaseModel):
    """One file of benchmarks/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name in tables and reports.")
    description: str = Field(description="What it measures, and where it is published.")
    hub: HubQueries = Field(description="Where its queries are read.")


@dataclass(frozen=True)
class BenchmarkItems:
    """Queries of benchmarks (benchmark, qid, text, location), and which benchmarks could not be read."""

    items: pl.DataFrame
    notes: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of the items and of what was missing."""
        return canonical_sha256([self.items.write_json(), self.notes])


def read_benchmarks(registry: Sequence[Path], folders: Sequence[Path], hub: bool) -> BenchmarkItems:
    """Queries of registered benchmarks (from the hub, where `hub` allows it) and of every queries.jsonl in `folders`.

    Raises BenchmarkError for a file that cannot be read; a hub that cannot be reached is a note, not an error.
    """
    rows: list[tuple[str, str, str, str]] = []
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
    # A qid with two texts keeps both: neither may be trained on.
    distinct = ["benchmark", "qid", "text"]
    items = pl.DataFrame(rows, schema=SCHEMA, orient="row").unique(distinct, keep="first", maintain_order=True)
    items = items.sort(distinct)
    sizes = dict(items.group_by("benchmark").len().sort("benchmark").iter_rows())
    return BenchmarkItems(items, {"queries_by_benchmark": sizes, "benchmarks_not_read": unread})


def load_benchmark(path: Path) -> Benchmark:
    """One file of benchmarks/. Raises BenchmarkError."""
    try:
        return Benchmark.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{path} is not a valid benchmark: {error}") from None


def _hub_items(benchmark: Benchmark) -> list[tuple[str, str, str, str]]:
    from datasets import load_dataset

    where = benchmark.hub
    probe(where.dataset)  # fails at once where datasets would retry for half a minute
    found = []
    for split in where.splits:
        for row in load_dataset(where.dataset, where.config, split=split):
            location = f"hf:{where.dataset}/{where.config or ''}/{split}"
            found.append((f"{benchmark.name}/{split}", str(row[where.id_field]), str(row[where.text_field]), location))
    return found


def _folder_items(folder: Path) -> list[tuple[str, str, str, str]]:
    files = sorted(folder.rglob("queries.jsonl"))
    if not files:
        raise BenchmarkError(
            f"{folder}: holds no queries.jsonl. Give a folder whose queries.jsonl has lines with qid and text."
        )
    found = []
    for file in files:
        name = file.parent.relative_to(folder.parent).as_posix()
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
                qid, text = str(row["qid"]), row["text"]
            except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise BenchmarkError(
                    f"{file}:{number}: not a JSON object (UTF-8) with qid and text. Mend or remove the line."
                )
            found.append((name, qid, text, folder.name))
    return found
