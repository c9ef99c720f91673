"""Immutable, content-addressed releases of the training set.

A release's name is the sha256 over the ids, splits and digests of its rows in row_id order (rows.py says what a digest
covers), so the same inputs give the same name on any machine, and a release that exists is never written again: new
rows make a new release beside it. Rows are written, checked and exported piece by piece; none of that needs memory
for a whole release. Decisions, clusters and overlaps are what was found on the way to a release: they are written with
it, and again when the same rows come out of another curation.

Deliberately absent: which rows a release holds (curate.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.curation.curate import Curated
from warehouse.curation.filters import PASSAGES, ROWS, Lists
from warehouse.curation.rows import ROW_CONTENT, ROW_SCHEMA, digests, release_sha256, whole_rows
from warehouse.lake import Append, Lake, Stream, Write, now

PIECE_ROWS = 16_384
SPLITS = ("sft", "rl", "dev")
SHOWN_FINDINGS = 100  # all of them are in the table of overlaps


class UnknownRelease(LookupError):
    """No release has this hash, or several begin with it; the message lists those that exist."""


def release_writes(
    lake: Lake,
    made: Curated,
    *,
    domains: Sequence[str],
    read_snapshot: int,
    settings: Mapping[str, Any],
    code_version: str,
) -> tuple[str, list[Write]]:
    """The name of `made` as a release and the writes that add it; the lake's rows are not written twice.

    `domains` are all that were read: a domain without a row of its own still keeps others' rows out.
    """
    release = release_sha256(made.rows)
    named = pl.lit(release).alias("release")
    told: list[Write] = [
        _replaced("decisions", made.decisions.with_columns(named), release),
        *(_replaced(table, found.with_columns(named), release) for table, found in made.found.items()),
    ]
    if lake.read("releases", {"release": release}, ["release"]).height:
        return release, told
    sizes = dict(made.rows.group_by("split").len().iter_rows())
    entry = {
        "release": release, "created_at": now(), "rows": made.rows.height,
        **{split: sizes.get(split, 0) for split in SPLITS},
        "domains": sorted(domains), "licenses": made.licenses(),
        "read_snapshot": read_snapshot, "settings": json.dumps(settings, sort_keys=True), "code_version": code_version,
    }  # fmt: skip

    def pieces() -> Iterator[pl.DataFrame]:
        for piece in whole_rows(made.rows, made.passages):
            yield piece.with_columns(named).select(list(ROW_SCHEMA)).cast(ROW_SCHEMA)

    return release, [Stream("training_rows", pieces), Append("releases", pl.DataFrame([entry])), *told]


def release_figures(made: Curated) -> dict[str, Any]:
    """What the ledger shows of a release: rows by split, lists that overlap a benchmark, and the first of them."""
    shared = made.found["benchmark_overlaps"]
    named = {"key": "ranking_id", "benchmark": "benchmark", "item": "item", "test": "test", "shared": "shared"}
    return {
        **{split: made.rows.filter(pl.col("split") == split).height for split in SPLITS},
        "contaminated": shared.filter(pl.col("exception").is_null())["ranking_id"].n_unique(),
        "findings": shared.filter(pl.col("exception").is_null()).select(**named).head(SHOWN_FINDINGS).to_dicts(),
    }


def _replaced(table: str, frame: pl.DataFrame, release: str) -> Stream:
    return Stream(table, lambda: frame.iter_slices(1 << 20), {"release": release})


def licenses_of(rows: pl.DataFrame) -> list[str]:
    """Every licence that rows of a release are under: those of their queries and those of their passages."""
    return sorted({*rows["license"].drop_nulls(), *rows["passage_licenses"].explode().drop_nulls()})


def known_release(lake: Lake, release: str) -> str:
    """The whole hash of the release that begins with `release`. Raises UnknownRelease."""
    known = lake.read("releases", columns=["release"])["release"].to_list()
    matches = [name for name in known if name.startswith(release)]
    if len(matches) != 1:
        listing = ", ".join(name[:12] for name in known) or "none yet: run `rankmill run`"
        raise UnknownRelease(f"release {release!r} names {len(matches)} releases. Releases: {listing}.")
    return str(matches[0])


def read_release(lake: Lake, release: str, columns: Sequence[str] = ()) -> pl.DataFrame:
    """The rows of a release in row_id order; `release` may be a unique beginning of its hash."""
    chosen = [*columns, "row_id"] if columns and "row_id" not in columns else columns
    return lake.read("training_rows", {"release": known_release(lake, release)}, chosen).sort("row_id")


def release_pieces(lake: Lake, release: str, columns: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """The same rows, in pieces that fit into memory."""
    return lake.pieces("training_rows", "row_id", PIECE_ROWS, {"release": known_release(lake, release)}, columns)


def stored_digests(lake: Lake, release: str) -> pl.DataFrame:
    """row_id, split and content_sha256 of a release's rows, computed anew from the texts that are stored."""
    return digests(release_pieces(lake, release, ["row_id", "split", *ROW_CONTENT]))


def lists_of_release(lake: Lake, release: str) -> Lists:
    """A release as lists again (`ranking_id` is the row's id), with each passage text once."""
    light = [name for name in ROWS if name not in ("gold_answer", "ranking_id")]
    rows, passages = [ROWS.to_frame()], PASSAGES.to_frame()
    for piece in release_pieces(lake, release, ["row_id", "passages", *light]):
        rows.append(
            piece.select(pl.lit(None, pl.String).alias("gold_answer"), *light, ranking_id="row_id").select(list(ROWS))
        )
        texts = piece.select("domain", docid="docids", text="passages").explode("docid", "text", empty_as_null=False)
        new = texts.unique().join(passages, on=["domain", "docid", "text"], how="anti")
        nothing = pl.lit(None, pl.String)
        passages = pl.concat([passages, new.with_columns(source=nothing, license=nothing).select(list(PASSAGES))])
    return Lists(pl.concat(rows), passages)


def export_rows(lake: Lake, release: str, folder: Path) -> Path:
    """The release's rows as <folder>/<hash12>/rows.parquet for a training process; whole or not at all."""
    import pyarrow.parquet as pq

    path = folder / release[:12] / "rows.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        schema = pl.DataFrame(schema=ROW_SCHEMA).to_arrow().schema
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for piece in release_pieces(lake, release):
                writer.write_table(piece.select(list(ROW_SCHEMA)).to_arrow().cast(schema))
        part.replace(path)
    return path
