r"""What is wrong with a teacher's chain: nothing in it, a passage that is not in the list, or the answer given away.

    phantom_passages(rows)             # quotes [31] in a list of 20
    gold_answer_leaks(rows, passages)  # repeats words of the gold answer that the teacher was never shown

A quote is `[n]` with up to three digits, as the prompts number passages. An index of code (`dp[100]`, `nums = [0]`,
anything in backticks or a fence) is none.

A leak is a run of words that the chain shares with the gold answer and with nothing that the teacher was shown, neither
the query nor a passage of the list. Words are compared as hashes, whole columns at a time (fingerprints.py). Short
answers ("yes", a number) are not looked for: whoever solves the problem writes them.
"""

import numpy as np
import polars as pl

from warehouse.curation.findings import SLICE, finding
from warehouse.curation.fingerprints import Words, in_pieces, spans
from warehouse.curation.words import normalised

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
_PLACED = pl.Schema({"place": pl.UInt32(), "at": pl.UInt32(), "run": pl.UInt64()})
_SHARED = pl.Schema({"row": pl.UInt32(), "at": pl.UInt32(), "run": pl.UInt64()})
PART = 20_000  # texts whose words are compared at a time


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
    asked = rows.filter(pl.col("gold_answer").is_not_null() & pl.col("reasoning").is_not_null()).with_row_index("row")
    shared = pl.concat([_SHARED.to_frame(), *(_shared(part, words) for part in asked.iter_slices(PART))])
    if shared.height:
        shown = _shown(asked, shared, passages, words)
        shared = shared.join(shown, on=["row", "run"], how="anti")
    leaking = shared.sort("row", "at").group_by("row", maintain_order=True).agg(runs=pl.len(), at=pl.col("at").first())
    told = asked.select("row", "domain", "reasoning", id="ranking_id").join(leaking, on="row", maintain_order="left")
    chain = normalised(told["reasoning"]).str.split(" ")
    quoted = told.with_columns(chain=chain).with_columns(
        quote=pl.col("chain").list.slice("at", words).list.join(" "),
    )
    said = pl.format("“{}” stands in nothing that the teacher was shown", "quote")
    return finding(quoted, pl.lit(True), "gold_answer_leak", pl.col("runs"), 0.0, said)


def _chains(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("domain", id="ranking_id", text="reasoning", size=pl.col("docids").list.len().cast(pl.Int64))


def _shared(rows: pl.DataFrame, words: int) -> pl.DataFrame:
    """The runs that a chain shares with its gold answer and not with its query."""
    gold, pair = _runs(rows, "gold_answer", words), ["row", "run"]
    shared = _runs(rows, "reasoning", words).join(gold, on=pair, how="semi") if gold.height else gold
    return shared.join(_runs(rows, "query", words), on=pair, how="anti") if shared.height else shared


def _shown(rows: pl.DataFrame, shared: pl.DataFrame, passages: pl.DataFrame, words: int) -> pl.DataFrame:
    """Of the shared runs, those that stand in a passage of their list: row, run. Each passage is hashed once."""
    sharing = rows.join(shared.select("row").unique(), on="row", how="semi").select("row", "domain", docid="docids")
    parts = [part.explode("docid") for part in sharing.iter_slices(SLICE)]
    held = pl.concat([part.select("domain", "docid").unique() for part in parts]).unique()
    texts = passages.join(held, on=["domain", "docid"], how="semi").select("domain", "docid", "text")
    found = []
    for part in texts.with_row_index("row").iter_slices(PART):
        runs = _runs(part, "text", words).join(shared.select("run").unique(), on="run", how="semi")
        found.append(
            part.select("row", "domain", "docid").join(runs, on="row").select("domain", "docid", "run").unique()
        )
    places = pl.concat(found)
    return pl.concat([part.join(places, on=["domain", "docid"]).select("row", "run") for part in parts])


def _runs(rows: pl.DataFrame, column: str, words: int) -> pl.DataFrame:
    """Every run of `words` words in a column of `rows`: row, at (place of its first word), run (its hash)."""

    def work(first: int, pieces: Words) -> pl.DataFrame:
        found = spans(pieces, words)
        counts = np.diff(found.offsets)
        starts = np.repeat(found.offsets[:-1], counts)
        place = np.repeat(np.arange(first, first + len(counts)), counts)
        return pl.DataFrame({"place": place, "at": np.arange(len(starts)) - starts, "run": found.hashes})

    made = pl.concat([_PLACED.to_frame(), *(part.cast(_PLACED) for part in in_pieces(rows[column], work))])
    return made.select(rows["row"].gather(made["place"]).alias("row"), "at", "run")
