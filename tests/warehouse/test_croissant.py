"""Croissant: metadata that `mlcroissant` takes without a complaint and reads the rows by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from small_lake import DOMAINS, release

from warehouse.curation.releases import export_rows, read_release
from warehouse.curation.rows import ROW_SCHEMA
from warehouse.lake import Lake
from warehouse.pages.croissant import croissant, write_json
from warehouse.pages.facts import facts_of


@pytest.fixture
def described(factory_lake: Lake, tmp_path: Path) -> tuple[Lake, str, Path]:
    name = release(factory_lake)
    rows = export_rows(factory_lake, name, tmp_path)
    return (
        factory_lake,
        name,
        write_json(rows.parent / "croissant.json", croissant(facts_of(factory_lake, DOMAINS), rows)),
    )


def test_mlcroissant_finds_nothing_to_complain_of_and_reads_every_row(described: tuple[Lake, str, Path]) -> None:
    import mlcroissant

    lake, name, path = described
    dataset = mlcroissant.Dataset(jsonld=str(path))
    assert dataset.metadata.issues.errors == dataset.metadata.issues.warnings == set()
    held = read_release(lake, name)
    for record, row in zip(dataset.records("rows"), held.iter_rows(named=True), strict=True):
        assert record["rows/row_id"].decode() == row["row_id"]
        assert [text.decode() for text in record["rows/passages"]] == row["passages"]
        assert list(record["rows/final_order"]) == row["final_order"]
        assert record["rows/consistency"] == pytest.approx(row["consistency"])


def test_the_file_is_named_with_its_hash_size_and_every_column(described: tuple[Lake, str, Path]) -> None:
    _, name, path = described
    told = json.loads(path.read_text("utf-8"))
    file = told["distribution"][0]
    content = (path.parent / file["contentUrl"]).read_bytes()
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert file["contentSize"] == f"{len(content)} B"
    assert [field["name"] for field in told["recordSet"][0]["field"]] == list(ROW_SCHEMA)
    assert told["license"] == ["https://spdx.org/licenses/CC0-1.0.html"]
    assert name in told["citeAs"]
