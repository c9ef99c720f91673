"""From a fault of a text to a decision on every list that holds it.

A check reads a column of texts, each once, and gives findings: the place of the text, a reason, what was measured. A
passage's finding then stands on every list that holds the passage, and several of one reason become one decision, so
that a list never carries the same reason twice.

    found = finding(texts, pl.col("text").str.contains("\\ufffd"), "broken_unicode")
    told = on_lists(lists.rows, "passage", found, outcome="rejected")

Deliberately absent: what a fault is (markup.py, language.py, chains.py, personal.py, injection.py).
"""

from collections.abc import Iterator

import polars as pl

TEXTS = pl.Schema({"domain": pl.String(), "id": pl.String(), "text": pl.String()})
"""One kind of text: `id` is the docid of a passage, the ranking_id of a query or a chain."""
FINDINGS = pl.Schema(
    {
        "domain": pl.String(), "id": pl.String(), "reason": pl.String(), "value": pl.Float64(),
        "threshold": pl.Float64(), "detail": pl.String(),
    }
)  # fmt: skip
FAULTS = pl.Schema(
    {
        "ranking_id": pl.String(), "outcome": pl.String(), "reason": pl.String(), "value": pl.Float64(),
        "threshold": pl.Float64(), "detail": pl.String(),
    }
)  # fmt: skip
"""What `filters.decide` takes: DECISIONS without the filter's name."""
SLICE = 100_000  # lists whose passages are unfolded at a time: 20 million memberships at once would not fit
SHOWN = 200  # characters of a detail


def finding(
    texts: pl.DataFrame,
    where: pl.Expr,
    reason: str | pl.Expr,
    value: float | pl.Expr | None = None,
    threshold: float | None = None,
    detail: str | pl.Expr | None = None,
) -> pl.DataFrame:
    """FINDINGS for the rows of `texts` (TEXTS and what `where` reads) in which `where` holds."""

    def expr(given: object, kind: pl.DataType) -> pl.Expr:
        return given if isinstance(given, pl.Expr) else pl.lit(given, kind)

    return texts.filter(where).select(
        "domain",
        "id",
        reason=expr(reason, pl.String()),
        value=expr(value, pl.Float64()).cast(pl.Float64),
        threshold=expr(threshold, pl.Float64()),
        detail=expr(detail, pl.String()),
    )


def none_found() -> pl.DataFrame:
    """FINDINGS without a row."""
    return FINDINGS.to_frame()


def memberships(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Frames of ranking_id, domain and docid, a row for each passage of each list; a list stands whole in a frame."""
    for part in rows.select("ranking_id", "domain", docid="docids").iter_slices(SLICE):
        yield part.explode("docid")


def on_lists(rows: pl.DataFrame, unit: str, found: pl.DataFrame, outcome: str, total: bool = False) -> pl.DataFrame:
    """FAULTS with `outcome` for the lists of `rows` (filters.ROWS) that hold the texts of `found` (FINDINGS).

    `unit` is query, passage or chain and stands in the detail. A list's value is the largest of its
    findings, or with `total` their sum.
    """
    if found.is_empty():
        return FAULTS.to_frame()
    if unit != "passage":
        said = pl.concat_str(pl.lit(unit), "detail", separator=": ", ignore_nulls=True)
        named = found.select("reason", "value", "threshold", ranking_id="id", detail=said)
        return _told(named, outcome, total)
    said = pl.concat_str(pl.format("passage {}", "id"), "detail", separator=": ", ignore_nulls=True)
    about = found.with_columns(detail=said).rename({"id": "docid"})
    parts = (
        _told(held.join(about, on=["domain", "docid"], how="inner", maintain_order="left"), outcome, total)
        for held in memberships(rows)
    )
    return pl.concat([FAULTS.to_frame(), *parts])


def _told(named: pl.DataFrame, outcome: str, total: bool) -> pl.DataFrame:
    """One fault a list and reason; the first detail, and how many more there are."""
    more = pl.when(pl.len() > 1).then(pl.format(" (and {} more)", pl.len() - 1)).otherwise(pl.lit(""))
    return (
        named.group_by("ranking_id", "reason", maintain_order=True)
        .agg(
            pl.col("value").sum() if total else pl.col("value").max(),
            pl.col("threshold").first(),
            detail=pl.concat_str(pl.col("detail").first().str.slice(0, SHOWN), more),
        )
        .with_columns(outcome=pl.lit(outcome))
        .select(list(FAULTS))
        .cast(FAULTS)
    )
