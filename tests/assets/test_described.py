"""What every asset says about itself: owner, description, kinds, tags, freshness, columns and where they come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))

from column_values import COPIED, strangers
from small_lake import fill, message, passages, queries, release

from assets.columns import LINEAGE, SCHEMA, SOURCES, TABLES, lineage_of
from assets.definitions import defs
from assets.described import FRESH, NEEDS, OWNERS
from assets.meanings import EVERYWHERE, OF_A_TABLE
from warehouse.lake import Append, Lake, Replace, opened
from warehouse.migrations import column_types

SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with opened(Lake.at(tmp_path_factory.mktemp("columns") / "lake")) as lake:
        fill(lake)
        found = queries().select("domain", "qid").join(passages().select("domain", "docid"), on="domain")
        ranked = found.with_columns(rank=pl.lit(1), score=pl.lit(1.0), retriever=pl.lit("bm25"))
        judged = found.with_columns(grade=pl.lit(1), origin=pl.lit("human"))
        lake.commit([Replace("candidates", ranked), Append("judgements", judged)], message())
        release(lake)
        yield lake


def test_no_asset_is_without_owner_description_kind_tag_and_freshness() -> None:
    graph = defs.resolve_asset_graph()
    for name, spec in SPECS.items():
        assert spec.owners and spec.description and spec.kinds and spec.freshness_policy == FRESH, name
        assert spec.tags["rankmill/needs"] == NEEDS.get(name, "processor")
        assert graph.get(spec.key).owners == list(OWNERS[str(spec.group_name)])
    assert {str(spec.group_name) for spec in SPECS.values()} == set(OWNERS)
    assert set(NEEDS) == {name for name, spec in SPECS.items() if _pool(spec) in ("teacher", "accelerator")}


def _pool(spec: dg.AssetSpec) -> str | None:
    return defs.resolve_assets_def(spec.key).op.pool


def test_every_asset_that_has_a_table_shows_its_columns_as_they_stand_in_the_lake(lake: Lake) -> None:
    assert set(SPECS) - set(TABLES) == {"campaign_report", "data_quality_report", "dataset_card"}
    for name, table in TABLES.items():
        shown = SPECS[name].metadata[SCHEMA]
        assert isinstance(shown, dg.TableSchema)
        stored = lake.query(f"DESCRIBE {table}").select("column_name", "column_type").rows()
        assert [(column.name, column.type) for column in shown.columns] == stored
        assert SPECS[name].metadata["dagster/table_name"] == table


def test_every_column_says_what_it_holds_and_nothing_is_said_of_columns_that_are_not_there() -> None:
    types = column_types()
    for name in TABLES:
        assert all(column.description for column in SPECS[name].metadata[SCHEMA].columns)
    assert set(OF_A_TABLE) <= set(TABLES.values())
    assert all(set(said) <= set(types[table]) for table, said in OF_A_TABLE.items())
    shown = {(table, column) for table in TABLES.values() for column in types[table]}
    assert {column for table, column in shown if column not in OF_A_TABLE.get(table, {})} == set(EVERYWHERE)


def test_column_lineage_names_columns_that_exist_in_assets_that_come_before() -> None:
    graph, types = defs.resolve_asset_graph(), column_types()
    for name, columns in SOURCES.items():
        before = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(name))}
        for column, sources in columns.items():
            assert column in types[TABLES[name]]
            for source in sources:
                asset, _, other = source.partition(".")
                assert asset in before and other in types[TABLES[asset]], source


IN_THE_SMALL_LAKE = ("candidates", "teacher_rankings", "consistent_rankings", "training_set")


@pytest.mark.parametrize(("asset", "column"), [copied for copied in COPIED if copied[0] in IN_THE_SMALL_LAKE])
def test_a_column_holds_no_value_that_its_sources_do_not_have(lake: Lake, asset: str, column: str) -> None:
    assert strangers(lake, asset, column) == set()  # of all ten assets: tests/rankmill/test_end_to_end.py


def test_a_released_passage_is_the_title_and_text_of_one(lake: Lake) -> None:
    known = {f"{row['title']}. {row['text']}" for row in lake.read("passages").iter_rows(named=True)}
    assert set(lake.read("training_rows")["passages"].explode()) <= known


def test_the_ui_gets_lineage_with_each_materialization(lake: Lake, tmp_path: Path) -> None:
    from assets.production import _result
    from warehouse.ledger import latest

    made = latest(lake, "training_set")
    assert made is not None
    shown = _result(lake, "training_set", made, tmp_path, {}).metadata
    assert shown is not None and shown[LINEAGE] == lineage_of("training_set")[LINEAGE]


def test_a_profile_names_owners_of_its_own(tmp_path: Path) -> None:
    profile = tmp_path / "owned.yaml"
    profile.write_text('extends: offline\ndescription: owned\nowners: {labels: ["team:search", "ada@example.org"]}\n')
    code = (
        "import json; from assets.definitions import defs; "
        "print(json.dumps({s.key.to_user_string(): list(s.owners) for s in defs.resolve_all_asset_specs()}))"
    )
    environment = {**os.environ, "RANKMILL_PROFILE": str(profile)}
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    owners = json.loads(seen.stdout)
    assert owners["teacher_rankings"] == ["team:search", "ada@example.org"] and owners["queries"] == ["team:data"]
