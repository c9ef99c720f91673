"""A Hugging Face dataset folder, ready to push: every column of a release, Parquet by split, and its card.

    load_dataset(folder)                                        # splits sft, rl, dev
    huggingface-cli upload OWNER/NAME folder --repo-type dataset

The only format that keeps a row whole, so its round trip loses nothing.
"""

import math
import shutil
from pathlib import Path

import polars as pl

from warehouse.formats.files import FormatError, ParquetFile, read_parquet
from warehouse.formats.incoming import ROWS, TEXTS, Incoming
from warehouse.formats.outgoing import COLUMNS, Outgoing, with_lists

SHARD = 100_000  # rows
_NEEDED = ("domain", "qid", "query", "docids", "passages", "final_order", "relevant")
LACKS = ("licence of each single passage (`passage_licenses` holds those of the list)",)
_REMEDY = "A dataset folder of rankmill holds data/{split}-00000-of-00001.parquet with the columns of a release."


def write(rows: Outgoing, folder: Path, splits: tuple[str, ...], card: Path | None) -> dict[str, int]:
    """data/{split}-{shard}-of-{shards}.parquet, and README.md where there is a card; returns rows by split."""
    if card is not None:
        shutil.copyfile(card, folder / "README.md")
    counts = {}
    for split in splits:
        size = sum(part.rows for part in rows.parts([split]))
        counts[split] = size
        shards = math.ceil(size / SHARD)
        frames = (frame for part in rows.parts([split]) for frame in part.chunks())
        waiting = next(frames, None)
        for shard in range(shards):
            with ParquetFile(folder / "data" / f"{split}-{shard:05}-of-{shards:05}.parquet") as file:
                room = SHARD
                while waiting is not None and room:
                    file.write(waiting.head(room).select(COLUMNS))
                    taken = min(room, waiting.height)
                    room -= taken
                    waiting = waiting.slice(taken) if waiting.height > taken else next(frames, None)
    return counts


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


def _files(folder: Path) -> list[Path]:
    files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise FormatError(f"{folder}: holds no data/*.parquet. {_REMEDY}")
    return files
