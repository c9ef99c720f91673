"""The ledger: what was made, from what, and whether the counts add up.

Every asset writes one row to `materializations` in the same commit as its data. The row's `input_sha256` covers the
asset's code version, its settings and the content hashes of what it read, so that a second run with the same inputs
ends before it begins ("hash, then work"), and its counts are what the law checks read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import polars as pl

from warehouse.lake import CommitMessage, Lake, Replace, Write, canonical_sha256, now

WHOLE = ""  # the partition key of an asset that is not partitioned
REJECTION_SCHEMA = {"stage": pl.String, "key": pl.String, "reason": pl.String, "detail": pl.String}


@dataclass(frozen=True)
class Product:
    """What an asset made: the writes, the counts of its unit, what it left out and why, and what a person looks at.

    An incomplete product (a teacher did not answer) is kept, and made again at the next run. `shown` holds Markdown by
    title (a preview, a plot), kept so that an unchanged asset can show it again.

    `rejections` holds stage, key, reason, detail. Rows whose stage is the asset's name are units of it, and
    rows_in = rows_out + their number. Other stages name smaller things dropped on the way, such as a passage of a list.
    """

    writes: tuple[Write, ...]
    content_sha256: str
    rows_in: int
    rows_out: int
    rejections: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECTION_SCHEMA))
    figures: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True)
class Materialization:
    """One row of the ledger."""

    asset: str
    partition_key: str
    input_sha256: str
    content_sha256: str
    read_snapshot: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    figures: Mapping[str, Any]
    shown: Mapping[str, str]
    seconds: float
    run_id: str
    code_version: str
    created_at: str


class CountError(AssertionError):
    """rows_in = rows_out + rejected does not hold: a row was lost without a reason."""


def latest(lake: Lake, asset: str, partition_key: str = WHOLE) -> Materialization | None:
    """The ledger row of an asset's present content, or None when it was never made."""
    rows = lake.read("materializations", {"asset": asset, "partition_key": partition_key})
    if rows.is_empty():
        return None
    row = rows.row(0, named=True)
    return Materialization(**{**row, "figures": json.loads(row["figures"]), "shown": json.loads(row["shown"])})


def book(lake: Lake) -> dict[tuple[str, str], Materialization]:
    """All rows of the ledger by (asset, partition key), without what they show: one read for many questions."""
    light = [name.name for name in fields(Materialization) if name.name != "shown"]
    rows = lake.read("materializations", columns=light).iter_rows(named=True)
    made = (Materialization(**{**row, "figures": json.loads(row["figures"]), "shown": {}}) for row in rows)
    return {(row.asset, row.partition_key): row for row in made}


def campaign_calls(lake: Lake, columns: Sequence[str], snapshot: int | None = None) -> pl.DataFrame:
    """Columns (domain, purpose and key among them) of the exchanges behind the newest campaign of every domain."""
    keys = lake.read("campaign_exchanges", snapshot=snapshot)
    return lake.read("exchanges", columns=columns, snapshot=snapshot).join(keys, on=keys.columns, how="semi")


def input_sha256(code_version: str, settings: Mapping[str, Any], inputs: Sequence[Materialization]) -> str:
    """The hash of all that shapes an asset: its code version, settings, and the content of what it reads."""
    read = sorted((made.asset, made.partition_key, made.content_sha256) for made in inputs)
    return canonical_sha256({"code": code_version, "settings": settings, "inputs": read})


def enter(
    lake: Lake,
    products: Mapping[str, Product],
    *,
    partition_key: str,
    inputs_sha256: str,
    read_snapshot: int,
    seconds: float,
    message: CommitMessage,
) -> tuple[dict[str, Materialization], int]:
    """Commit products (by asset) and their ledger rows in one transaction; returns them and the snapshot's id.

    Raises CountError before anything is written when a count does not add up.
    """
    writes: list[Write] = []
    entered = {}
    for asset, product in products.items():
        units = product.rejections.filter(pl.col("stage") == asset).height
        if product.rows_in != product.rows_out + units:
            raise CountError(
                f"{asset} {partition_key}: {product.rows_in} in, {product.rows_out} out and {units} rejected do not "
                f"add up. Nothing was written. A step drops rows without a rejection; this is a defect to report."
            )
        made = Materialization(
            asset=asset, partition_key=partition_key,
            input_sha256=inputs_sha256 if product.complete else f"{inputs_sha256}:incomplete",
            content_sha256=product.content_sha256, read_snapshot=read_snapshot, rows_in=product.rows_in,
            rows_out=product.rows_out, rows_rejected=units, figures=dict(product.figures),
            shown=dict(product.shown), seconds=round(seconds, 3), run_id=message.run_id,
            code_version=message.code_version, created_at=now(),
        )  # fmt: skip
        scope = {"asset": asset, "partition_key": partition_key}
        rejections = product.rejections.select(list(REJECTION_SCHEMA)).with_columns(
            asset=pl.lit(asset), partition_key=pl.lit(partition_key)
        )
        row = {**made.__dict__, "figures": json.dumps(made.figures), "shown": json.dumps(made.shown)}
        writes += [*product.writes, Replace("rejections", rejections, scope)]
        writes.append(Replace("materializations", pl.DataFrame([row]), scope))
        entered[asset] = made
    return entered, lake.commit(writes, message)


def rejected(stage: str, rows: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
    """Rejections of one stage from (key, reason, detail)."""
    return pl.DataFrame([(stage, *row) for row in rows], schema=REJECTION_SCHEMA, orient="row")
