"""A small factory's rows, made by rule: queries, passages, rankings and benchmarks of two domains; and a release."""

from __future__ import annotations

import random

import polars as pl

from warehouse.curation.contamination import never_train_on
from warehouse.curation.curate import Curated, ReleaseSettings, curate
from warehouse.curation.releases import release_figures, release_writes
from warehouse.curation.rows import lists_of, release_sha256
from warehouse.lake import CommitMessage, Lake, Replace
from warehouse.ledger import Materialization, Product, enter, rejected

DOMAINS = ("math", "web_search")
TRAIN, DEV = 20, 3
SETTINGS = ReleaseSettings()
# The words of a query are its own, so that no two queries are near duplicates unless a test makes them so.
_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "pra", "sti", "vor", "wen", "zal")
LONG = "how do you show that a graph in which every vertex has degree at least two must contain a cycle somewhere"


def words(key: str, count: int) -> str:
    """`count` invented words that follow from `key` alone."""
    draw = random.Random(key)
    return " ".join("".join(draw.choices(_SYLLABLES, k=3)) for _ in range(count))


def message(asset: str = "candidates", run_id: str = "run-1") -> CommitMessage:
    return CommitMessage(asset, run_id, "1")


def candidates(domain: str, count: int, score: float = 1.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "domain": [domain] * count, "qid": ["q"] * count, "docid": [f"d{n}" for n in range(count)],
            "rank": list(range(1, count + 1)), "score": [score] * count, "retriever": ["bm25"] * count,
        }
    )  # fmt: skip


def queries() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "domain": domain, "qid": f"{split}{n}", "text": words(f"{domain}/{split}{n}", 9) + "?", "split": split,
                "source": "tiny", "license": "CC0-1.0", "url": None, "gold_answer": "so", "excluded_docids": [],
                "text_sha256": "",
            }
            for domain in DOMAINS for split, count in (("train", TRAIN), ("dev", DEV)) for n in range(count)
        ],
        schema_overrides={"excluded_docids": pl.List(pl.String), "url": pl.String},
    )  # fmt: skip


def passages() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "domain": domain, "docid": f"d{n}", "title": f"Title {n}", "text": words(f"{domain}/d{n}", 12),
                "source": "tiny", "license": "CC0-1.0", "url": None, "text_sha256": "",
            }
            for domain in DOMAINS for n in range(6)
        ],
        schema_overrides={"url": pl.String},
    )  # fmt: skip


def rankings() -> pl.DataFrame:
    initial = [f"d{n}" for n in range(5)]
    return pl.DataFrame(
        [
            {
                "domain": domain, "ranking_id": f"{domain}-{n}", "qid": f"train{n}", "initial_list": initial,
                "final_list": initial[::-1], "relevant_docids": ["d4", f"d{n % 4}"], "reasoning": f"Because {n}.",
                "judged_by": "mined", "list_seed": n, "judge": "stand-in-teacher", "exchange_key": f"key{n}",
                "prompt_sha256": "prompt",
            }
            for domain in DOMAINS for n in range(TRAIN)
        ]
    )  # fmt: skip


def consistent() -> pl.DataFrame:
    return rankings().select("domain", "ranking_id", "qid", consistency=pl.lit(0.75), alpha=pl.lit(0.4))


def benchmarks() -> pl.DataFrame:
    return pl.DataFrame([{"benchmark": "bench", "qid": "b1", "text": LONG, "location": "here"}])


def curated(shuffle: int | None = None) -> Curated:
    """The rows of the release; `shuffle` is a seed that puts every input in another order."""
    frames = [rankings(), consistent(), queries(), passages(), benchmarks()]
    if shuffle is not None:
        frames = [frame.sample(fraction=1.0, shuffle=True, seed=shuffle) for frame in frames]
    ranked, kept, asked, texts, held = frames
    joined = ranked.join(kept.select("domain", "ranking_id", "consistency"), on=["domain", "ranking_id"])
    return curate(lists_of(joined, asked, texts), never_train_on(held, asked), SETTINGS)


def release_hash(shuffle: int) -> str:
    """What a process of its own prints."""
    rows = curated(shuffle).rows
    return release_sha256(rows.sample(fraction=1.0, shuffle=True, seed=shuffle))


def fill(lake: Lake) -> None:
    """Everything that a release is made from, each asset with its ledger row."""
    for asset, table, frame in (
        ("queries", "queries", queries()),
        ("passages", "passages", passages()),
        ("teacher_rankings", "rankings", rankings()),
        ("consistent_rankings", "consistent_rankings", consistent()),
    ):
        for domain in DOMAINS:
            rows = frame.filter(pl.col("domain") == domain)
            figures = {"values": [0.75] * TRAIN} if asset == "consistent_rankings" else {}
            product = Product(
                (Replace(table, rows, {"domain": domain}),), f"{asset}-{domain}", rows.height, rows.height,
                figures=figures,
            )  # fmt: skip
            _enter(lake, asset, product, domain)
    held = Product((Replace("benchmarks", benchmarks()),), "b", 1, 1, figures={"benchmarks_not_read": {"far": "away"}})
    _enter(lake, "benchmarks", held, "")


def release(lake: Lake) -> str:
    """Release what `fill` stored, and return the release's hash."""
    made = curated()
    read_snapshot = lake.snapshot()
    name, writes = release_writes(
        lake,
        made,
        domains=made.rows["domain"].unique().to_list(),
        read_snapshot=read_snapshot,
        settings=SETTINGS.model_dump(mode="json"),
        code_version="1",
    )
    dropped = rejected("training_set", [("lost", "duplicate_query", "same text as <b>another</b>")])
    product = Product(
        tuple(writes), name, made.rows.height + 1, made.rows.height, dropped,
        {"release": name, **release_figures(made)},
    )  # fmt: skip
    _enter(lake, "training_set", product, "", read_snapshot)
    return name


def _enter(
    lake: Lake, asset: str, product: Product, partition_key: str, read_snapshot: int | None = None
) -> Materialization:
    entered, _ = enter(
        lake,
        {asset: product},
        partition_key=partition_key,
        inputs_sha256="inputs",
        read_snapshot=lake.snapshot() if read_snapshot is None else read_snapshot,
        seconds=0.5,
        message=message(asset),
    )
    return entered[asset]
