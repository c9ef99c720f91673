"""Taking data back: what a source, a query or a licence reached, and a release without it.

    reach = reach_of(lake, Selector("source", "msmarco"))     # looks; writes nothing
    retraction = retract(lake, reach, reason="…", who="…", code_version="3")

A retraction is one commit: its record (who, when, why, which selector), a mark on every row, release and model that it
reached, and a new release without those rows, content-addressed like any other, in the place of the newest one that had
them. Old releases stay readable and are marked. The record also keeps the same data out of later releases
(curation/retracted.py). What was written stays in the lake's past snapshots: a retraction is no erasure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from warehouse.curation.releases import licenses_of, release_pieces, stored_digests
from warehouse.curation.retracted import QUERY, SELECTORS, SOURCE
from warehouse.curation.rows import ROW_SCHEMA, release_sha256
from warehouse.lake import Append, CommitMessage, Lake, Stream, Write, canonical_sha256, now

_BY_QUERY = "SELECT row_id, domain, qid, split FROM training_rows WHERE release = ? AND concat(domain, '/', qid) = ?"
_BY_SOURCE = """
    SELECT row_id, domain, qid, split FROM training_rows WHERE release = ? AND (source = ? OR row_id IN (
        SELECT t.row_id FROM (SELECT row_id, domain, unnest(docids) AS docid FROM training_rows WHERE release = ?) t
        SEMI JOIN (SELECT domain, docid FROM passages {at} WHERE source = ?) p USING (domain, docid)))
"""
_BY_LICENSE = """
    SELECT row_id, domain, qid, split FROM training_rows
    WHERE release = ? AND (license = ? OR list_contains(passage_licenses, ?))
"""
_KNOWN = {
    "source": "SELECT DISTINCT source AS value FROM queries UNION SELECT DISTINCT source FROM passages",
    "query": "SELECT concat(domain, '/', qid) AS value FROM queries UNION SELECT concat(domain, '/', qid) "
    "FROM training_rows",
    "license": "SELECT DISTINCT license AS value FROM queries UNION SELECT DISTINCT license FROM passages "
    "UNION SELECT unnest(licenses) FROM releases",
}
_SCORES = """
    SELECT model, recipe, stage, domain, queries, measures FROM leaderboard WHERE list_contains(?, model)
    ORDER BY recipe, stage, domain
"""


class NothingToRetract(LookupError):
    """The lake holds nothing under this selector; the message lists what it holds."""


@dataclass(frozen=True)
class Selector:
    """What is taken back: `kind` is source, query or license; a query's `value` is DOMAIN/QID."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True)
class Reach:
    """All that a selector reaches: rows (release, row_id, domain, qid, split), releases, models, scores.

    `releases` are rows of the table, newest first, with `taken` rows of each; `scores` those of the leaderboard.
    """

    selector: Selector
    rows: pl.DataFrame
    releases: pl.DataFrame
    models: pl.DataFrame
    scores: pl.DataFrame


@dataclass(frozen=True)
class Retraction:
    """What was done: the record's id, the release that now stands in the newest one's place, and its rows.

    `successor` is None where no release had such a row, or where nothing would be left.
    """

    retraction: str
    successor: str | None
    rows: int
    snapshot: int


def reach_of(lake: Lake, selector: Selector) -> Reach:
    """What would be taken back. Raises NothingToRetract where the lake never held such a thing."""
    if selector.kind not in SELECTORS:
        raise NothingToRetract(f"there is no selector {selector.kind!r}. Selectors: {', '.join(SELECTORS)}.")
    known = lake.query(_KNOWN[selector.kind])["value"].drop_nulls()
    entries = lake.read("releases").sort("created_at", "release", descending=True)
    found = [
        _rows_of(lake, selector, entry).with_columns(release=pl.lit(entry["release"]))
        for entry in entries.iter_rows(named=True)
    ]
    rows = pl.concat([_NO_ROWS, *(part.select(_NO_ROWS.columns) for part in found)])
    if rows.is_empty() and selector.value not in known:
        listing = ", ".join(known.sort().head(12)) or "none yet"
        raise NothingToRetract(f"the lake holds no {selector}. There are: {listing}.")
    taken = rows.group_by("release").len("taken")
    releases = entries.join(taken, on="release", how="inner", maintain_order="left")
    models = lake.read("models", columns=["model", "recipe", "stage", "release", "created_at"]).filter(
        pl.col("release").is_in(releases["release"].implode())
    )
    return Reach(selector, rows, releases, models.sort("created_at"), lake.query(_SCORES, [models["model"].to_list()]))


