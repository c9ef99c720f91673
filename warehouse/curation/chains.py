r"""What is wrong with a teacher's chain: nothing in it, a passage that is not in the list, or the answer given away.

    phantom_passages(rows)             # quotes [31] in a list of 20
    gold_answer_leaks(rows, passages)  # repeats words of the gold answer that the teacher was never shown

A quote is `[n]` with up to three digits, as the prompts number passages. An index of code (`dp[100]`, `nums = [0]`,
anything in backticks or a fence) is none.

A leak is a run of words that the chain shares with the gold answer and with nothing that the teacher was shown, neither
the query nor a passage of the list. Words are compared by rolling hashes over whole columns. Short answers ("yes", a
number) are not looked for: whoever solves the problem writes them.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from warehouse.curation.findings import SLICE, finding

REASONS = {
    "empty_chain": "The teacher gave no chain. Ask again, or release the row for training without reasoning.",
    "phantom_passage": "The chain quotes a passage number that the list has not. Ask the teacher again.",
    "gold_answer_leak": "The chain repeats the gold answer, which the teacher must not see when it ranks. Look at the "
    "prompt; if it holds the answer, rank anew.",
}
_CODE = r"(?s)```.*?```|`[^`\n]*`"
_WORD_BEFORE = r"(?i)\b(passages?|documents?|docs?|texts?|candidates?|identifiers?|ids?|and|or|to)\["
_INDEX = r"[\p{L}\p{N}_)](?:\[[^\[\]\n]{0,40}\])+|(?:=|(?-u:\b)return|(?i)(?:in|out)put:)\s*\[[^\[\]\n]*\]|\[\["
_QUOTE = r"\[([0-9]{1,3})\]"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PART = 20_000  # chains whose words are compared at a time


def empty_chains(rows: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS `empty_chain` for `rows` (filters.ROWS)."""
    return finding(_chains(rows), pl.col("text").fill_null("").str.strip_chars() == "", "empty_chain")


def phantom_passages(rows: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS `phantom_passage` for `rows` (filters.ROWS): the numbers quoted that the list has not."""
    bare = pl.col("text").str.replace_all(_CODE, " ").str.replace_all(_WORD_BEFORE, "$1 [").str.replace_all(_INDEX, " ")
    numbers = bare.str.extract_all(_QUOTE).list.eval(pl.element().str.strip_chars("[]").cast(pl.Int64))
    quoted = _chains(rows).filter(pl.col("text").str.contains(_QUOTE)).with_columns(numbers=numbers)
    told = (
        quoted.select("domain", "id", "text", "size", "numbers")
        .explode("numbers")
        .filter((pl.col("numbers") < 1) | (pl.col("numbers") > pl.col("size")))
        .group_by("domain", "id", "size", maintain_order=True)
        .agg(pl.col("numbers").unique().sort())
    )
    said = pl.format(
        "[{}] in a list of {}", pl.col("numbers").cast(pl.List(pl.String)).list.head(5).list.join("] ["), "size"
    )
    return finding(told, pl.lit(True), "phantom_passage", pl.col("numbers").list.len(), 0.0, said)


def gold_answer_leaks(rows: pl.DataFrame, passages: pl.DataFrame, words: int) -> pl.DataFrame:
    """FINDINGS `gold_answer_leak` for `rows` (filters.ROWS): `words` words that only the gold answer explains."""
    parts = [_leaks(part, passages, words) for part in _with_gold(rows, words)]
    return pl.concat([finding(_chains(rows.clear()), pl.lit(True), "gold_answer_leak"), *parts])


def _chains(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("domain", id="ranking_id", text="reasoning", size=pl.col("docids").list.len().cast(pl.Int64))


def _with_gold(rows: pl.DataFrame, words: int) -> Iterator[pl.DataFrame]:
    long = pl.col("gold_answer").str.count_matches(r"[\p{L}\p{N}]+") >= words
    for piece in rows.iter_slices(SLICE):
        yield from piece.filter(long.fill_null(False) & pl.col("reasoning").is_not_null()).iter_slices(_PART)


def _leaks(rows: pl.DataFrame, passages: pl.DataFrame, words: int) -> pl.DataFrame:
    """The leaks of some rows: runs in chain and gold answer, less those in the query, less those in a passage."""
    numbered = rows.with_row_index("row")
    chain = _runs(numbered["reasoning"], words)
    gold = _runs(numbered["gold_answer"], words).select("row", "run").unique()
    shared = chain.join(gold, on=["row", "run"], how="semi")
    if shared.height:
        shared = shared.join(_runs(numbered["query"], words), on=["row", "run"], how="anti")
    if shared.height:
        shared = shared.join(_shown(numbered, shared, passages, words), on=["row", "run"], how="anti")
    leaking = shared.sort("row", "at").group_by("row", maintain_order=True).agg(runs=pl.len(), at=pl.col("at").first())
    told = numbered.join(leaking, on="row", how="inner", maintain_order="left").with_columns(
        quote=pl.col("reasoning").str.extract_all(r"[\p{L}\p{N}]+").list.slice(pl.col("at"), words).list.join(" ")
    )
    named = told.rename({"ranking_id": "id"})
    said = pl.format("“{}” stands in no passage", "quote")
    return finding(named, pl.lit(True), "gold_answer_leak", pl.col("runs"), 0.0, said)


def _shown(rows: pl.DataFrame, shared: pl.DataFrame, passages: pl.DataFrame, words: int) -> pl.DataFrame:
    """Of the shared runs, those that stand in a passage of their list: row, run."""
    held = (
        rows.join(shared.select("row").unique(), on="row", how="semi")
        .select("row", "domain", docid="docids")
        .explode("docid")
    )
    texts = passages.join(held.select("domain", "docid").unique(), on=["domain", "docid"], how="semi")
    runs = _runs(texts["text"], words).join(shared.select("run").unique(), on="run", how="semi").unique(["row", "run"])
    places = texts.select("domain", "docid").with_row_index("row").join(runs, on="row", how="inner")
    return held.join(places.select("domain", "docid", "run"), on=["domain", "docid"], how="inner").select("row", "run")


def _runs(texts: pl.Series, words: int) -> pl.DataFrame:
    """Every run of `words` words: row (place of the text), at (place of its first word), run (its hash)."""
    split = texts.alias("word").str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+").to_frame().with_row_index("row")
    flat = split.with_columns(at=pl.int_ranges(0, pl.col("word").list.len(), dtype=pl.UInt32)).explode("word", "at")
    flat = flat.filter(pl.col("word").is_not_null())
    hashes = flat["word"].hash(seed=0).to_numpy()
    row, at = flat["row"].to_numpy(), flat["at"].to_numpy()
    count = len(hashes) - words + 1
    if count <= 0:
        return pl.DataFrame(schema={"row": pl.UInt32, "at": pl.UInt32, "run": pl.UInt64})
    run: NDArray[np.uint64] = np.zeros(count, dtype=np.uint64)
    for place in range(words):
        run = run * _MULTIPLIER + hashes[place : place + count]
    whole = row[:count] == row[words - 1 :]
    return pl.DataFrame({"row": row[:count][whole], "at": at[:count][whole], "run": run[whole]})
