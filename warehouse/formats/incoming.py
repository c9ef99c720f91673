"""What a reader of a format gives: lists as somebody else's set holds them, and the tables of the lake made from them.

    incoming = read(folder, ...)
    incoming.queries(), incoming.passages(), incoming.rankings()       # as the lake's tables are

A row names the place it came from (`training_data_all.jsonl:17`), which is also its ranking's id, so that every finding
about it can be looked up. What a format does not hold is null, and `lacks` says so in words. Nothing is left out here,
however wrong a list is: that is for the filters to say.

Deliberately absent: judging the rows (warehouse/curation) and any format.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.intake.door import UNKNOWN_LICENSE
from warehouse.intake.source_tables import PASSAGES, QUERIES, sha256_of

ROWS = pl.Schema(
    {
        "place": pl.String(), "domain": pl.String(), "qid": pl.String(), "query": pl.String(),
        "initial_list": pl.List(pl.String()), "final_list": pl.List(pl.String()),
        "relevant_docids": pl.List(pl.String()), "reasoning": pl.String(), "split": pl.String(), "judge": pl.String(),
        "source": pl.String(), "license": pl.String(), "url": pl.String(),
    }
)  # fmt: skip
TEXTS = pl.Schema(
    {"domain": pl.String(), "docid": pl.String(), "text": pl.String(), "source": pl.String(), "license": pl.String()}
)
RANKINGS = pl.Schema(
    {
        "domain": pl.String(), "ranking_id": pl.String(), "qid": pl.String(), "initial_list": pl.List(pl.String()),
        "final_list": pl.List(pl.String()), "relevant_docids": pl.List(pl.String()), "reasoning": pl.String(),
        "judged_by": pl.String(), "list_seed": pl.Int64(), "judge": pl.String(), "exchange_key": pl.String(),
        "prompt_sha256": pl.String(), "agreement": pl.Float64(),
    }
)  # fmt: skip
IMPORTED = "imported"
"""The judge of a ranking whose teacher the format does not name."""


@dataclass(frozen=True)
class Incoming:
    """A set read from a folder: rows (ROWS), texts (TEXTS, one an id), and what the format lacks, in words."""

    format: str
    folder: Path
    rows: pl.DataFrame
    texts: pl.DataFrame
    lacks: Sequence[str] = ()

    def queries(self) -> pl.DataFrame:
        """The lake's `queries`: one a domain and qid, the first text where a set holds several."""
        first = self.rows.unique(["domain", "qid"], keep="first", maintain_order=True)
        text = first["query"].fill_null("")
        columns: dict[str, Any] = {
            "text": text, "source": pl.coalesce("source", pl.lit(self.format)), "split": pl.lit("train"),
            "gold_answer": pl.lit(None), "excluded_docids": pl.lit([], pl.List(pl.String)),
            "license": pl.coalesce("license", pl.lit(UNKNOWN_LICENSE)), "text_sha256": sha256_of(text),
        }  # fmt: skip
        return first.with_columns(**columns).select(list(QUERIES)).cast(QUERIES)

    def passages(self) -> pl.DataFrame:
        """The lake's `passages`; the text of a set is title and body in one."""
        columns: dict[str, Any] = {
            "title": pl.lit(""), "url": pl.lit(None), "source": pl.coalesce("source", pl.lit(self.format)),
            "license": pl.coalesce("license", pl.lit(UNKNOWN_LICENSE)), "text_sha256": sha256_of(self.texts["text"]),
        }  # fmt: skip
        return self.texts.with_columns(**columns).select(list(PASSAGES)).cast(PASSAGES)

    def rankings(self) -> pl.DataFrame:
        """The lake's `rankings`: no exchange stands behind them, and nobody knows their prompt."""
        columns: dict[str, Any] = {
            "ranking_id": pl.col("place"), "judged_by": pl.lit(IMPORTED), "list_seed": pl.lit(None),
            "judge": pl.coalesce("judge", pl.lit(IMPORTED)), "exchange_key": pl.lit(None),
            "prompt_sha256": pl.lit(None), "agreement": pl.lit(None),
        }  # fmt: skip
        return self.rows.with_columns(**columns).select(list(RANKINGS)).cast(RANKINGS)


def incoming(
    name: str,
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    texts: Mapping[tuple[str, str], str],
    lacks: Sequence[str] = (),
    stated_license: str | None = None,
) -> Incoming:
    """A set from rows (dicts of ROWS; what is left out is null) and texts by (domain, docid)."""
    empty = {**dict.fromkeys(ROWS), "license": stated_license}
    frame = pl.DataFrame([{**empty, **row} for row in rows], schema=ROWS, orient="row")
    told = [(domain, docid, text, None, stated_license) for (domain, docid), text in texts.items()]
    return Incoming(name, folder, frame, pl.DataFrame(told, schema=TEXTS, orient="row"), tuple(lacks))