def retract(lake: Lake, reach: Reach, *, reason: str, who: str, code_version: str) -> Retraction:
    """Record the retraction, mark what it reached, and release what is left of the newest release; one commit."""
    at = now()
    name = canonical_sha256([reach.selector.kind, reach.selector.value, reason, who, at])[:24]
    record = {
        "retraction": name, "selector": reach.selector.kind, "value": reach.selector.value, "reason": reason,
        "who": who, "retracted_at": at, "code_version": code_version,
    }  # fmt: skip
    successor, rows, writes = _successor(lake, reach, name, code_version)
    marks = pl.concat(
        [
            reach.rows.select(unit=pl.lit("row"), id="row_id", release="release"),
            reach.releases.select(unit=pl.lit("release"), id="release", release="release"),
            reach.models.select(unit=pl.lit("model"), id="model", release="release"),
        ]
    ).with_columns(retraction=pl.lit(name), successor=pl.lit(successor, pl.String))
    told: list[Write] = [Append("retractions", pl.DataFrame([record])), Append("retraction_marks", marks)]
    message = CommitMessage("retraction", name, code_version)
    return Retraction(name, successor, rows, lake.commit([*writes, *told], message))


_NO_ROWS = pl.DataFrame(schema=dict.fromkeys(("release", "row_id", "domain", "qid", "split"), pl.String))


def _rows_of(lake: Lake, selector: Selector, entry: dict[str, Any]) -> pl.DataFrame:
    release, value = entry["release"], selector.value
    if selector.kind == QUERY:
        return lake.query(_BY_QUERY, [release, value])
    if selector.kind == SOURCE:
        sql = _BY_SOURCE.format(at=f"AT (VERSION => {int(entry['read_snapshot'])})")
        return lake.query(sql, [release, value, release, value])
    return lake.query(_BY_LICENSE, [release, value, value])


def _successor(lake: Lake, reach: Reach, retraction: str, code_version: str) -> tuple[str | None, int, list[Write]]:
    """The newest release reached, without the rows reached: its name, its rows and the writes that add it."""
    if reach.releases.is_empty():
        return None, 0, []
    parent = reach.releases.drop("taken").row(0, named=True)
    gone = reach.rows.filter(pl.col("release") == parent["release"])["row_id"].implode()
    kept = stored_digests(lake, parent["release"]).filter(~pl.col("row_id").is_in(gone))
    if kept.is_empty():
        return None, 0, []
    name = release_sha256(kept)
    if lake.read("releases", {"release": name}, ["release"]).height:
        return name, kept.height, []
    licences: set[str] = set()
    for piece in _left(lake, parent["release"], gone, ["row_id", "license", "passage_licenses"]):
        licences.update(licenses_of(piece))
    sizes = dict(kept.group_by("split").len().iter_rows())
    entry = {
        **parent, "release": name, "created_at": now(), "rows": kept.height,
        **{split: sizes.get(split, 0) for split in ("sft", "rl", "dev")},
        "licenses": sorted(licences), "code_version": code_version, "parent": parent["release"],
        "retraction": retraction,
    }  # fmt: skip

    def pieces() -> Iterator[pl.DataFrame]:
        for piece in _left(lake, parent["release"], gone, list(ROW_SCHEMA)):
            yield piece.with_columns(release=pl.lit(name)).select(list(ROW_SCHEMA))

    entries = pl.DataFrame([entry], schema=lake.read("releases", {"release": ""}).schema)
    return name, kept.height, [Stream("training_rows", pieces), Append("releases", entries)]


def _left(lake: Lake, release: str, gone: pl.Series, columns: list[str]) -> Iterator[pl.DataFrame]:
    for piece in release_pieces(lake, release, columns):
        yield piece.filter(~pl.col("row_id").is_in(gone))
