"""How a step of the factory runs, whoever starts it: look up what it reads, hash, return early or work, commit once.

    step = Step(("candidates",), "math", settings={...}, work=work, reads=[("queries", ["math"])])
    performed = perform(lake, step, run_id, active=["math"])

Dagster's assets perform steps, and so do commands that run without Dagster; what one has made, the other finds.
Deliberately absent: what a step does (its `work`), and any orchestrator.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.lake import CommitMessage, Lake
from warehouse.ledger import Materialization, Product, book, enter, input_sha256, latest
from warehouse.pages.markdown import picture, table

CODE_VERSION = "3"
FILES = "_files"  # the figure that names what an asset wrote beside the lake; what is in the home, from there


class NeverMade(LookupError):
    """An asset that a step reads was never made in this home."""


@dataclass(frozen=True)
class Made:
    """A product with what a person would rather look at: a preview table, pictures (PNG bytes by name), files.

    Of the preview the first `preview_rows` are shown.
    """

    product: Product
    preview: pl.DataFrame | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    preview_rows: int = 5


@dataclass(frozen=True)
class Shop:
    """What a step's work may read: its partition, and tables as they were when it began."""

    lake: Lake
    partition_key: str
    snapshot: int
    active: Sequence[str]

    def read(self, table: str, where: Mapping[str, str] | None = None, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table at this work's snapshot."""
        return self.lake.read(table, where, columns, self.snapshot)

    def read_domain(self, table: str, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table that belong to this partition's domain."""
        return self.read(table, {"domain": self.partition_key}, columns)

    def read_active(self, table: str, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table that belong to an active domain."""
        return self.read(table, columns=columns).filter(pl.col("domain").is_in(list(self.active)))


@dataclass(frozen=True)
class Step:
    """Assets of one partition that are made together.

    `settings` is everything beside its inputs that shapes the result; `reads` names the assets read, each with the
    partition keys of it that are read; `work` gives what was made, by asset.
    """

    assets: tuple[str, ...]
    partition_key: str
    settings: Mapping[str, Any]
    work: Callable[[Shop], Mapping[str, Made]]
    reads: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True)
class Performed:
    """The ledger rows of a step's assets, and the snapshot that holds them (None: nothing had changed)."""

    rows: Mapping[str, Materialization]
    committed: int | None


def perform(lake: Lake, step: Step, run_id: str, active: Sequence[str] = (), home: Path = Path()) -> Performed:
    """Make a step's assets, or return early where nothing changed. Raises NeverMade, and whatever its work raises.

    Files below `home` are looked for below it, wherever it has been moved.
    """
    ledger = book(lake)
    inputs_sha256 = _inputs_sha256(ledger, step)
    if _is_made(ledger, step, inputs_sha256, home):
        return Performed({asset: _latest(lake, asset, step.partition_key) for asset in step.assets}, None)
    started = time.monotonic()
    snapshot = lake.snapshot()
    made_now = step.work(Shop(lake, step.partition_key, snapshot, active))
    entered, committed = enter(
        lake,
        {asset: _with_shown(made, home) for asset, made in made_now.items()},
        partition_key=step.partition_key,
        inputs_sha256=inputs_sha256,
        read_snapshot=snapshot,
        seconds=time.monotonic() - started,
        message=CommitMessage(", ".join(step.assets), run_id, CODE_VERSION),
    )
    return Performed(entered, committed)


def is_made(lake: Lake, step: Step, home: Path = Path()) -> bool:
    """Whether a step would return early, since nothing has changed. Raises NeverMade."""
    ledger = book(lake)
    return _is_made(ledger, step, _inputs_sha256(ledger, step), home)


def files_of(made: Materialization, home: Path) -> dict[str, Path]:
    """The files that an asset made beside the lake, by title, where the home lies now."""
    names = made.figures.get(FILES, [])
    return {
        title: home / name
        for title, markdown in made.shown.items()
        for name in names
        # A home of an earlier version has the whole path that the file had then.
        if markdown == f"`{name}`" or markdown.endswith(f"/{name}`")
    }


def own(partition_key: str) -> tuple[str, ...]:
    """The partition keys read of an asset that is partitioned alike."""
    return (partition_key,)


def _inputs_sha256(ledger: Mapping[tuple[str, str], Materialization], step: Step) -> str:
    inputs = [_input(ledger, asset, key) for asset, keys in step.reads for key in keys]
    return input_sha256(CODE_VERSION, step.settings, inputs)


def _is_made(ledger: Mapping[tuple[str, str], Materialization], step: Step, inputs_sha256: str, home: Path) -> bool:
    known = [ledger.get((asset, step.partition_key)) for asset in step.assets]
    return all(
        made is not None and made.input_sha256 == inputs_sha256 and _files_are_there(made, home) for made in known
    )


def _input(ledger: Mapping[tuple[str, str], Materialization], asset: str, partition_key: str) -> Materialization:
    made = ledger.get((asset, partition_key))
    if made is None:
        where = f" for {partition_key}" if partition_key else ""
        raise NeverMade(
            f"{asset}{where} was never made in this home, and this step reads it. Materialize {asset}{where} first, "
            "or run `rankmill run`."
        )
    return made


def _latest(lake: Lake, asset: str, partition_key: str) -> Materialization:
    made = latest(lake, asset, partition_key)
    assert made is not None  # the ledger has just named it
    return made


def _with_shown(made: Made, home: Path) -> Product:
    """The product with what a person looks at as Markdown: rejections by reason, a preview, pictures, files."""
    shown = {title: f"`{_below(home, path)}`" for title, path in made.links.items()}
    if made.product.rejections.height:
        shown["rejected_by_reason"] = table(_by_reason(made.product.rejections))
    if made.preview is not None and made.preview.height:
        shown["preview"] = table(made.preview.head(made.preview_rows))
    shown |= {title: picture(title, png) for title, png in made.pictures.items()}
    files = sorted(_below(home, path) for path in made.links.values())
    return replace(made.product, shown=shown, figures={**made.product.figures, FILES: files})


def _below(home: Path, path: str) -> str:
    return str(Path(path).relative_to(home)) if Path(path).is_relative_to(home) else path


def _files_are_there(made: Materialization, home: Path) -> bool:
    return all((home / path).exists() for path in made.figures.get(FILES, []))


def _by_reason(rejections: pl.DataFrame) -> pl.DataFrame:
    return rejections.group_by("stage", "reason").len("rows").sort("rows", "reason", descending=[True, False])
