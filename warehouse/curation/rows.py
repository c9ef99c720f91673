"""Light rows in, whole rows out: positions in place of docids, and texts beside them only while they are written.

    lists = lists_at(lake, ["math"], snapshot)             # rows without passage text, passages once each
    for piece in whole_rows(rows, passages): ...           # as many rows as fit into PIECE_BYTES of text
    digests(piece)                                         # row_id, split, content_sha256: what a release is named by

A row's digest is the sha256 of its content as JSON, each passage by the sha256 of its text: computed by DuckDB for all
rows of a piece at once, and the same on any machine, in any order and with any number of threads. The id of a row is
the beginning of its digest.

Deliberately absent: which rows there are (curate.py), and what a release is (releases.py).
"""

import hashlib
from collections.abc import Iterator, Sequence

import duckdb
import polars as pl

from warehouse.curation.filters import PASSAGES, ROWS, Lists
from warehouse.lake import Lake

ROW_SCHEMA = pl.Schema(
    {
        "release": pl.String(), "row_id": pl.String(), "domain": pl.String(), "qid": pl.String(), "split": pl.String(),
        "query": pl.String(), "docids": pl.List(pl.String), "passages": pl.List(pl.String),
        "final_order": pl.List(pl.Int64), "relevant": pl.List(pl.Int64), "reasoning": pl.String(),
        "ranking_id": pl.String(), "exchange_key": pl.String(), "prompt_sha256": pl.String(), "judge": pl.String(),
        "consistency": pl.Float64(), "source": pl.String(), "license": pl.String(),
        "passage_licenses": pl.List(pl.String), "url": pl.String(), "agreement": pl.Float64(),
    }
)  # fmt: skip
ROW_CONTENT = tuple(name for name in ROW_SCHEMA if name not in ("release", "row_id", "split"))
ROW_ID_DIGITS = 24
PIECE_BYTES = 128 << 20
"""Text of the passages of one piece of whole rows."""

_DIGESTS = (
    "SELECT row_id, split, sha256(to_json(struct_pack("
    + ", ".join(
        "passages := list_transform(passages, lambda text: sha256(text))" if name == "passages" else f"{name} := {name}"
        for name in ROW_CONTENT
    )
    + "))::VARCHAR) AS content_sha256 FROM piece"
)
_LISTS = """
SELECT
    r.ranking_id, r.domain, r.qid, q.text AS query, q.gold_answer, r.initial_list AS docids,
    list_transform(r.final_list, lambda d: coalesce(list_position(r.initial_list, d), 0)::BIGINT - 1) AS final_order,
    list_sort(list_transform(r.relevant_docids, lambda d: coalesce(list_position(r.initial_list, d), 0)::BIGINT - 1))
        AS relevant,
    r.reasoning, r.exchange_key, r.prompt_sha256, r.judge, r.consistency, r.agreement, q.source, q.license, q.url
FROM rankings r LEFT JOIN queries q USING (domain, qid)
"""


def lists_at(lake: Lake, domains: Sequence[str], snapshot: int | None = None) -> Lists:
    """The consistent rankings of `domains` with what they are about, as the lake was at `snapshot`."""

    def read(table: str, *columns: str) -> pl.DataFrame:
        return lake.read(table, columns=columns, snapshot=snapshot).filter(pl.col("domain").is_in(list(domains)))

    kept = read("consistent_rankings", "domain", "ranking_id", "consistency")
    rankings = read(
        "rankings", "domain", "ranking_id", "qid", "initial_list", "final_list", "relevant_docids", "reasoning",
        "judge", "exchange_key", "prompt_sha256", "agreement",
    )  # fmt: skip
    queries = read("queries", "domain", "qid", "text", "gold_answer", "source", "license", "url")
    passages = read("passages", "domain", "docid", "title", "text", "source", "license")
    return lists_of(rankings.join(kept, on=["domain", "ranking_id"]), queries, passages)


