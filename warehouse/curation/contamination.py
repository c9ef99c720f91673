"""Lists that share text with what they will be measured on are left out, and the finding names both sides.

    never = never_train_on(benchmarks, queries)
    judged = contamination(OverlapPolicy(), never)(lists)

What is compared with what:

| of the list | with benchmark queries | with benchmark passages | with held-out queries of the sources |
|---|---|---|---|
| its query | yes | yes | yes |
| its passages | yes | yes | no |

A source's passages serve its own held-out queries too: a passage that quotes one of them is the answer that retrieval
is there to find, and rejecting it would empty the pool. What must not be shared with the held-out side is the question.

An exception lets one named pair pass, with a reason that somebody wrote down; the list still falls if it shares
anything else. Deliberately absent: the tests themselves (benchmark_index.py).
"""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from warehouse.curation.benchmark_index import ITEMS, BenchmarkIndex
from warehouse.curation.filters import EXCEPTED, REJECTED, Filter, Judged, Lists, decide
from warehouse.curation.findings import FAULTS, memberships

CONTAMINATION = "contamination"
HELD_OUT = "held-out"
REASONS = {
    "contaminated": "The list shares text with a benchmark or a held-out query. Leave it out, or write an exception "
    "with its reason into the profile's `release.overlap.exceptions`.",
}
OVERLAPS = pl.Schema(
    {
        "domain": pl.String(), "ranking_id": pl.String(), "unit": pl.String(), "docid": pl.String(),
        "benchmark": pl.String(), "item": pl.String(), "item_unit": pl.String(), "test": pl.String(),
        "similarity": pl.Float64(), "shared": pl.String(), "exception": pl.String(),
    }
)  # fmt: skip
_STRENGTH = {"exact": 0, "near-duplicate": 2}  # a shared run of words stands between them


class Contaminated(ValueError):
    """A release was stopped because lists overlap a benchmark: the message names the first, `overlaps` has all."""

    def __init__(self, message: str, overlaps: pl.DataFrame) -> None:
        """`overlaps` (OVERLAPS) are those that no exception covers."""
        super().__init__(message)
        self.overlaps = overlaps


class OverlapException(BaseModel):
    """One pair that somebody looked at and let pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    benchmark: str = Field(min_length=1, description="The benchmark's name, as a finding gives it.")
    item: str = Field(min_length=1, description="The id of the benchmark's query or passage.")
    domain: str = Field(min_length=1, description="The domain of the training list.")
    qid: str | None = Field(None, description="The training query that may overlap; this or docid.")
    docid: str | None = Field(None, description="The training passage that may overlap; this or qid.")
    reason: str = Field(min_length=1, description="Why that is no contamination. It stands in the card.")

    @model_validator(mode="after")
    def _one_side(self) -> "OverlapException":
        if (self.qid is None) == (self.docid is None):
            raise ValueError("an exception names one text: a qid or a docid. Write two exceptions for both.")
        return self


class OverlapPolicy(BaseModel):
    """How training lists are kept away from benchmarks and held-out queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    near_duplicate: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Jaccard of word 3-grams from which texts of 13 words or more overlap; 0.6 is a word in twelve.",
    )
    at_finding: Literal["reject", "stop"] = Field(
        "reject", description="Leave the lists out, or make no release at all until every finding is dealt with."
    )
    exceptions: tuple[OverlapException, ...] = Field((), description="Pairs that may overlap, each with a reason.")


