"""Immutable, content-addressed releases of the training set.

A release's name is the sha256 over its canonical rows, so the same inputs give the same name on any machine, and a
release that exists is never written again: new rows make a new release beside it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.curation.curate import LATER, ROW_SCHEMA
from warehouse.lake import Append, Lake, content_sha256, now


class UnknownRelease(LookupError):
    """No release has this hash, or several begin with it; the message lists those that exist."""


def release_sha256(rows: pl.DataFrame) -> str:
    """The content hash of curated rows: every column but `release`, in row_id order.

    A column of LATER that holds nothing counts as absent: a release made before it came keeps its name.
    """
    columns = [name for name in ROW_SCHEMA if name != "release"]
    held = [name for name in columns if name not in LATER or rows[name].null_count() < rows.height]
    return content_sha256(rows.select(held), ["row_id"])


def release_writes(
    lake: Lake,
    rows: pl.DataFrame,
    *,
    domains: Sequence[str],
    read_snapshot: int,
    settings: Mapping[str, Any],
    code_version: str,
) -> tuple[str, list[Append]]:
    """The hash of `rows` as a release and the writes that add it; no writes when the lake has it already.

    `domains` are all that were read: a domain without a row of its own still keeps others' rows out.
    """
    release = release_sha256(rows)
    if lake.read("releases", {"release": release}, ["release"]).height:
        return release, []
    sizes = dict(rows.group_by("split").len().iter_rows())
    entry = {
        "release": release, "created_at": now(), "rows": rows.height,
        **{split: sizes.get(split, 0) for split in ("sft", "rl", "dev")},
        "domains": sorted(domains), "licenses": licenses_of(rows),
        "read_snapshot": read_snapshot, "settings": json.dumps(settings, sort_keys=True), "code_version": code_version,
    }  # fmt: skip
    named = rows.with_columns(release=pl.lit(release)).select(list(ROW_SCHEMA))
    return release, [Append("training_rows", named), Append("releases", pl.DataFrame([entry]))]


def licenses_of(rows: pl.DataFrame) -> list[str]:
    """Every licence that rows are under: those of their queries and those of their passages."""
    return sorted({*rows["license"], *rows["passage_licenses"].explode().drop_nulls()})


def read_release(lake: Lake, release: str) -> pl.DataFrame:
    """The rows of a release in row_id order; `release` may be a unique beginning of its hash."""
    known = lake.read("releases", columns=["release"])["release"].to_list()
    matches = [name for name in known if name.startswith(release)]
    if len(matches) != 1:
        listing = ", ".join(name[:12] for name in known) or "none yet: run `rankmill run`"
        raise UnknownRelease(f"release {release!r} names {len(matches)} releases. Releases: {listing}.")
    return lake.read("training_rows", {"release": matches[0]}).sort("row_id")


def export_rows(lake: Lake, release: str, folder: Path) -> Path:
    """The release's rows as <folder>/<hash12>/rows.parquet for a training process; whole or not at all."""
    path = folder / release[:12] / "rows.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        read_release(lake, release).write_parquet(part)
        part.replace(path)
    return path
