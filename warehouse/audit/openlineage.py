"""How a release was made, as one OpenLineage event (https://openlineage.io): inputs, output, columns, assertions.

    write_json(folder / "openlineage.json", release_event(known, folder / "rows.parquet"))

A RunEvent of type COMPLETE that a catalog such as Marquez or DataHub takes as it is. Its run id follows from the
release's name, so that sending it twice makes one run. Deliberately absent: a client that sends it anywhere.
"""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from warehouse.audit import suites
from warehouse.curation.rows import ROW_SCHEMA
from warehouse.migrations import table_columns
from warehouse.pages.facts import Facts

SPEC = "https://openlineage.io/spec"
EVENT_URL = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = {
    "SchemaDatasetFacet": "1-2-0", "DatasetVersionDatasetFacet": "1-0-1", "ColumnLineageDatasetFacet": "1-2-0",
    "OutputStatisticsOutputDatasetFacet": "1-0-2", "DocumentationJobFacet": "1-1-0", "JobTypeJobFacet": "2-0-4",
    "DataQualityAssertionsDatasetFacet": "1-1-0", "ProcessingEngineRunFacet": "1-1-1",
}  # fmt: skip
INPUTS = ("queries", "passages", "rankings", "consistent_rankings", "benchmarks")
# Column of a row: the columns that it is made of.
COLUMNS: Mapping[str, Sequence[tuple[str, str]]] = {
    "domain": [("queries", "domain")],
    "qid": [("queries", "qid")],
    "split": [("queries", "text")],
    "query": [("queries", "text")],
    "docids": [("rankings", "initial_list")],
    "passages": [("passages", "title"), ("passages", "text")],
    "final_order": [("rankings", "final_list"), ("rankings", "initial_list")],
    "relevant": [("rankings", "relevant_docids"), ("rankings", "initial_list")],
    "reasoning": [("rankings", "reasoning")],
    "ranking_id": [("rankings", "ranking_id")],
    "exchange_key": [("rankings", "exchange_key")],
    "prompt_sha256": [("rankings", "prompt_sha256")],
    "judge": [("rankings", "judge")],
    "consistency": [("consistent_rankings", "consistency")],
    "source": [("queries", "source")],
    "license": [("queries", "license")],
    "passage_licenses": [("passages", "license")],
    "url": [("queries", "url")],
    "agreement": [("rankings", "agreement")],
}


def release_event(known: Facts, rows: Path) -> dict[str, Any]:
    """The event of the run that made a release whose rows lie in the Parquet file `rows`."""
    producer = f"urn:rankmill:{known.release['code_version']}"
    lake = _namespace(known)

    def facet(kind: str, /, **values: Any) -> dict[str, Any]:
        url = f"{SPEC}/facets/{FACETS[kind]}/{kind}.json#/$defs/{kind}"
        return {"_producer": producer, "_schemaURL": url, **values}

    inputs = [
        {
            "namespace": lake,
            "name": f"lake.{table}",
            "facets": {
                "schema": facet("SchemaDatasetFacet", fields=[{"name": column} for column in table_columns()[table]]),
                "version": facet("DatasetVersionDatasetFacet", datasetVersion=str(known.release["read_snapshot"])),
            },
            "inputFacets": {},
        }
        for table in INPUTS
    ]
    output = {
        "namespace": lake,
        "name": "lake.training_rows",
        "facets": {
            "schema": facet("SchemaDatasetFacet", fields=[_field(name, kind) for name, kind in ROW_SCHEMA.items()]),
            "version": facet("DatasetVersionDatasetFacet", datasetVersion=known.name),
            "columnLineage": facet(
                "ColumnLineageDatasetFacet",
                fields={
                    column: {
                        "inputFields": [
                            {"namespace": lake, "name": f"lake.{table}", "field": field} for table, field in made_of
                        ]
                    }
                    for column, made_of in COLUMNS.items()
                },
            ),
            "dataQualityAssertions": facet("DataQualityAssertionsDatasetFacet", assertions=_assertions(known)),
        },
        "outputFacets": {
            "outputStatistics": facet(
                "OutputStatisticsOutputDatasetFacet",
                rowCount=known.rows.height,
                size=rows.stat().st_size,
                fileCount=1,
            )
        },
    }
    return {
        "eventType": "COMPLETE",
        "eventTime": known.release["created_at"],
        "producer": producer,
        "schemaURL": EVENT_URL,
        "run": {
            "runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:rankmill:release:{known.name}")),
            "facets": {
                "processing_engine": facet("ProcessingEngineRunFacet", name="DuckDB", version=duckdb.__version__)
            },
        },
        "job": {
            "namespace": "rankmill",
            "name": "training_set",
            "facets": {
                "jobType": facet("JobTypeJobFacet", processingType="BATCH", integration="RANKMILL", jobType="ASSET"),
                "documentation": facet(
                    "DocumentationJobFacet",
                    description="All domains' consistent rankings: filtered, deduplicated, decontaminated, split.",
                ),
            },
        },
        "inputs": inputs,
        "outputs": [output],
    }


def _assertions(known: Facts) -> list[dict[str, Any]]:
    """What the suite of training_rows found for this release."""
    results = suites.newest(known.lake).filter(pl.col("suite") == "training_rows", pl.col("release") == known.name)
    return [
        {
            "assertion": row["expectation"].partition("(")[0],
            "success": row["passed"],
            "severity": "error" if row["severity"] == "critical" else "warn",
            "description": row["says"],
        }
        for row in results.sort("expectation").to_dicts()
    ]


def _namespace(known: Facts) -> str:
    """Where the rows lie, as a URI."""
    path = known.lake.place.data_path
    return path.rstrip("/") if "://" in path else "file"


def _field(name: str, kind: Any) -> dict[str, Any]:
    listed = isinstance(kind, pl.List)
    inner = kind.inner if isinstance(kind, pl.List) else kind
    types = {pl.String: "VARCHAR", pl.Int64: "BIGINT", pl.Float64: "DOUBLE"}
    told = next(name for of, name in types.items() if inner == of)
    return {"name": name, "type": f"{told}[]" if listed else told}
