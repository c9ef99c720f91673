"""From consistent rankings to the rows of a release: one filter after another, then a split and an id for what is left.

    lists = lists_at(lake, domains, snapshot)                          # rows.py
    made = curate(lists, never_train_on(benchmarks, queries), settings)
    name, writes = release_writes(lake, made, ...)                     # releases.py

Every filter is a function of frames that decides about every list it is handed, and every list that falls comes back
as one rejection with its reason. The order of filters is that of their cost and of their sense: what is no list is
nobody's copy, masked texts are compared as they are released, and only what would be released is held against the
benchmarks.

Deliberately absent: the filters (modules of their own), and passage texts on rows (rows.py, while they are written).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from warehouse.curation.contamination import CONTAMINATION, OverlapPolicy, contamination
from warehouse.curation.contents import CONTENTS, ContentsPolicy, contents
from warehouse.curation.duplicates import DUPLICATES, DuplicatePolicy, duplicates
from warehouse.curation.filters import DECISIONS, REJECTED, Filter, Judged, Lists
from warehouse.curation.licences import LICENCES, LicencePolicy, licences, read_policy
from warehouse.curation.retracted import RETRACTED, retracted
from warehouse.curation.rows import ROW_ID_DIGITS, digests, sha256_of, whole_rows
from warehouse.curation.structure import STRUCTURE, StructurePolicy, structure
from warehouse.ledger import REJECTION_SCHEMA

STAGE = "training_set"
Watch = Callable[[str, Callable[[], Judged]], Judged]


class ReleaseSettings(BaseModel):
    """How the training set is cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dev_share: float = Field(
        0.1, ge=0, lt=1, description="Share of rows kept for choosing a model, by hash of the query."
    )
    sft_share: float = Field(0.5, gt=0, le=1, description="Share of the other rows that goes to SFT; the rest to RL.")
    seed: int = Field(0, description="Seed of the split; the same query always falls on the same side.")
    structure: StructurePolicy = Field(StructurePolicy(), description="What a list must be.")
    licences: LicencePolicy = Field(
        default_factory=read_policy, description="Licences that may be trained on and published: a file, or `default`."
    )
    contents: ContentsPolicy = Field(ContentsPolicy(), description="What is done about each fault of a text.")
    duplicates: DuplicatePolicy = Field(DuplicatePolicy(), description="What counts as a copy, and which one stays.")
    overlap: OverlapPolicy = Field(OverlapPolicy(), description="How lists are kept away from benchmarks.")


@dataclass(frozen=True)
class Curated:
    """What a release is made of: light rows with row_id, split and content_sha256, in row_id order, and their passages.

    `decisions` are all filters' on all lists (with their domain), `found` rows of further tables, by table.
    """

    rows: pl.DataFrame
    passages: pl.DataFrame
    decisions: pl.DataFrame
    found: Mapping[str, pl.DataFrame]

    def rejections(self) -> pl.DataFrame:
        """One rejection a list that fell (REJECTION_SCHEMA): the first reason of the filter that it fell to."""
        fallen = self.decisions.filter(pl.col("outcome") == REJECTED)
        first = fallen.unique("ranking_id", keep="first", maintain_order=True)
        return first.select(
            stage=pl.lit(STAGE), key="ranking_id", reason="reason",
            detail=pl.col("detail").fill_null(pl.format("{} {}", "filter", "reason")),
        ).select(list(REJECTION_SCHEMA))  # fmt: skip

    def licenses(self) -> list[str]:
        """Every licence that a row is under: those of its query and of its passages."""
        held = self.rows.select("domain", docid="docids").lazy().explode("docid").unique()
        shown = self.passages.lazy().join(held, on=["domain", "docid"], how="semi").select("license").unique().collect()
        return sorted({*self.rows["license"].drop_nulls(), *shown["license"].drop_nulls()})


def pipeline(
    settings: ReleaseSettings, never: pl.DataFrame, taken_back: pl.DataFrame | None = None
) -> list[tuple[str, Filter]]:
    """The filters of a release, in their order; `never` (benchmark_index.ITEMS) is what no list may share text with.

    `taken_back` are rows of `retractions`: what falls under one is left out before anything else is looked at.
    """
    return [
        *([] if taken_back is None or taken_back.is_empty() else [(RETRACTED, retracted(taken_back))]),
        (STRUCTURE, structure(settings.structure)),
        (LICENCES, licences(settings.licences)),
        (CONTENTS, contents(settings.contents)),
        (DUPLICATES, duplicates(settings.duplicates)),
        (CONTAMINATION, contamination(settings.overlap, never)),
    ]


def _at_once(_: str, work: Callable[[], Judged]) -> Judged:
    return work()


def curate(
    lists: Lists,
    never: pl.DataFrame,
    settings: ReleaseSettings,
    taken_back: pl.DataFrame | None = None,
    watch: Watch = _at_once,
) -> Curated:
    """The lists that every filter lets pass, with an id and a split, and all that was decided on the way.

    `watch(name, work)` runs each filter: whoever measures hands in one that looks at the clock.
    """
    domains = lists.rows.select("ranking_id", "domain")
    decisions, found = [DECISIONS.to_frame()], dict[str, pl.DataFrame]()
    for name, judge in pipeline(settings, never, taken_back):
        judged = watch(name, partial(judge, _held(lists)))
        lists = judged.lists
        decisions.append(judged.decisions.cast(DECISIONS).sort("ranking_id", "reason", "detail"))
        found |= judged.found
    rows = _named(lists, settings)
    told = pl.concat(decisions).join(domains, on="ranking_id", how="left", maintain_order="left")
    return Curated(rows, lists.passages, told, found)


def splits(queries: pl.DataFrame, settings: ReleaseSettings) -> pl.Series:
    """sft, rl or dev for each (domain, qid), from their own hash: the same whatever other rows there are."""
    named = queries.select(pl.format("{}/split/{}/{}", pl.lit(settings.seed), "domain", "qid")).to_series()
    draw = sha256_of(named).str.slice(0, 13).str.to_integer(base=16, dtype=pl.Int64) / 16**13
    dev = settings.dev_share
    return pl.select(
        split=pl.when(draw < dev).then(pl.lit("dev"))
        .when(draw < dev + (1 - dev) * settings.sft_share).then(pl.lit("sft"))
        .otherwise(pl.lit("rl"))
    )["split"]  # fmt: skip


def _held(lists: Lists) -> Lists:
    """The lists, and of the passages only those that a list still holds: nobody reads the others."""
    held = lists.rows.lazy().select("domain", docid="docids").explode("docid").unique()
    kept = lists.passages.lazy().join(held, on=["domain", "docid"], how="semi", maintain_order="left").collect()
    return Lists(lists.rows, kept)


def _named(lists: Lists, settings: ReleaseSettings) -> pl.DataFrame:
    """Rows with content_sha256, the row_id that it begins with, and a split; in row_id order."""
    hashed = lists.passages.with_columns(digest=sha256_of(lists.passages["text"]))
    numbered = lists.rows.with_row_index("row_id").with_columns(pl.col("row_id").cast(pl.String))
    told = digests(whole_rows(numbered, hashed, "digest"), hashed=True)
    content = told.sort(pl.col("row_id").cast(pl.Int64))["content_sha256"]
    named = lists.rows.with_columns(
        content_sha256=content, row_id=content.str.slice(0, ROW_ID_DIGITS), split=splits(lists.rows, settings)
    )  # fmt: skip
    return named.sort("row_id")
