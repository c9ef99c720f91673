"""The dataset card: a header that the hub takes, and everything that a reader must know before the first row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from small_lake import DOMAINS, message, release

from warehouse.curation.releases import read_release
from warehouse.lake import Append, Lake
from warehouse.pages.beside import write_beside
from warehouse.pages.cards import HUB_LICENCES, card_values, header, size_of
from warehouse.pages.facts import facts_of
from warehouse.pages.reports import write_report

SAMPLING = {"model": "stand-in-teacher", "temperature": 0.6, "top_p": 0.95, "max_tokens": 512}


def card_of(lake: Lake, folder: Path) -> tuple[dict[str, Any], str]:
    """The card's header as the hub reads it, and its text."""
    values = card_values(facts_of(lake, DOMAINS), SAMPLING)
    text = write_report(folder / "README.md", "dataset_card.md.j2", values).read_text("utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]


def test_the_card_names_teacher_licence_and_what_was_not_read(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    values = card_values(facts_of(factory_lake, DOMAINS), SAMPLING)
    assert (values["teachers"], values["stand_in"]) == (["stand-in-teacher"], True)
    rows = read_release(factory_lake, name)
    for part in values["domains"]:
        ours = rows.filter(pl.col("domain") == part["domain"])
        assert {s: part[s] for s in ("sft", "rl", "dev")} == {
            s: ours.filter(pl.col("split") == s).height for s in ("sft", "rl", "dev")
        }
    _, card = card_of(factory_lake, tmp_path)
    for told in (name, "stand-in-teacher", "CC0-1.0", "far was not compared", "0.95", "rankmill retract"):
        assert told in card


def test_the_header_is_what_the_hub_asks_for(factory_lake: Lake, tmp_path: Path) -> None:
    release(factory_lake)
    head, _ = card_of(factory_lake, tmp_path)
    assert head["license"] == ["cc0-1.0"]
    assert head["task_categories"] == ["text-ranking"]
    assert head["size_categories"] == ["n<1K"]
    assert head["language"] == ["en"]
    assert head["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "rows.parquet"}]}]


def test_the_hub_library_loads_the_folder_by_its_card(factory_lake: Lake, tmp_path: Path) -> None:
    import datasets

    name = release(factory_lake)
    files = write_beside(facts_of(factory_lake, DOMAINS), tmp_path / "releases", SAMPLING)
    loaded = datasets.load_dataset(str(files["card"].parent), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"]["row_id"][:] == read_release(factory_lake, name)["row_id"].to_list()


def test_a_licence_that_the_hub_does_not_know_makes_it_other(factory_lake: Lake) -> None:
    release(factory_lake)
    known = facts_of(factory_lake, DOMAINS)
    head = yaml.safe_load(header(known, ["MIT", "LicenseRef-web-excerpt"]))
    assert (head["license"], head["license_name"]) == ("other", "mixed")
    assert yaml.safe_load(header(known, []))["license"] == "other"
    assert yaml.safe_load(header(known, ["ODC-By-1.0", "MIT"]))["license"] == ["mit", "odc-by"]
    assert all(name == name.lower() for name in HUB_LICENCES.values())


@pytest.mark.parametrize(
    ("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (13_517, "10K<n<100K"), (10**6, "1M<n<10M")]
)
def test_sizes_fall_into_the_categories_of_the_hub(rows: int, size: str) -> None:
    assert size_of(rows) == size


def test_vetted_exceptions_stand_in_the_card_with_their_reason(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    found = {"release": name, "domain": "math", "ranking_id": "math-0", "unit": "query", "docid": None,
             "benchmark": "bench", "item": "b1", "item_unit": "query", "test": "exact", "similarity": 1.0,
             "shared": "a", "exception": "a common phrase"}  # fmt: skip
    left_out = {**found, "ranking_id": "leaky", "exception": None}
    factory_lake.commit([Append("benchmark_overlaps", pl.DataFrame([found, left_out]))], message("test"))
    _, card = card_of(factory_lake, tmp_path)
    assert "bench query b1 (exact): a common phrase" in card
    assert "1 lists overlapped and were left out" in card


def test_what_is_written_beside_a_release_is_written_whole(factory_lake: Lake, tmp_path: Path) -> None:
    name = release(factory_lake)
    files = write_beside(facts_of(factory_lake, DOMAINS), tmp_path, SAMPLING)
    assert {path.name for path in (tmp_path / name[:12]).iterdir()} == {path.name for path in files.values()}
    assert {path.name for path in files.values()} == {"README.md", "croissant.json", "openlineage.json", "rows.parquet"}