def lists_of(rankings: pl.DataFrame, queries: pl.DataFrame, passages: pl.DataFrame) -> Lists:
    """Lists of rankings (which carry `consistency`): a docid that a list does not hold becomes position -1.

    A ranking whose query is missing has no text; both are what the structure filter is there to reject.
    """
    if "agreement" not in rankings.columns:
        rankings = rankings.with_columns(agreement=pl.lit(None, pl.Float64))
    with duckdb.connect(":memory:") as connection:
        connection.register("rankings", rankings.to_arrow())
        connection.register("queries", queries.to_arrow())
        rows = connection.execute(_LISTS).pl()
    title, text = pl.col("title"), pl.col("text")
    # What ranking.prompts.titled makes of one passage, for all of them.
    alone = title.is_null() | (title == "") | text.str.starts_with(title)
    whole = passages.with_columns(text=pl.when(alone).then(text).otherwise(pl.format("{}. {}", title, text)))
    return Lists(
        rows.select(list(ROWS)).cast(ROWS).sort("domain", "qid", "ranking_id"),
        whole.select(list(PASSAGES)).cast(PASSAGES),
    )


def whole_rows(rows: pl.DataFrame, passages: pl.DataFrame, texts: str = "text") -> Iterator[pl.DataFrame]:
    """Rows with their passages' texts, in pieces and in the order of `rows`: ROW_CONTENT and what else `rows` has.

    `texts` names the column of `passages` that is put in their place, such as hashes of them. Raises LookupError for
    a passage that is not there.
    """
    known = passages.select("domain", "text" if texts == "text" else texts, "license", docids="docid")
    size = known[texts].str.len_bytes().mean() if known.height else 0
    held = rows["docids"].list.len().mean() if rows.height else 0
    step = max(64, int(PIECE_BYTES / max(1.0, float(size or 0) * float(held or 0))))  # type: ignore[arg-type]
    for piece in rows.iter_slices(min(step, 1 << 16)):
        flat = piece.select("domain", "docids").with_row_index("place").explode("docids", empty_as_null=False)
        joined = flat.join(known, on=["domain", "docids"], how="left", maintain_order="left")
        if joined[texts].null_count():
            lost = joined.filter(pl.col(texts).is_null()).row(0, named=True)
            raise LookupError(f"passage {lost['docids']} of {lost['domain']} is on a list and not in the lake")
        folded = joined.group_by("place", maintain_order=True).agg(
            passages=texts, passage_licenses=pl.col("license").drop_nulls().unique().sort()
        )
        empty = pl.lit([], pl.List(pl.String))
        yield (
            piece.with_row_index("place")
            .join(folded, on="place", how="left", maintain_order="left")
            .with_columns(pl.col("passages").fill_null(empty), pl.col("passage_licenses").fill_null(empty))
            .drop("place")
        )


def digests(pieces: Iterator[pl.DataFrame], hashed: bool = False) -> pl.DataFrame:
    """row_id, split and content_sha256 of every row of `pieces`; `hashed` where passages hold hashes in place of texts.

    Columns that do not stand in a piece yet (row_id, split) come back null.
    """
    asked = _DIGESTS.replace("list_transform(passages, lambda text: sha256(text))", "passages") if hashed else _DIGESTS
    found = [pl.DataFrame(schema={"row_id": pl.String, "split": pl.String, "content_sha256": pl.String})]
    with duckdb.connect(":memory:") as connection:
        for piece in pieces:
            missing = [pl.lit(None, pl.String).alias(name) for name in ("row_id", "split") if name not in piece.columns]
            connection.register("piece", piece.with_columns(missing).to_arrow())
            found.append(connection.execute(asked).pl())
            connection.unregister("piece")
    return pl.concat(found)


def sha256_of(texts: pl.Series) -> pl.Series:
    """Hex sha256 of each text."""
    with duckdb.connect(":memory:") as connection:
        connection.register("texts", texts.to_frame("text").with_row_index("place").to_arrow())
        return connection.execute("SELECT sha256(text) AS digest FROM texts ORDER BY place").pl()["digest"]


def release_sha256(rows: pl.DataFrame) -> str:
    """The name of a release from row_id, split and content_sha256 of its rows, in any order."""
    lines = rows.select(pl.concat_str("row_id", "split", "content_sha256", separator=" ", ignore_nulls=True))
    return hashlib.sha256(str(lines.to_series().sort().str.join("\n").item()).encode()).hexdigest()


def still_named(rows: pl.DataFrame, release: str) -> bool:
    """Whether every row (row_id, split, content_sha256) is still named by its digest, and all of them by `release`."""
    renamed = rows.filter(~pl.col("content_sha256").str.starts_with(pl.col("row_id")))
    return renamed.is_empty() and release_sha256(rows) == release