def never_train_on(benchmarks: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    """ITEMS: benchmark queries and passages, and the sources' own held-out (dev, test) queries."""
    unit = pl.col("unit").fill_null("query") if "unit" in benchmarks.columns else pl.lit("query")
    known = benchmarks.select("benchmark", "text", item="qid", unit=unit, held_out=pl.lit(False))
    held_out = queries.filter(pl.col("split") != "train").select(
        "text", benchmark=pl.format(HELD_OUT + " {}", "domain"), item="qid", unit=pl.lit("query"),
        held_out=pl.lit(True),
    )  # fmt: skip
    order = list(ITEMS)
    items = pl.concat([known.select(order), held_out.select(order)]).cast(ITEMS)
    return items.sort("held_out", "benchmark", "unit", "item", "text")


def contamination(policy: OverlapPolicy, never: pl.DataFrame) -> Filter:
    """A filter that rejects lists which overlap `never` (ITEMS); raises Contaminated where the policy says stop."""

    def judge(lists: Lists) -> Judged:
        shared = overlaps(lists, never, policy)
        judged = decide(lists, CONTAMINATION, _faults(shared, policy), compared_with(never))
        if policy.at_finding == "stop":
            _stop(shared)
        return Judged(judged.lists, judged.decisions, {"benchmark_overlaps": shared})

    return judge


def compared_with(never: pl.DataFrame) -> str:
    """What lists are held against, in words: the benchmarks that were read, and how many held-out queries."""
    public = never.filter(~pl.col("held_out"))
    held_out = f"{never.height - public.height:,} held-out queries"
    if public.is_empty():
        return f"no benchmark was read; compared with {held_out}"
    names = ", ".join(public["benchmark"].unique().sort())
    return f"compared with {public.height:,} items of {names} and {held_out}"


def overlaps(lists: Lists, never: pl.DataFrame, policy: OverlapPolicy) -> pl.DataFrame:
    """OVERLAPS of `lists` with `never` (ITEMS): a row for each list, text of it and item that meet."""
    asked = lists.rows.select("ranking_id", "domain", "qid", text="query")
    of_queries = _named(BenchmarkIndex(never).find(asked["text"], policy.near_duplicate), asked, never)
    public = never.filter(~pl.col("held_out"))
    held = lists.passages.select("domain", "docid", "text")
    of_passages = _named(BenchmarkIndex(public).find(held["text"], policy.near_duplicate), held, public)
    unfolded = [
        part.join(of_passages, on=["domain", "docid"], how="inner", maintain_order="left_right")
        for part in (memberships(lists.rows) if of_passages.height else ())
    ]
    both = pl.concat(
        [
            of_queries.with_columns(unit=pl.lit("query"), docid=pl.lit(None, pl.String)),
            *(part.with_columns(unit=pl.lit("passage"), qid=pl.lit(None, pl.String)) for part in unfolded),
        ],
        how="diagonal",
    )
    vetted = pl.DataFrame(
        [one.model_dump() for one in policy.exceptions],
        schema=dict.fromkeys(("benchmark", "item", "domain", "qid", "docid", "reason"), pl.String),
    ).unique(["benchmark", "item", "domain", "qid", "docid"], keep="first", maintain_order=True)
    pair = ["benchmark", "item", "domain", "qid", "docid"]
    told = both.join(vetted.rename({"reason": "exception"}), on=pair, how="left", nulls_equal=True)
    return told.select(list(OVERLAPS)).cast(OVERLAPS).sort(pl.all())


def _named(found: pl.DataFrame, texts: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Findings with the names of both sides in place of places."""
    mine = texts.drop("text").with_row_index("text").with_columns(pl.col("text").cast(pl.Int64))
    theirs = items.select("benchmark", name="item", item_unit="unit").with_row_index("item")
    named = found.join(mine, on="text").join(theirs.with_columns(pl.col("item").cast(pl.Int64)), on="item")
    return named.drop("text", "item").rename({"name": "item"})


def _faults(shared: pl.DataFrame, policy: OverlapPolicy) -> pl.DataFrame:
    """One decision a list: rejected for the strongest overlap that nobody excepted, else excepted with the reason."""
    if shared.is_empty():
        return FAULTS.to_frame()
    near = pl.col("test") == "near-duplicate"
    mine = pl.when(pl.col("unit") == "query").then(pl.lit("query")).otherwise(pl.format("passage {}", "docid"))
    said = pl.format("{}: {} overlap with {} {} {}: {}", mine, "test", "benchmark", "item_unit", "item", "shared")
    pardon = pl.format("{}; excepted: {}", said, "exception")
    more = pl.when(pl.len() > 1).then(pl.format(" (and {} more)", pl.len() - 1)).otherwise(pl.lit(""))
    return (
        shared.with_columns(strength=pl.col("test").replace_strict(_STRENGTH, default=1, return_dtype=pl.Int8))
        .with_columns(excepted=pl.col("exception").is_not_null())
        .sort("ranking_id", "excepted", "strength", "benchmark", "item", pl.col("docid"), nulls_last=False)
        .group_by("ranking_id", maintain_order=True)
        .agg(
            pl.when(pl.col("excepted").first()).then(pl.lit(EXCEPTED)).otherwise(pl.lit(REJECTED)).alias("outcome"),
            pl.lit("contaminated").first().alias("reason"),
            pl.col("similarity").first().alias("value"),
            pl.when(near.first()).then(pl.lit(policy.near_duplicate)).otherwise(None).alias("threshold"),
            pl.concat_str(pl.coalesce(pardon, said).first(), more).alias("detail"),
        )
        .select(list(FAULTS))
        .cast(FAULTS)
    )  # fmt: skip


def _stop(shared: pl.DataFrame) -> None:
    open_ones = shared.filter(pl.col("exception").is_null())
    if open_ones.is_empty():
        return
    named = [
        f"{row['ranking_id']} ({row['unit']}{' ' + row['docid'] if row['docid'] else ''}: {row['test']} with "
        f"{row['benchmark']} {row['item_unit']} {row['item']})"
        for row in open_ones.head(10).iter_rows(named=True)
    ]
    more = f" and {open_ones.height - 10} more" if open_ones.height > 10 else ""
    raise Contaminated(
        f"{open_ones['ranking_id'].n_unique()} lists share text with a benchmark or a held-out query, and the policy "
        f"says to stop: {'; '.join(named)}{more}. Nothing was released. Take the "
        "rows out of the source, write an exception with its reason, or set release.overlap.at_finding to reject.",
        open_ones,
    )
