"""The lake's laws as questions to the lake: each returns the offending rows in words, and nothing where it holds."""

import json
from collections.abc import Sequence

import polars as pl

from warehouse.curation.contamination import never_train_on, overlaps
from warehouse.curation.curate import ReleaseSettings, curate
from warehouse.curation.releases import UnknownRelease, lists_of_release, stored_digests
from warehouse.curation.rows import lists_at, release_sha256, still_named
from warehouse.lake import Lake
from warehouse.ledger import latest

KEYS = {
    "queries": ("domain", "qid"), "passages": ("domain", "docid"), "candidates": ("domain", "qid", "docid"),
    "exchanges": ("domain", "purpose", "key"), "campaign_exchanges": ("domain", "purpose", "key"),
    "rankings": ("ranking_id",), "consistent_rankings": ("ranking_id",),
    "training_rows": ("release", "row_id"), "releases": ("release",), "models": ("model",),
    "rerank_runs": ("run", "recipe", "stage", "domain", "qid", "docid"),
}  # fmt: skip
READS_SNAPSHOT = ("teacher_rankings", "mined_judgements", "sft_model", "rl_model", "benchmark_runs")


def counts_that_do_not_add_up(lake: Lake, asset: str) -> list[str]:
    """Every dropped row leaves a rejection, and in = out + rejected."""
    # These columns alone: what an asset shows holds pictures, and every asset asks this whenever it is made.
    columns = ["partition_key", "rows_in", "rows_out", "rows_rejected"]
    made = lake.read("materializations", {"asset": asset}, columns)
    counted = dict(
        lake.read("rejections", {"asset": asset, "stage": asset}, ["partition_key"])
        .group_by("partition_key")
        .len()
        .iter_rows()
    )
    return [
        f"{asset} {row['partition_key']}: {row['rows_in']} in, {row['rows_out']} out, {row['rows_rejected']} rejected, "
        f"{counted.get(row['partition_key'], 0)} rejections kept"
        for row in made.iter_rows(named=True)
        if row["rows_in"] != row["rows_out"] + row["rows_rejected"]
        or row["rows_rejected"] != counted.get(row["partition_key"], 0)
    ]


def work_without_a_snapshot(lake: Lake, assets: Sequence[str] = READS_SNAPSHOT) -> list[str]:
    """Nothing is labelled, trained or scored without the id of a snapshot that exists."""
    known = set(lake.snapshots()["snapshot_id"].to_list())
    made = lake.read("materializations").filter(pl.col("asset").is_in(list(assets)))
    return [
        f"{row['asset']} {row['partition_key']}: read snapshot {row['read_snapshot']}, which does not exist"
        for row in made.iter_rows(named=True)
        if row["read_snapshot"] not in known
    ]


def ids_used_twice(lake: Lake) -> list[str]:
    """Ids are never reused."""
    found = []
    for table, keys in KEYS.items():
        rows = lake.read(table, columns=keys)
        repeated = rows.filter(rows.is_duplicated()).unique().head(3)
        found += [f"{table}: {' / '.join(map(str, row))} stands more than once" for row in repeated.iter_rows()]
    return found


def releases_that_changed(lake: Lake) -> list[str]:
    """A release is immutable: its rows still hash to its name, each to its id, computed from the texts stored."""
    found = []
    for release in lake.read("releases", columns=["release"])["release"]:
        rows = stored_digests(lake, release)
        if not still_named(rows, release):
            found.append(f"release {release[:12]}: its {rows.height} rows no longer hash to its name")
    return found


def releases_that_cannot_be_rebuilt(lake: Lake, newest: int = 1) -> list[str]:
    """A reader can rebuild any past release from the snapshot that it read; the `newest` ones are."""
    found = []
    # A release made by a retraction is another one without some rows; its hash is what vouches for it.
    made = lake.read("releases").filter(pl.col("parent").is_null()).sort("created_at").tail(newest)
    for row in made.iter_rows(named=True):
        at, domains = row["read_snapshot"], row["domains"]
        queries = lake.read("queries", columns=["domain", "qid", "text", "split"], snapshot=at)
        never = never_train_on(lake.read("benchmarks", snapshot=at), queries.filter(pl.col("domain").is_in(domains)))
        settings, taken_back = ReleaseSettings(**json.loads(row["settings"])), lake.read("retractions", snapshot=at)
        again = curate(lists_at(lake, domains, at), never, settings, taken_back)
        if release_sha256(again.rows) != row["release"]:
            found.append(f"release {row['release'][:12]}: snapshot {at} gives {again.rows.height} rows of another hash")
    return found


def released_rows_in_a_benchmark(lake: Lake) -> list[str]:
    """No row of the newest release overlaps a benchmark or a held-out query, but for its vetted exceptions."""
    made = latest(lake, "training_set")
    if made is None:
        raise UnknownRelease("there is no release yet. Materialize training_set first.")
    release = made.figures["release"]
    settings = ReleaseSettings(**json.loads(lake.read("releases", {"release": release})["settings"][0]))
    lists = lists_of_release(lake, release)
    queries = lake.read("queries").filter(pl.col("domain").is_in(lists.rows["domain"].unique().implode()))
    shared = overlaps(lists, never_train_on(lake.read("benchmarks"), queries), settings.overlap)
    return [
        f"row {row['ranking_id']}: {row['test']} overlap of {row['docid'] or 'its query'} with {row['benchmark']} "
        f"{row['item_unit']} {row['item']}: {row['shared']}"
        for row in shared.filter(pl.col("exception").is_null()).iter_rows(named=True)
    ]
