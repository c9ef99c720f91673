"""From consistent rankings to the rows of a release: whole, deduplicated, decontaminated and split.

Every step is a pure function of frames, and every row that a step drops comes back as a rejection with its reason.
"""

from dataclasses import dataclass

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ranking.lists import seed_of
from ranking.prompts import titled
from warehouse.curation.contamination import contaminated, normalised_sha256, words_of
from warehouse.lake import canonical_sha256
from warehouse.ledger import REJECTION_SCHEMA, rejected

STAGE = "training_set"
ROW_CONTENT = (
    "domain", "qid", "query", "docids", "passages", "final_order", "relevant", "reasoning", "ranking_id",
    "exchange_key", "prompt_sha256", "judge", "consistency", "source", "license", "passage_licenses", "url",
    "agreement",
)  # fmt: skip
# Not in the first schema: it names no row, and where it is null it is no part of a release's hash.
LATER = ("agreement",)


class ReleaseSettings(BaseModel):
    """How the training set is cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dev_share: float = Field(
        0.1, ge=0, lt=1, description="Share of rows kept for choosing a model, by hash of the query."
    )
    sft_share: float = Field(0.5, gt=0, le=1, description="Share of the other rows that goes to SFT; the rest to RL.")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard of word 3-grams from which queries are copies.")
    seed: int = Field(0, description="Seed of the split; the same query always falls on the same side.")


@dataclass(frozen=True)
class Curated:
    """Rows of a release without its hash, and what was left out."""

    rows: pl.DataFrame
    rejections: pl.DataFrame
    findings: pl.DataFrame


def whole_rows(rankings: pl.DataFrame, queries: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """Rankings joined with the texts they are about, positions in place of docids; one row a ranking.

    `rankings` carries `consistency`; passages are what a model reads, title and text in one.
    """
    texts = {
        (domain, docid): titled(title, text)
        for domain, docid, title, text in passages.select("domain", "docid", "title", "text").iter_rows()
    }
    licenses = {
        (domain, docid): name for domain, docid, name in passages.select("domain", "docid", "license").iter_rows()
    }
    joined = rankings.join(
        queries.select("domain", "qid", "source", "license", "url", query="text"),
        on=["domain", "qid"],
        how="inner",
    )
    rows = []
    for row in joined.iter_rows(named=True):
        place = {docid: position for position, docid in enumerate(row["initial_list"])}
        rows.append(
            {
                **{name: row[name] for name in ROW_CONTENT if name in row},
                "docids": row["initial_list"],
                "passage_licenses": sorted({licenses[row["domain"], docid] for docid in row["initial_list"]}),
                "passages": [texts[row["domain"], docid] for docid in row["initial_list"]],
                "final_order": [place[docid] for docid in row["final_list"]],
                "relevant": sorted(place[docid] for docid in row["relevant_docids"]),
            }
        )
    schema = {name: ROW_SCHEMA[name] for name in ROW_CONTENT}
    return pl.DataFrame(rows, schema=schema).sort("domain", "qid")


def curate(rows: pl.DataFrame, benchmarks: pl.DataFrame, settings: ReleaseSettings) -> Curated:
    """Rows without copies of one another and without overlap with `benchmarks`, given an id and a split."""
    copies = duplicate_queries(rows, settings.near_duplicate)
    kept = rows.join(copies.select("ranking_id"), on="ranking_id", how="anti")
    findings = contaminated(kept.select(key="ranking_id", text="query"), benchmarks)
    clean = kept.join(findings.select(ranking_id="key"), on="ranking_id", how="anti")
    rejections = pl.concat(
        [
            rejected(STAGE, [(key, reason, detail) for key, reason, detail in copies.iter_rows()]),
            rejected(
                STAGE,
                [(key, "contaminated", f"{test} overlap with {benchmark} query {item}: {shared}")
                 for key, benchmark, item, test, shared in findings.iter_rows()],
            ),
        ]
    )  # fmt: skip
    released = clean.with_columns(
        row_id=pl.Series([_row_id(row) for row in clean.iter_rows(named=True)], dtype=pl.String),
        split=pl.Series(
            [split_of(domain, qid, settings) for domain, qid in clean.select("domain", "qid").iter_rows()],
            dtype=pl.String,
        ),
    )
    return Curated(released.sort("domain", "qid"), rejections.select(list(REJECTION_SCHEMA)), findings)


def duplicate_queries(rows: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Rows whose query repeats an earlier one's: ranking_id, reason (duplicate or near_duplicate), detail.

    Exact copies after normalisation by hash; near copies by MinHash-LSH (rensa) and then the true Jaccard of word
    3-grams. The first row in (domain, qid) order stays.
    """
    from rensa import RMinHash, RMinHashLSH

    seen: dict[str, str] = {}
    lsh = RMinHashLSH(threshold=threshold * 0.75, num_perm=128, num_bands=32)
    shingles: list[frozenset[tuple[str, ...]]] = []
    names: list[str] = []
    found = []
    ordered = rows.select("ranking_id", "domain", "qid", "query").sort("domain", "qid", "ranking_id")
    for ranking_id, domain, qid, query in ordered.iter_rows():
        name, digest = f"{domain}/{qid}", normalised_sha256(query)
        if digest in seen:
            found.append((ranking_id, "duplicate_query", f"same text as {seen[digest]}"))
            continue
        seen[digest] = name
        words = words_of(query)
        grams: frozenset[tuple[str, ...]] = frozenset(zip(words, words[1:], words[2:], strict=False))
        grams = grams or frozenset([tuple(words)])
        sketch = RMinHash(num_perm=128, seed=0)
        sketch.update([" ".join(gram) for gram in grams])
        twin = next(
            (
                names[index]
                for index in sorted(lsh.query(sketch))
                if len(grams & shingles[index]) >= threshold * len(grams | shingles[index])
            ),
            None,
        )
        if twin is not None:
            found.append((ranking_id, "near_duplicate_query", f"Jaccard >= {threshold} with {twin}"))
            continue
        lsh.insert(len(names), sketch)
        names.append(name)
        shingles.append(grams)
    schema = {"ranking_id": pl.String, "reason": pl.String, "detail": pl.String}
    return pl.DataFrame(found, schema=schema, orient="row")


def split_of(domain: str, qid: str, settings: ReleaseSettings) -> str:
    """sft, rl or dev, from the query's own hash: the same whatever other rows there are, and alike in every domain."""
    draw = seed_of(f"split/{domain}/{qid}", settings.seed) / 2**63
    if draw < settings.dev_share:
        return "dev"
    return "sft" if draw < settings.dev_share + (1 - settings.dev_share) * settings.sft_share else "rl"


def _row_id(row: dict) -> str:
    return canonical_sha256({name: row[name] for name in ROW_CONTENT if name not in LATER})[:24]


ROW_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "release": pl.String, "row_id": pl.String, "domain": pl.String, "qid": pl.String, "split": pl.String,
    "query": pl.String, "docids": pl.List(pl.String), "passages": pl.List(pl.String),
    "final_order": pl.List(pl.Int64), "relevant": pl.List(pl.Int64), "reasoning": pl.String,
    "ranking_id": pl.String, "exchange_key": pl.String, "prompt_sha256": pl.String, "judge": pl.String,
    "consistency": pl.Float64, "source": pl.String, "license": pl.String,
    "passage_licenses": pl.List(pl.String), "url": pl.String, "agreement": pl.Float64,
}  # fmt: skip
