"""What a person reads: the data-quality report, the dataset card and the leaderboard page, from rows of the lake.

Each is one file without anything beside it. Nothing is computed here that is not already a row: a report that
disagrees with the lake cannot be written.
"""

import base64
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Render warehouse/templates/<template> to `path`, whole or not at all."""
    text = _environment().get_template(template).render(**values)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    part.replace(path)
    return path


def reasons_of(rejections: pl.DataFrame, examples: int = 2) -> list[dict[str, Any]]:
    """Rejections by asset, stage and reason, most frequent first, each with some examples."""
    grouped = (
        rejections.sort("asset", "stage", "reason", "partition_key", "key")
        .group_by("asset", "stage", "reason", maintain_order=True)
        .agg(rows=pl.len(), examples=pl.format("{}: {}", "key", "detail").head(examples))
        .sort("rows", descending=True, maintain_order=True)
    )
    return grouped.to_dicts()


def data_uri(png: bytes) -> str:
    """A PNG as the address of an <img>."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
