"""How every asset is made: look up what it reads, hash, return early or work, commit once, report the same keys.

return produce(context, factory, reads=("queries", "passages"), settings={...}, work=lambda shop: {...})
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.resources import Factory
from warehouse.lake import CommitMessage, Lake
from warehouse.laws import counts_that_do_not_add_up
from warehouse.ledger import WHOLE, Materialization, Product, book, enter, input_sha256, latest

CODE_VERSION = "1"
COUNTS = "counts_add_up"
FILES = "_files"  # the figure that names what an asset wrote beside the lake
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 160


@dataclass(frozen=True)
class Made:
    """A product with what a person would rather look at: a preview table and pictures (PNG bytes by name)."""

    product: Product
    preview: pl.DataFrame | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shop:
    """What an asset's work may read: its partition, and tables as they were when it began."""

    factory: Factory
    lake: Lake
    partition_key: str
    snapshot: int

    def read(self, table: str, where: Mapping[str, str] | None = None, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table at this work's snapshot."""
        return self.lake.read(table, where, columns, self.snapshot)

    def read_domain(self, table: str, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table that belong to this partition's domain."""
        return self.read(table, {"domain": self.partition_key}, columns)

    def read_active(self, table: str, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table that belong to an active domain."""
        return self.read(table, columns=columns).filter(pl.col("domain").is_in(self.factory.active_domains()))


def produce(
    context: dg.AssetExecutionContext,
    factory: Factory,
    *,
    reads: Sequence[tuple[str, Sequence[str]]],
    settings: Mapping[str, Any],
    work: Callable[[Shop], Mapping[str, Made]],
) -> Iterator[dg.MaterializeResult]:
    """Materialize the step's assets (keys of what `work` returns), or return early where nothing changed.

    `reads` names the assets read, each with the partition keys of it that are read. `settings` is everything else that
    shapes the result. Raises dg.Failure where an input was never made.
    """
    names = sorted(key.path[-1] for key in context.selected_asset_keys)
    partition_key = context.partition_key if context.has_partition_key else WHOLE
    lake = factory.lake
    ledger = book(lake)
    inputs = [_input(ledger, asset, key) for asset, keys in reads for key in keys]
    key = input_sha256(CODE_VERSION, settings, inputs)
    known = [ledger.get((name, partition_key)) for name in names]
    if all(made is not None and made.input_sha256 == key and _files_are_there(made) for made in known):
        for name in names:
            unchanged = latest(lake, name, partition_key)
            assert unchanged is not None  # the ledger has just named it
            yield _result(lake, name, unchanged, {"unchanged": True})
        return
    started = time.monotonic()
    snapshot = lake.snapshot()
    made_now = work(Shop(factory, lake, partition_key, snapshot))
    entered, committed = enter(
        lake,
        {name: _with_shown(made) for name, made in made_now.items()},
        partition_key=partition_key,
        inputs_sha256=key,
        read_snapshot=snapshot,
        seconds=time.monotonic() - started,
        message=CommitMessage(", ".join(names), context.run_id, CODE_VERSION),
    )
    for name, row in entered.items():
        yield _result(lake, name, row, {"unchanged": False, "snapshot": committed})


def law(asset: str) -> list[dg.AssetCheckSpec]:
    """The check that every asset carries and `produce` answers: rows in = rows out + rejected, each with its reason."""
    description = "Rows in = rows out + rejected, and every rejected row is kept with its reason."
    return [dg.AssetCheckSpec(COUNTS, asset=asset, description=description, blocking=True)]


def own(partition_key: str) -> tuple[str, ...]:
    """The partition keys read of an asset that is partitioned alike."""
    return (partition_key,)


def _input(ledger: Mapping[tuple[str, str], Materialization], asset: str, partition_key: str) -> Materialization:
    made = ledger.get((asset, partition_key))
    if made is None:
        where = f" for {partition_key}" if partition_key else ""
        raise dg.Failure(
            description=f"{asset}{where} was never made in this home, and this asset reads it. Materialize {asset}"
            f"{where} first, or run `rankmill run`.",
            allow_retries=False,
        )
    return made


def _result(lake: Lake, name: str, row: Materialization, extra: Mapping[str, Any]) -> dg.MaterializeResult:
    figures = {key: value for key, value in row.figures.items() if not key.startswith("_")}
    metadata: dict[str, Any] = {
        "rows_in": row.rows_in,
        "rows_out": row.rows_out,
        "rows_rejected": row.rows_rejected,
        "seconds": row.seconds,
        "read_snapshot": row.read_snapshot,
        "content_sha256": row.content_sha256,
        **{key: value for key, value in figures.items() if isinstance(value, (int, float, str, bool))},
        **{key: dg.MetadataValue.json(value) for key, value in figures.items() if isinstance(value, (dict, list))},
        **{title: dg.MetadataValue.md(markdown) for title, markdown in row.shown.items()},
        **extra,
    }
    offending = counts_that_do_not_add_up(lake, name)
    counted = dg.AssetCheckResult(
        check_name=COUNTS,
        asset_key=name,
        passed=not offending,
        description="; ".join(offending[:10]) or None,
        metadata={"offending": len(offending)},
    )
    version = dg.DataVersion(row.content_sha256)
    return dg.MaterializeResult(asset_key=name, metadata=metadata, data_version=version, check_results=[counted])


def _with_shown(made: Made) -> Product:
    """The product with what a person looks at as Markdown: rejections by reason, a preview, pictures, files."""
    shown = {title: f"`{path}`" for title, path in made.links.items()}
    if made.product.rejections.height:
        shown["rejected_by_reason"] = table(_by_reason(made.product.rejections))
    if made.preview is not None and made.preview.height:
        shown["preview"] = table(made.preview.head(PREVIEW_ROWS))
    shown |= {title: picture(title, png) for title, png in made.pictures.items()}
    return replace(made.product, shown=shown, figures={**made.product.figures, FILES: sorted(made.links.values())})


def _files_are_there(made: Materialization) -> bool:
    return all(Path(path).exists() for path in made.figures.get(FILES, []))


def _by_reason(rejections: pl.DataFrame) -> pl.DataFrame:
    return rejections.group_by("stage", "reason").len("rows").sort("rows", "reason", descending=[True, False])


def picture(title: str, png: bytes) -> str:
    """A PNG as Markdown that needs no file beside it."""
    import base64

    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def table(frame: pl.DataFrame) -> str:
    """A frame as a Markdown table, long cells cut."""
    header = f"| {' | '.join(frame.columns)} |\n| {' | '.join('---' for _ in frame.columns)} |\n"
    return header + "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in frame.iter_rows())


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]}…"
