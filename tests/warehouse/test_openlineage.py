"""OpenLineage: an event that the project's own client classes take, each facet by the schema that it names."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from openlineage.client import event_v2, facet_v2
from small_lake import DOMAINS, message, release

from warehouse.audit.openlineage import COLUMNS, FACETS, INPUTS, release_event
from warehouse.curation.releases import export_rows
from warehouse.curation.rows import ROW_SCHEMA
from warehouse.lake import Append, Lake
from warehouse.migrations import table_columns
from warehouse.pages.facts import facts_of

MODULES = {
    "SchemaDatasetFacet": facet_v2.schema_dataset, "DatasetVersionDatasetFacet": facet_v2.dataset_version_dataset,
    "ColumnLineageDatasetFacet": facet_v2.column_lineage_dataset,
    "OutputStatisticsOutputDatasetFacet": facet_v2.output_statistics_output_dataset,
    "DocumentationJobFacet": facet_v2.documentation_job, "JobTypeJobFacet": facet_v2.job_type_job,
    "DataQualityAssertionsDatasetFacet": facet_v2.data_quality_assertions_dataset,
    "ProcessingEngineRunFacet": facet_v2.processing_engine_run,
}  # fmt: skip


@pytest.fixture
def event(factory_lake: Lake, tmp_path: Path) -> dict[str, Any]:
    name = release(factory_lake)
    found = {"state_sha256": "s", "release": name, "snapshot": 9, "suite": "training_rows", "asset": "training_set",
             "expectation": "expect_column_values_to_be_unique(row_id)", "says": "A row id stands for one row.",
             "severity": "critical", "passed": True, "rows": 1, "offending": 0, "keys": [], "observed": "",
             "remedy": "r", "docs": "d", "created_at": "now"}  # fmt: skip
    frame = pl.DataFrame([found], schema_overrides={"keys": pl.List(pl.String)})
    factory_lake.commit([Append("quality_results", frame)], message("test"))
    return release_event(facts_of(factory_lake, DOMAINS), export_rows(factory_lake, name, tmp_path))


def facets_of(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Every facet of an event, wherever it hangs."""
    holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    kinds = ("facets", "inputFacets", "outputFacets")
    return [facet for holder in holders for kind in kinds for facet in holder.get(kind, {}).values()]


def test_the_clients_classes_take_the_event(event: dict[str, Any]) -> None:
    taken = event_v2.RunEvent(
        eventTime=event["eventTime"], producer=event["producer"], eventType=event_v2.RunState(event["eventType"]),
        run=event_v2.Run(runId=event["run"]["runId"]),
        job=event_v2.Job(event["job"]["namespace"], event["job"]["name"]),
        inputs=[event_v2.InputDataset(each["namespace"], each["name"]) for each in event["inputs"]],
        outputs=[event_v2.OutputDataset(each["namespace"], each["name"]) for each in event["outputs"]],
    )  # fmt: skip
    assert event["schemaURL"] == taken.schemaURL
    assert uuid.UUID(event["run"]["runId"])


def test_every_facet_is_made_as_the_client_makes_it(event: dict[str, Any]) -> None:
    found = facets_of(event)
    seen = set()
    for facet in found:
        kind = re.search(r"/(\w+)$", facet["_schemaURL"])[1]
        seen.add(kind)
        made = getattr(MODULES[kind], kind)
        assert facet["_schemaURL"] == made._get_schema()
        values = {name: value for name, value in facet.items() if not name.startswith("_")}
        assert made(**values) is not None
    assert seen == set(FACETS)


def test_every_column_of_a_row_comes_from_columns_that_exist(event: dict[str, Any]) -> None:
    assert set(COLUMNS) == set(ROW_SCHEMA) - {"release", "row_id"}
    for made_of in COLUMNS.values():
        for table, column in made_of:
            assert table in INPUTS
            assert column in table_columns()[table]
    assert set(event["outputs"][0]["facets"]["columnLineage"]["fields"]) == set(COLUMNS)


def test_the_event_names_release_snapshot_rows_and_what_the_suite_found(
    event: dict[str, Any], factory_lake: Lake
) -> None:
    entry = factory_lake.read("releases").row(0, named=True)
    output = event["outputs"][0]
    assert output["facets"]["version"]["datasetVersion"] == entry["release"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == entry["rows"]
    assert {each["facets"]["version"]["datasetVersion"] for each in event["inputs"]} == {str(entry["read_snapshot"])}
    assert output["facets"]["dataQualityAssertions"]["assertions"] == [
        {"assertion": "expect_column_values_to_be_unique", "success": True, "severity": "error",
         "description": "A row id stands for one row."}
    ]  # fmt: skip
