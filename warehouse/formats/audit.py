"""The audit of a set that somebody else made: every filter of a release on every list, and what is found by name.

    audited = audit(read_set(folder), never_train_on(benchmarks, queries), settings, alpha)
    store(lake, audited)                     # a lake of its own: the set's tables, decisions, clusters, overlaps
    write_report(path, "audit.html.j2", values(audited))

A release takes a list out at the first filter that it falls to. An audit asks every filter about every list, so that a
list with two faults shows both; it removes and masks nothing. Two questions are the audit's own: whether the
ranking agrees with the labels (the consistency filter of a release), and whether the teacher's first pick is one of the
positives. A list whose chain the file does not hold (null, and not "") is not judged by it: no prompt of RL has one. A
list is named by the place in the file it came from.

Deliberately absent: reading (registry.py), the filters, and any judgement of a set as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from ranking.consistency import consistency
from warehouse.curation import contamination, contents, duplicates, licences, structure
from warehouse.curation.curate import ReleaseSettings, pipeline
from warehouse.curation.filters import DECISIONS, KEPT, REJECTED, WARNED, Lists
from warehouse.curation.rows import lists_of
from warehouse.formats.files import FormatError
from warehouse.formats.incoming import Incoming
from warehouse.formats.registry import AUDITED, FORMATS
from warehouse.lake import CommitMessage, Lake, Replace, canonical_sha256, now
from warehouse.pages import pictures
from warehouse.pages.reports import data_uri

CONSISTENCY, FIRST_PICK = "self_consistency", "first_pick"
REASONS: Mapping[str, str] = {
    **structure.REASONS, **licences.REASONS, **duplicates.REASONS, **contamination.REASONS, **contents.REASONS,
    "inconsistent": "Ranking and labels disagree (NDCG@10 below alpha). Leave the list out, or ask the teacher anew.",
    "first_pick_not_relevant": "The teacher puts first what the labels call irrelevant. Look which of the two errs.",
}  # fmt: skip
EXAMPLES = 5


@dataclass(frozen=True)
class Audit:
    """A set, what every filter decided about every list (DECISIONS), and rows for further tables."""

    read: Incoming
    lists: Lists
    decisions: pl.DataFrame
    found: Mapping[str, pl.DataFrame]
    alpha: float
    compared: Mapping[str, int]
    """Items of each benchmark that the set was compared with."""

    @cached_property
    def name(self) -> str:
        """The hash of the set: its lists and its texts."""
        return canonical_sha256([self.read.rows.write_json(), self.read.texts.sort("domain", "docid").write_json()])

    def faults(self) -> pl.DataFrame:
        """Decisions other than kept, in the order of the set's rows."""
        place = self.read.rows.select(ranking_id="place").with_row_index("row")
        told = self.decisions.filter(pl.col("outcome") != KEPT).join(place, on="ranking_id")
        return told.sort("row", "filter", "reason").drop("row")

    def clean(self) -> int:
        """Lists that no filter rejects."""
        return self.lists.rows.height - self.faults().filter(pl.col("outcome") == REJECTED)["ranking_id"].n_unique()


def audit(read: Incoming, never: pl.DataFrame, settings: ReleaseSettings, alpha: float) -> Audit:
    """Judge every list of a set. Raises FormatError for a format that holds no labels or no teacher's order."""
    if not FORMATS[read.format].audited:
        raise FormatError(
            f"{read.folder}: the format {read.format} does not hold {read.lacks[0]}, so there is too little to audit. "
            f"An audit reads: {', '.join(AUDITED)}."
        )
    rankings = consistency(read.rankings())
    lists = lists_of(rankings, read.queries(), read.passages())
    decisions, found = [DECISIONS.to_frame()], dict[str, pl.DataFrame]()
    for _, judge in pipeline(settings, never):
        judged = judge(lists)
        decisions.append(_of_chains_held(lists.rows, judged.decisions.cast(DECISIONS)))
        found |= judged.found
    decisions += [_inconsistent(lists.rows, alpha), _first_pick(lists.rows)]
    compared = dict(never.group_by("benchmark").len().sort("benchmark").iter_rows())
    return Audit(read, lists, pl.concat(decisions), found, alpha, compared)


def store(lake: Lake, audited: Audit, run_id: str) -> int:
    """Put the set and what was found into a lake in one commit, in place of what is there; returns its snapshot."""
    read, named = audited.read, pl.lit(audited.name).alias("release")
    rows = audited.lists.rows
    kept = rows.filter(pl.col("consistency") >= audited.alpha)
    domain = rows.select("ranking_id", "domain")
    tables = {
        "queries": read.queries(), "passages": read.passages(), "rankings": read.rankings(),
        "consistent_rankings": kept.select("domain", "ranking_id", "qid", "consistency", alpha=pl.lit(audited.alpha)),
        "decisions": audited.decisions.join(domain, on="ranking_id", how="left").with_columns(named),
        **{table: frame.with_columns(named) for table, frame in audited.found.items()},
    }  # fmt: skip
    message = CommitMessage(f"audit of {read.folder.name}", run_id, read.format)
    return lake.commit([Replace(table, frame) for table, frame in tables.items()], message)


