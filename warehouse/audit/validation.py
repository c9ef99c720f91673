"""Great Expectations at work: light rows in, results and Data Docs out, in a process of its own.

    python -m warehouse.audit.validation FOLDER DOCS NAME

FOLDER holds <suite>.parquet for the suites to validate and receives results.json. DOCS keeps Data Docs with every
validation of the past, each under NAME (the release). Analytics are off. Deliberately absent: the lake (suites.py
reads it and keeps the results), so this process knows no catalog, no bucket and no secret.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.audit.data_docs import enter_history, keep_to_itself
from warehouse.audit.suites import SHOWN, Suite, suites

STORES = {
    "expectations_store": "ExpectationsStore",
    "validation_results_store": "ValidationResultsStore",
    "checkpoint_store": "CheckpointStore",
    "validation_definition_store": "ValidationDefinitionStore",
}


def validate(folder: Path, docs: Path, name: str) -> list[dict[str, Any]]:
    """Results of every suite that has rows in `folder`, and Data Docs of them in `docs`."""
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    context = _context(docs)
    source = context.data_sources.add_pandas("lake")
    run = RunIdentifier(run_name=name)
    results: list[dict[str, Any]] = []
    pages: list[Any] = []
    history: list[dict[str, Any]] = []
    for suite in suites():
        file = folder / f"{suite.name}.parquet"
        if file.is_file():
            rows = pl.read_parquet(file)
            judged = _judge(context, source, suite, rows, run)
            page = _page(suite.name, judged)
            about = ExpectationSuiteIdentifier(name=suite.name)
            pages += [about, ValidationResultIdentifier(about, judged.meta["run_id"], f"lake-{suite.name}")]
            history.append(
                {
                    "suite": suite.name, "release": name, "moment": run.run_time.isoformat(), "page": page,
                    "rows": rows.height, "expectations": len(judged.results),
                    "failed": sum(not found.success for found in judged.results),
                }
            )  # fmt: skip
            results += [_result(suite, place, found, rows.height, page) for place, found in _placed(judged)]
    context.build_data_docs(resource_identifiers=pages, build_index=False)
    for path in {f"expectations/{row['suite']}.html" for row in results} | {row["docs"] for row in results}:
        keep_to_itself(docs, docs / path)
    enter_history(docs, history)
    return results


def _context(docs: Path) -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig

    # Nothing but pages is kept: the results go into the lake, the history of pages into history.json.
    memory = {"class_name": "InMemoryStoreBackend"}
    stores = {name: {"class_name": kind, "store_backend": memory} for name, kind in STORES.items()}
    config = DataContextConfig(
        config_version=4.0,
        analytics_enabled=False,
        fluent_datasources={},
        expectations_store_name="expectations_store",
        validation_results_store_name="validation_results_store",
        checkpoint_store_name="checkpoint_store",
        stores=stores,
        data_docs_sites={
            "audit": {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            }
        },
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    return context


def _judge(context: Any, source: Any, suite: Suite, rows: pl.DataFrame, run: Any) -> Any:
    import great_expectations as gx
    from great_expectations.expectations.metadata_types import FailureSeverity
    from great_expectations.expectations.registry import get_expectation_impl

    expectations = [
        get_expectation_impl(expected.type)(
            **expected.arguments,
            severity=FailureSeverity(expected.severity),
            notes=f"{expected.says} {expected.remedy}",
            meta={"place": place},
        )
        for place, expected in enumerate(suite.expect)
        if rows.height or "_mean_" not in expected.type  # no rows have no mean, and no fault
    ]
    stored = context.suites.add_or_update(
        gx.ExpectationSuite(name=suite.name, expectations=expectations, notes=suite.about)
    )
    batch = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("rows")
    definition = gx.ValidationDefinition(name=suite.name, data=batch, suite=stored)
    return context.validation_definitions.add_or_update(definition).run(
        batch_parameters={"dataframe": rows.to_pandas()},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": list(suite.key),
            "partial_unexpected_count": SHOWN,
            "include_unexpected_rows": False,
        },
        run_id=run,
    )


def _placed(judged: Any) -> list[tuple[int, Any]]:
    placed = [(found.expectation_config.meta["place"], found) for found in judged.results]
    return sorted(placed, key=lambda pair: pair[0])


def _result(suite: Suite, place: int, found: Any, rows: int, page: str) -> dict[str, Any]:
    expected = suite.expect[place]
    if found.exception_info.get("raised_exception"):
        raise RuntimeError(f"suite {suite.name}, {expected.says}: {found.exception_info['exception_message']}")
    result = found.result
    named = result.get("unexpected_index_list") or []
    keys = [" / ".join(str(row[column]) for column in suite.key) for row in named[:SHOWN]]
    return {
        "suite": suite.name,
        "asset": suite.asset,
        "expectation": f"{expected.type}({', '.join(map(str, _columns(expected.arguments)))})",
        "says": expected.says,
        "severity": expected.severity,
        "passed": bool(found.success),
        "rows": rows,
        "offending": int(result.get("unexpected_count") or 0),
        "keys": keys,
        "observed": f"observed {_short(result['observed_value'])}" if "observed_value" in result else "",
        "remedy": expected.remedy,
        "docs": page,
    }


def _short(observed: Any) -> Any:
    return f"{observed:.4g}" if isinstance(observed, float) else observed


def _columns(arguments: dict[str, Any]) -> list[str]:
    return [arguments["column"]] if "column" in arguments else arguments.get("column_list", [])


def _page(name: str, judged: Any) -> str:
    """Where Data Docs show a validation, below their folder."""
    run = judged.meta["run_id"]
    moment = run.run_time.strftime("%Y%m%dT%H%M%S.%fZ")
    return f"validations/{name}/{run.run_name}/{moment}/lake-{name}.html"


def main(arguments: list[str]) -> None:
    """Validate what lies in the folder named first."""
    folder, docs, name = Path(arguments[0]), Path(arguments[1]), arguments[2]
    results = validate(folder, docs, name)
    part = folder / "results.json.part"
    part.write_text(json.dumps(results), "utf-8")
    part.replace(folder / "results.json")


if __name__ == "__main__":
    main(sys.argv[1:])
