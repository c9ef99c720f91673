"""Copies of queries and of passages: clusters are kept, one list stands for many, and no list holds a text twice.

    judged = duplicates(DuplicatePolicy())(lists)

First every list by itself: two of its passages that are copies reject it, as `opposite_labels` where one of them
counts as relevant and the other does not, else as `duplicate_passage`. It is not mended: the teacher's chain speaks of
passages by number. Then the queries of the lists that are left: of copies one stays, by policy, and every other list
names the one that it repeats. Exact copies have the same letters and digits; near copies a Jaccard of word 3-grams from
the policy's threshold on.

A cluster is a representative and the texts close to it, not a chain of neighbours: whatever is left out resembles what
stayed. Copies of a passage in different lists are recorded and reject nothing.
"""

from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from warehouse.curation.filters import REJECTED, Filter, Judged, Lists, decide
from warehouse.curation.findings import FAULTS, memberships
from warehouse.curation.fingerprints import Places, in_pieces
from warehouse.curation.sketches import near_pairs

DUPLICATES = "duplicates"
REASONS = {
    "opposite_labels": "A text stands in the list as relevant and as not relevant. Judge it once, and ask again.",
    "duplicate_passage": "A text stands in the list twice. Assemble the list without the copy, and ask again.",
    "duplicate_query": "Another list asks the same. It stays; this one adds nothing.",
    "near_duplicate_query": "Another list asks nearly the same. It stays; raise `duplicates.query` to keep both.",
}
CLUSTERS = pl.Schema(
    {
        "unit": pl.String(), "cluster": pl.String(), "domain": pl.String(), "id": pl.String(),
        "representative": pl.Boolean(), "similarity": pl.Float64(),
    }
)  # fmt: skip
LEADERS = pl.Schema({"place": pl.Int64(), "leader": pl.Int64(), "exact": pl.Boolean(), "similarity": pl.Float64()})