def summary(audited: Audit) -> dict[str, Any]:
    """What the audit says, for a program: counts, and by reason the lists, what to do, and some places."""
    rows = audited.lists.rows
    return {
        "folder": str(audited.read.folder), "format": audited.read.format, "set_sha256": audited.name,
        "lists": rows.height, "queries": audited.read.queries().height, "passages": audited.read.texts.height,
        "clean": audited.clean(), "alpha": audited.alpha,
        "consistent_share": _share(rows, pl.col("consistency") >= audited.alpha),
        "benchmark_items": sum(audited.compared.values()), "reasons": reasons(audited),
        "not_held": list(audited.read.lacks),
    }  # fmt: skip


def reasons(audited: Audit) -> list[dict[str, Any]]:
    """By filter and reason, rejections and most lists first: outcome, lists, what to do, and the first places."""
    value, bound = (pl.col(name).round(3).cast(pl.String).str.strip_suffix(".0") for name in ("value", "threshold"))
    measured = pl.format("measured {}, bound {}", value, bound)
    faults = audited.faults().with_columns(pl.coalesce("detail", measured))
    grouped = (
        faults.group_by("filter", "reason", "outcome", maintain_order=True)
        .agg(
            lists=pl.col("ranking_id").n_unique(),
            examples=pl.struct(place="ranking_id", detail="detail").head(EXAMPLES),
        )
        .sort(pl.col("outcome") != REJECTED, "lists", "filter", "reason", descending=[False, True, False, False])
    )
    return [{**row, "remedy": REASONS.get(row["reason"], "")} for row in grouped.iter_rows(named=True)]


def values(audited: Audit) -> dict[str, Any]:
    """What audit.html.j2 shows."""
    rows = audited.lists.rows
    size = pl.col("docids").list.len()
    by_domain = (
        rows.group_by("domain")
        .agg(
            lists=pl.len(), shortest=size.min(), mean=size.mean(), longest=size.max(),
            positives=pl.col("relevant").list.len().mean(), consistent=(pl.col("consistency") >= audited.alpha).mean(),
            first=(pl.col("final_order").list.first().is_in(pl.col("relevant"))).mean(),
        )
        .sort("domain")
    )  # fmt: skip
    stated = pl.concat([rows.select("license", what=pl.lit("query")), _licences_of(audited.lists)])
    consistent = pictures.histogram(rows["consistency"].to_list(), audited.alpha, "NDCG@10 of the ranking")
    overlaps = audited.found.get("benchmark_overlaps", pl.DataFrame())
    return {
        **summary(audited),
        "created_at": now(),
        "domains": by_domain.to_dicts(),
        "lengths": rows.group_by(length=size).len("lists").sort("length").to_dicts(),
        "licences": stated.group_by("license", "what").len("texts").sort("what", "license").to_dicts(),
        "overlaps": overlaps.to_dicts(),
        "compared": audited.compared,
        "consistency_picture": data_uri(consistent),
    }


def _of_chains_held(rows: pl.DataFrame, decisions: pl.DataFrame) -> pl.DataFrame:
    """Decisions without `empty_chain` of the lists that hold no chain; a list with no other fault is kept."""
    unheld = rows.filter(pl.col("reasoning").is_null())["ranking_id"].implode()
    unjudged = (pl.col("reason") == "empty_chain") & pl.col("ranking_id").is_in(unheld)
    left = decisions.filter(~unjudged.fill_null(False))
    spared = decisions.join(left, on="ranking_id", how="anti").select("ranking_id", "filter", outcome=pl.lit(KEPT))
    return pl.concat([left, spared], how="diagonal")


def _inconsistent(rows: pl.DataFrame, alpha: float) -> pl.DataFrame:
    low = pl.col("consistency") < alpha
    said = pl.format("NDCG@10 {} below alpha {}", pl.col("consistency").round(3), pl.lit(alpha))
    return _decided(rows, CONSISTENCY, low, REJECTED, "inconsistent", pl.col("consistency"), alpha, said)


def _first_pick(rows: pl.DataFrame) -> pl.DataFrame:
    first = pl.col("final_order").list.first()
    wrong = ~first.is_in(pl.col("relevant")).fill_null(False)
    said = pl.format("[{}] is first, relevant are {}", first + 1, _places("relevant"))
    return _decided(rows, FIRST_PICK, wrong, WARNED, "first_pick_not_relevant", pl.lit(None), None, said)


def _decided(
    rows: pl.DataFrame, name: str, where: pl.Expr, outcome: str, reason: str, value: pl.Expr, threshold: float | None,
    detail: pl.Expr,
) -> pl.DataFrame:  # fmt: skip
    def told(expression: pl.Expr) -> pl.Expr:
        return pl.when(where).then(expression).otherwise(None)

    return rows.select(
        "ranking_id", filter=pl.lit(name), outcome=pl.when(where).then(pl.lit(outcome)).otherwise(pl.lit(KEPT)),
        reason=told(pl.lit(reason)), value=value, threshold=pl.lit(threshold), detail=told(detail),
    ).cast(DECISIONS)  # fmt: skip


def _places(column: str) -> pl.Expr:
    return (pl.col(column) + 1).cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True).fill_null("")


def _share(rows: pl.DataFrame, where: pl.Expr) -> float:
    return float(rows.select(where.mean()).item() or 0.0)


def _licences_of(lists: Lists) -> pl.DataFrame:
    return lists.passages.select("license", what=pl.lit("passage"))
