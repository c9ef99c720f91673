"""How Dagster makes an asset: perform the step, and report its ledger row under the same keys for every asset.

yield from produce(context, factory, Step(("candidates",), domain, settings, work, reads))
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.columns import lineage_of
from assets.resources import Factory
from warehouse.lake import Lake
from warehouse.laws import counts_that_do_not_add_up
from warehouse.ledger import Materialization
from warehouse.production import NeverMade, Step, files_of, perform

COUNTS = "counts_add_up"
DIGITS = 6  # of a figure, as people see it


def produce(context: dg.AssetExecutionContext, factory: Factory, step: Step) -> Iterator[dg.MaterializeResult]:
    """Materialize a step's assets; one with nothing changed ends at once. Raises dg.Failure for a missing input."""
    try:
        performed = perform(factory.lake, step, context.run_id, factory.active_domains(), factory.settings.home)
    except NeverMade as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    unchanged = performed.committed is None
    extra = {"unchanged": True} if unchanged else {"unchanged": False, "snapshot": performed.committed}
    for asset, row in performed.rows.items():
        yield _result(factory.lake, asset, row, factory.settings.home, extra)


def law(asset: str) -> list[dg.AssetCheckSpec]:
    """The check that every asset carries and `produce` answers: rows in = rows out + rejected, each with its reason."""
    description = "Rows in = rows out + rejected, and every rejected row is kept with its reason."
    return [dg.AssetCheckSpec(COUNTS, asset=asset, description=description, blocking=True)]


def _result(lake: Lake, asset: str, row: Materialization, home: Path, extra: Mapping[str, Any]) -> dg.MaterializeResult:
    figures = {key: value for key, value in row.figures.items() if not key.startswith("_")}
    files = files_of(row, home)
    metadata: dict[str, Any] = {
        "rows_in": row.rows_in,
        "rows_out": row.rows_out,
        "rows_rejected": row.rows_rejected,
        "seconds": row.seconds,
        "read_snapshot": row.read_snapshot,
        "content_sha256": row.content_sha256,
        **{key: _rounded(value) for key, value in figures.items() if isinstance(value, (int, float, str, bool))},
        **{key: dg.MetadataValue.json(value) for key, value in figures.items() if isinstance(value, (dict, list))},
        **{title: dg.MetadataValue.path(str(path)) for title, path in files.items()},
        **{title: dg.MetadataValue.md(markdown) for title, markdown in row.shown.items() if title not in files},
        **lineage_of(asset),
        **extra,
    }
    offending = counts_that_do_not_add_up(lake, asset)
    counted = dg.AssetCheckResult(
        check_name=COUNTS,
        asset_key=asset,
        passed=not offending,
        description="; ".join(offending[:10]) or None,
        metadata={"offending": len(offending)},
    )
    version = dg.DataVersion(row.content_sha256)
    return dg.MaterializeResult(asset_key=asset, metadata=metadata, data_version=version, check_results=[counted])


def _rounded(value: int | float | str | bool) -> int | float | str | bool:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