class DuplicatePolicy(BaseModel):
    """What counts as a copy, and which of several stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: float = Field(0.8, gt=0, le=1, description="Jaccard of word 3-grams from which queries are copies.")
    passage: float = Field(
        0.9, gt=0, le=1, description="Jaccard of word 3-grams from which two passages of a list are the same text."
    )
    representative: Literal["first", "most_consistent"] = Field(
        "first", description="Which list stays: the first by domain and query id, or the one of highest consistency."
    )


def duplicates(policy: DuplicatePolicy) -> Filter:
    """A filter that rejects lists with copies inside and lists whose query is a copy, and tells all clusters."""

    def judge(lists: Lists) -> Judged:
        held = lists.passages.select("domain", "docid", "text").sort("domain", "docid")
        groups = exact_groups(held["text"])
        pairs = _near_groups(held["text"], groups, policy.passage)
        inside = _copies_inside(lists.rows, held.select("domain", "docid"), groups, pairs, policy.passage)
        left = lists.rows.join(inside.select("ranking_id"), on="ranking_id", how="anti", maintain_order="left")
        queries = left.select("ranking_id", "domain", "qid", "query", "consistency").sort(*_priority(policy))
        copies = copies_of_earlier(queries["query"], policy.query)
        judged = decide(lists, DUPLICATES, pl.concat([inside, _copied_queries(queries, copies, policy.query)]))
        clusters = pl.concat(
            [
                _clusters("query", queries.select("domain", id="qid"), copies),
                _clusters("passage", held.select("domain", id="docid"), leaders(groups, pairs)),
            ]
        )
        return Judged(judged.lists, judged.decisions, {"duplicate_clusters": clusters})

    return judge


def copies_of_earlier(texts: pl.Series, threshold: float) -> pl.DataFrame:
    """LEADERS: each text that is a copy of an earlier one that is none itself, with the first such."""
    groups = exact_groups(texts)
    return leaders(groups, _near_groups(texts, groups, threshold))


def exact_groups(texts: pl.Series) -> Places:
    """By text: the place of the first with the same letters and digits; a text without any is like no other."""
    whole = pl.Series(np.concatenate([np.zeros(0, np.uint64), *in_pieces(texts, lambda _, words: words.whole)]))
    places = pl.DataFrame({"whole": whole}).with_row_index("place").with_columns(pl.col("place").cast(pl.Int64))
    first = pl.when(pl.col("whole") == 0).then("place").otherwise(pl.col("place").min().over("whole"))
    return places.select(first)["place"].to_numpy()


def leaders(groups: Places, pairs: pl.DataFrame) -> pl.DataFrame:
    """LEADERS from the groups of exact copies and the near pairs (PAIRS) between the first texts of groups.

    A text is a copy where an earlier leader is close to it, and a leader otherwise. What comes of taking texts one by
    one, in rounds over all pairs at once: whoever has no undecided earlier neighbour is a leader, and whoever is close
    to a leader is a copy.
    """
    left, right = pairs["left"].to_numpy(), pairs["right"].to_numpy()
    copy, leader = np.zeros(len(groups), dtype=bool), np.ones(len(groups), dtype=bool)
    undecided = np.zeros(len(groups), dtype=bool)
    undecided[left], undecided[right] = True, True
    leader[undecided] = False
    while undecided.any():
        waiting = np.zeros(len(groups), dtype=bool)
        waiting[right[undecided[left]]] = True
        new = undecided & ~waiting
        leader |= new
        caught = right[leader[left]]
        copy[caught] = True
        undecided &= ~(new | copy)
    near = pairs.filter(pl.Series(leader[left] & copy[right])) if pairs.height else pairs
    nearest = near.sort("right", "left").unique("right", keep="first", maintain_order=True)
    texts = pl.DataFrame(
        {"place": np.arange(len(groups)), "group": groups}, schema={"place": pl.Int64, "group": pl.Int64}
    )
    told = texts.join(nearest, left_on="group", right_on="right", how="left", maintain_order="left")
    return (
        told.with_columns(leader=pl.coalesce("left", "group"), exact=pl.col("left").is_null())
        .filter(pl.col("leader") != pl.col("place"))
        .select("place", "leader", "exact", pl.col("similarity").fill_null(1.0))
        .cast(LEADERS)
    )


def _priority(policy: DuplicatePolicy) -> list[pl.Expr]:
    names = [pl.col(name) for name in ("domain", "qid", "ranking_id")]
    return names if policy.representative == "first" else [-pl.col("consistency").fill_null(-1.0), *names]


def _near_groups(texts: pl.Series, groups: Places, threshold: float) -> pl.DataFrame:
    """Near pairs (PAIRS) between the first texts of groups."""
    firsts = np.flatnonzero(groups == np.arange(len(groups)))
    pairs = near_pairs(texts.gather(firsts), threshold)
    return pairs.with_columns(left=firsts[pairs["left"].to_numpy()], right=firsts[pairs["right"].to_numpy()])


def _copies_inside(
    rows: pl.DataFrame, held: pl.DataFrame, groups: Places, pairs: pl.DataFrame, threshold: float
) -> pl.DataFrame:
    """FAULTS of the lists that hold a text twice."""
    both = pl.concat([pairs, pairs.select(left="right", right="left", similarity="similarity")])
    group = pl.DataFrame({"group": groups}, schema={"group": pl.Int64})
    alone = group.join(group.group_by("group").len().filter(pl.col("len") == 1), on="group", how="semi")
    lonely = alone.join(both, left_on="group", right_on="left", how="anti")
    crowded = held.with_columns(group).join(lonely, on="group", how="anti")
    if crowded.is_empty():
        return FAULTS.to_frame()
    same = crowded.select(left="group", right="group", similarity=pl.lit(1.0)).unique()
    near = pl.concat([both.select("left", "right", "similarity"), same])
    meetings = []
    for part in memberships(rows):
        mine = part.join(crowded, on=["domain", "docid"], how="inner")
        theirs = mine.select("ranking_id", other="docid", right="group")
        met = mine.join(near, left_on="group", right_on="left").join(theirs, on=["ranking_id", "right"])
        meetings.append(
            met.filter(pl.col("docid") < pl.col("other")).select("ranking_id", "docid", "other", "similarity")
        )
    return _told(rows, pl.concat(meetings), threshold)


def _told(rows: pl.DataFrame, meetings: pl.DataFrame, threshold: float) -> pl.DataFrame:
    concerned = rows.join(meetings.select("ranking_id").unique(), on="ranking_id", how="semi")
    relevant = concerned.select("ranking_id", docid=pl.col("docids").list.gather(pl.col("relevant"))).explode("docid")
    relevant = relevant.drop_nulls().unique().with_columns(positive=pl.lit(True))
    labelled = meetings.join(relevant, on=["ranking_id", "docid"], how="left").join(
        relevant.rename({"docid": "other", "positive": "other_positive"}), on=["ranking_id", "other"], how="left"
    )
    opposite = pl.col("positive").is_null() != pl.col("other_positive").is_null()
    more = pl.when(pl.len() > 1).then(pl.format(" (and {} more)", pl.len() - 1)).otherwise(pl.lit(""))
    return (
        labelled.with_columns(opposite=opposite)
        .sort("ranking_id", "opposite", "similarity", "docid", "other", descending=[False, True, True, False, False])
        .group_by("ranking_id", maintain_order=True)
        .agg(
            outcome=pl.lit(REJECTED),
            reason=pl.when(pl.col("opposite").first())
            .then(pl.lit("opposite_labels"))
            .otherwise(pl.lit("duplicate_passage")),
            value=pl.col("similarity").first(),
            threshold=pl.lit(threshold),
            detail=pl.format("passages {} and {}{}", pl.col("docid").first(), pl.col("other").first(), more),
        )
        .select(list(FAULTS))
        .cast(FAULTS)
    )


def _copied_queries(queries: pl.DataFrame, copies: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """FAULTS of the lists whose query is a copy."""
    names = queries.select("ranking_id", name=pl.format("{}/{}", "domain", "qid"))
    mine = names["ranking_id"].gather(copies["place"].to_numpy())
    theirs = names["name"].gather(copies["leader"].to_numpy())
    told = copies.with_columns(ranking_id=mine, name=theirs)
    return told.select(
        "ranking_id",
        outcome=pl.lit(REJECTED),
        reason=pl.when("exact").then(pl.lit("duplicate_query")).otherwise(pl.lit("near_duplicate_query")),
        value="similarity",
        threshold=pl.lit(threshold),
        detail=pl.when("exact")
        .then(pl.format("same text as {}", "name"))
        .otherwise(pl.format("Jaccard {} with {}", pl.col("similarity").round(3), "name")),
    ).cast(FAULTS)


def _clusters(unit: str, named: pl.DataFrame, copies: pl.DataFrame) -> pl.DataFrame:
    """CLUSTERS: the representative of each cluster and its copies."""
    firsts = copies.select(place="leader", leader="leader", similarity=pl.lit(1.0)).unique()
    members = pl.concat([firsts, copies.select("place", "leader", "similarity")]).sort("leader", "place")
    mine, theirs = (named[members[side].to_numpy()] for side in ("place", "leader"))
    return members.select(
        unit=pl.lit(unit),
        cluster=theirs.select(pl.format("{}/{}", "domain", "id")).to_series(),
        domain=mine["domain"],
        id=mine["id"],
        representative=pl.col("place") == pl.col("leader"),
        similarity="similarity",
    ).cast(CLUSTERS)
