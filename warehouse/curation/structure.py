"""Whether a list is one at all: long enough, both labels, an order that names every passage once.

    judged = structure(StructurePolicy())(lists)

Every fault of a list is named, so a list may carry several rejections. Deliberately absent: what its texts say
(contents.py), and whether two of its passages are the same text (copies are a filter of their own).
"""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from warehouse.curation.filters import REJECTED, Filter, Judged, Lists, decide
from warehouse.curation.findings import FAULTS, memberships

STRUCTURE = "structure"
REASONS = {
    "list_length": "The list holds too few or too many passages. Mend the source, or move the bounds of the policy.",
    "passage_repeated": "The list names a passage twice. Assemble it again; a docid stands once in a list.",
    "passage_unknown": "The list names a passage that is not there. Import the passages it was made from.",
    "not_a_permutation": "final_order does not name each place of the list once. Ask the teacher again.",
    "relevant_out_of_range": "A relevant place lies outside the list, or stands twice. Mend the import.",
    "none_relevant": "No passage counts as relevant, so no order is better than another. Mine more candidates.",
    "all_relevant": "Every passage counts as relevant, so no order is better than another. Add negatives.",
    "empty_query": "The query has no text. Mend the source.",
}


class StructurePolicy(BaseModel):
    """What a list must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: int = Field(2, ge=2, description="Fewest passages of a list.")
    most: int = Field(20, ge=2, description="Most passages of a list.")

    @model_validator(mode="after")
    def _ordered(self) -> "StructurePolicy":
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most}), so no list would pass. Swap them.")
        return self


def structure(policy: StructurePolicy) -> Filter:
    """A filter that rejects what is no list (REASONS)."""

    def judge(lists: Lists) -> Judged:
        size = pl.col("docids").list.len().fill_null(0).cast(pl.Int64)
        rows = lists.rows.with_columns(size=size, positives=pl.col("relevant").list.len().fill_null(0).cast(pl.Int64))
        size, positives, relevant = pl.col("size"), pl.col("positives"), pl.col("relevant").list
        no_permutation = pl.col("final_order").list.sort().ne_missing(pl.int_ranges(0, size, dtype=pl.Int64))
        outside = (relevant.min() < 0) | (relevant.max() >= size) | (relevant.drop_nulls().list.n_unique() != positives)
        bound = pl.when(size < policy.least).then(policy.least).otherwise(policy.most)
        found = [
            _fault(rows, ~size.is_between(policy.least, policy.most), "list_length", size, bound),
            _fault(rows, pl.col("docids").list.n_unique().fill_null(0) != size, "passage_repeated"),
            _fault(rows, no_permutation, "not_a_permutation", detail=_shown("final_order")),
            _fault(rows, outside.fill_null(False), "relevant_out_of_range", detail=_shown("relevant")),
            _fault(rows, positives == 0, "none_relevant", positives),
            _fault(rows, (positives >= size) & (positives > 0), "all_relevant", positives, size),
            _fault(rows, pl.col("query").str.strip_chars().fill_null("") == "", "empty_query"),
            _unknown(lists),
        ]
        return decide(lists, STRUCTURE, pl.concat(found))

    return judge


def _fault(
    rows: pl.DataFrame,
    where: pl.Expr,
    reason: str,
    value: pl.Expr | None = None,
    threshold: pl.Expr | None = None,
    detail: pl.Expr | None = None,
) -> pl.DataFrame:
    nothing = pl.lit(None)
    return (
        rows.filter(where)
        .select(
            "ranking_id", outcome=pl.lit(REJECTED), reason=pl.lit(reason), value=nothing if value is None else value,
            threshold=nothing if threshold is None else threshold, detail=nothing if detail is None else detail,
        )
        .cast(FAULTS)
    )  # fmt: skip


def _shown(column: str) -> pl.Expr:
    """Places counted from one, as a person reads them in the prompt."""
    places = (pl.col(column) + 1).cast(pl.List(pl.String)).list.head(24).list.join(" ", ignore_nulls=True)
    return pl.format("{} of {} passages", places.fill_null("nothing"), "size")


def _unknown(lists: Lists) -> pl.DataFrame:
    known = lists.passages.select("domain", "docid")
    parts = [
        held.join(known, on=["domain", "docid"], how="anti")
        .filter(pl.col("docid").is_not_null())
        .group_by("ranking_id", maintain_order=True)
        .agg(value=pl.len(), detail=pl.format("passage {}", pl.col("docid").first()))
        .select(
            "ranking_id", "value", "detail", outcome=pl.lit(REJECTED), reason=pl.lit("passage_unknown"),
            threshold=pl.lit(0.0),
        )
        .select(list(FAULTS))
        .cast(FAULTS)
        for held in memberships(lists.rows)
    ]  # fmt: skip
    return pl.concat([FAULTS.to_frame(), *parts])
