"""ReasonRank's RL files for verl: one Parquet file a split, a prompt and what its rollouts are rewarded against.

Columns: data_source ("ranking"), prompt (chat messages), ability, reward_model{ground_truth, style: "rule"},
extra_info{split, index, qid, row_id}, label, initial_list, final_list, relevant_docids, dataset. `label` and
`ground_truth` are the teacher's order as `[2] > [1]`, which ReasonRank's reward compares rollouts with. verl asks
neither for an `ability` nor for what stands in `extra_info`; ReasonRank publishes no value for the first.
"""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from ranking.parsing import format_order
from warehouse.formats.files import FormatError, ParquetFile, read_parquet
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing, with_lists
from warehouse.formats.prompted import Form, read_prompt, with_prompts

DATA_SOURCE = ABILITY = "ranking"
COLUMNS = (
    "data_source", "prompt", "ability", "reward_model", "extra_info", "label", "initial_list", "final_list",
    "relevant_docids", "dataset",
)  # fmt: skip
LACKS = (
    "reasoning", "teacher", "licence and address of a text", "consistency",
    "white space and [n] inside a text, which the prompt rewrites",
)  # fmt: skip
_NEEDED = ("prompt", "initial_list", "final_list", "relevant_docids", "dataset")


def write(rows: Outgoing, folder: Path, form: Form) -> dict[str, int]:
    """One {split}.parquet; returns rows written by split, and left out by reason."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {split: stack.enter_context(ParquetFile(folder / f"{split}.parquet")) for split in rows.splits}
        for split, frame in rows.by("split"):
            made, left_out = with_prompts(with_lists(frame), form, responses=False)
            files[split].write(_columns(made, counts[split]))
            counts[split] += made.height
            counts.update(left_out)
    return dict(counts)


def read(folder: Path, template: str) -> Incoming:
    """Every Parquet file of the folder. Raises FormatError; a prompt is read with the template that made it."""
    told: list[dict[str, Any]] = []
    texts: dict[tuple[str, str], str] = {}
    for path in _files(folder):
        frame = read_parquet(path, _NEEDED, f"A file for verl has {', '.join(COLUMNS)}.")
        for number, row in enumerate(frame.iter_rows(named=True), start=1):
            place = f"{path.name}:{number}"
            shown = read_prompt(f"{folder / place}", row["prompt"], template)
            if len(shown.passages) != len(row["initial_list"]):
                raise FormatError(
                    f"{folder / place}: the prompt shows {len(shown.passages)} passages and initial_list names "
                    f"{len(row['initial_list'])}. Mend or drop the row."
                )
            extra = row.get("extra_info") or {}
            qid = str(extra.get("qid") or place)
            told.append(
                {
                    "place": place, "domain": row["dataset"], "qid": qid, "query": shown.query, "split": path.stem,
                    **{name: row[name] for name in ("initial_list", "final_list", "relevant_docids")},
                }
            )  # fmt: skip
            texts |= {
                (row["dataset"], docid): text
                for docid, text in zip(row["initial_list"], shown.passages, strict=True)
                if (row["dataset"], docid) not in texts
            }
    return incoming("verl", folder, told, texts, LACKS)


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise FormatError(f"{folder}: holds no Parquet file. Give the folder that holds train.parquet, or the like.")
    return files


def _columns(frame: pl.DataFrame, first: int) -> pl.DataFrame:
    label = pl.Series("label", [format_order(order) for order in frame["final_order"]], dtype=pl.String)
    index = pl.int_range(first, first + pl.len(), dtype=pl.Int64)
    return frame.with_columns(label, dataset="domain").with_columns(
        data_source=pl.lit(DATA_SOURCE), ability=pl.lit(ABILITY),
        reward_model=pl.struct(ground_truth="label", style=pl.lit("rule")),
        extra_info=pl.struct("split", "qid", "row_id", index=index),
    ).select(COLUMNS)  # fmt: skip
