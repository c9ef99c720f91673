"""A Hugging Face dataset folder, ready to push: every column of a release, Parquet by split, and its card.

    load_dataset(folder)                                        # splits sft, rl, dev
    huggingface-cli upload OWNER/NAME folder --repo-type dataset

The only format that keeps a row whole, so its round trip loses nothing.
"""

import math
import shutil
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from warehouse.formats.files import FormatError, ParquetFile, read_parquet
from warehouse.formats.incoming import ROWS, TEXTS, Incoming
from warehouse.formats.outgoing import COLUMNS, Outgoing, with_lists

SHARD = 100_000  # rows
_NEEDED = ("domain", "qid", "query", "docids", "passages", "final_order", "relevant")
LACKS = ("licence of each single passage (`passage_licenses` holds those of the list)",)
_REMEDY = "A dataset folder of rankmill holds data/{split}-00000-of-00001.parquet with the columns of a release."


def write(rows: Outgoing, folder: Path, card: Path | None) -> dict[str, int]:
    """data/{split}-{shard}-of-{shards}.parquet, and README.md where there is a card; returns rows by split."""
    if card is not None:
        shutil.copyfile(card, folder / "README.md")
    with ExitStack() as stack:
        shards = {split: stack.enter_context(_Shards(folder, split, rows.rows_of(split))) for split in rows.splits}
        for split, frame in rows.by("split"):
            shards[split].write(frame.select(COLUMNS))
    return {split: rows.rows_of(split) for split in rows.splits}


def read(folder: Path, template: str = "") -> Incoming:  # noqa: ARG001 - every reader is called alike
    """The lists of a folder that `write` made, or of one with the same columns. Raises FormatError."""
    lists, texts = [ROWS.to_frame()], [TEXTS.to_frame()]
    for path in _files(folder):
        frame = read_parquet(path, _NEEDED, _REMEDY)
        absent = [
            name for name in ("reasoning", "split", "judge", "source", "license", "url") if name not in frame.columns
        ]
        frame = with_lists(frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent))
        place = pl.format("{}:{}", pl.lit(path.name), pl.int_range(1, pl.len() + 1))
        lists.append(frame.with_columns(place=place).select(list(ROWS)).cast(ROWS))
        held = frame.select("domain", docid="docids", text="passages").explode("docid", "text")
        named = held.with_columns(source=pl.lit(None, pl.String), license=pl.lit(None, pl.String))
        texts.append(named.select(list(TEXTS)).unique(["domain", "docid"], keep="first", maintain_order=True))
    every_text = pl.concat(texts).unique(["domain", "docid"], keep="first", maintain_order=True)
    return Incoming("hub", folder, pl.concat(lists), every_text, LACKS)


def read_whole(folder: Path) -> pl.DataFrame:
    """The rows as they were released, every column of them, in row_id order."""
    frames = [read_parquet(path, COLUMNS, _REMEDY).select(COLUMNS) for path in _files(folder)]
    return pl.concat(frames).sort("row_id")


class _Shards:
    """The Parquet files of a split, SHARD rows each, with their number in every name."""

    def __init__(self, folder: Path, split: str, rows: int) -> None:
        self._of = math.ceil(rows / SHARD)
        self._named = folder / "data" / split
        self._written = 0
        self._stack = ExitStack()
        self._file: ParquetFile | None = None

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, frame: pl.DataFrame) -> None:
        while frame.height:
            if self._written % SHARD == 0:
                self._stack.close()
                path = self._named.with_name(f"{self._named.name}-{self._written // SHARD:05}-of-{self._of:05}.parquet")
                self._file = self._stack.enter_context(ParquetFile(path))
            assert self._file is not None  # opened at the first row
            room = SHARD - self._written % SHARD
            self._file.write(frame.head(room))
            self._written += min(room, frame.height)
            frame = frame.slice(room)


def _files(folder: Path) -> list[Path]:
    files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise FormatError(f"{folder}: holds no data/*.parquet. {_REMEDY}")
    return files
