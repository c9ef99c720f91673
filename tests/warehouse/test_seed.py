"""The two written domains of the seed: as many, as varied and as free of accidents as the README says."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest

from warehouse.intake.source_tables import SourceTables, gold_passages
from warehouse.intake.sources import FolderSource, read_source

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = REPOSITORY.parent / "shared" / "data"


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


@pytest.fixture(scope="module", params=["complex_qa", "web_search"])
def seed(request: pytest.FixtureRequest) -> SourceTables:
    return read_source(FolderSource(REPOSITORY / "seed" / request.param, request.param))


def test_a_seed_domain_is_complete(seed: SourceTables) -> None:
    assert seed.queries.height >= 48
    assert seed.passages.height >= 250
    assert seed.rejections.height == 0
    assert seed.notes["unknown_fields"] == {}
    assert set(seed.queries["license"]) == set(seed.passages["license"]) == {"CC0-1.0"}
    assert seed.queries["gold_answer"].null_count() == 0
    assert dict(seed.queries["split"].value_counts().iter_rows()) == {"train": 32, "dev": 8, "test": 12}


def test_every_query_has_a_best_passage_and_hard_negatives(seed: SourceTables) -> None:
    by_query = seed.judgements.group_by("qid").agg(
        best=(pl.col("grade") == 2).sum(), helpful=(pl.col("grade") == 1).sum(), misleading=(pl.col("grade") == 0).sum()
    )
    assert by_query.height == seed.queries.height
    assert by_query["best"].is_between(1, 2).all()
    assert by_query["helpful"].is_between(0, 2).all()
    assert by_query["misleading"].is_between(2, 3).all()


def test_no_passage_is_relevant_to_two_queries_or_gives_the_gold_answer_away(seed: SourceTables) -> None:
    assert seed.judgements.filter(pl.col("grade") > 0)["docid"].is_unique().all()
    assert gold_passages(seed.queries, seed.passages).height == 0


def test_passages_are_short_and_no_two_are_nearly_the_same(seed: SourceTables) -> None:
    lengths = seed.passages["text"].str.split(" ").list.len()
    assert lengths.is_between(20, 65).all()
    shingles = [grams(text, 3) for text in seed.passages["text"]]
    assert max(len(a & b) / len(a | b) for a, b in combinations(shingles, 2)) < 0.3


def test_nothing_of_the_seed_stands_in_a_benchmark(seed: SourceTables) -> None:
    files = [BENCHMARKS / "noveleval" / "queries.jsonl", *BENCHMARKS.glob("bright_runs/*/queries.jsonl")]
    files = [file for file in files if file.is_file()]
    if not files:
        pytest.skip("no benchmark queries beside this repository (../shared/data)")
    queries = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
    known = {" ".join(words(text)) for text in queries}
    known_grams = set().union(*(grams(text, 13) for text in queries))
    for text in [*seed.queries["text"], *seed.queries["gold_answer"], *seed.passages["text"]]:
        assert " ".join(words(text)) not in known
        assert not grams(text, 13) & known_grams


def test_the_seed_stays_small() -> None:
    assert sum(file.stat().st_size for file in (REPOSITORY / "seed").rglob("*") if file.is_file()) < 3_000_000
