"""TRL's conversational sets: `prompt` and `completion` as messages, one Parquet file a split, loadable by `datasets`.

    load_dataset(folder, "sft", split="sft")      # SFTTrainer: prompt, completion; "dev" for evaluation
    load_dataset(folder, "rl", split="rl")        # GRPOTrainer: prompt; the other columns reach the reward function

The rl split has no completion, since a rollout writes its own; as a configuration of its own (README.md names both) it
is not given an empty one. Beside the messages stand dataset, qid, initial_list,
final_list, relevant_docids: SFTTrainer drops columns it does not know, and a reward needs them. Files of JSON lines
are read too.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.formats.files import FormatError, ParquetFile, read_lines, read_parquet
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing, with_lists
from warehouse.formats.prompted import MESSAGES, Form, read_prompt, read_response, with_prompts

BESIDE = ("dataset", "qid", "initial_list", "final_list", "relevant_docids")
LACKS = (
    "teacher", "licence and address of a text", "consistency", "reasoning of rl rows",
    "white space and [n] inside a text, which the prompt rewrites",
)  # fmt: skip
_REMEDY = "A file holds prompt and completion (lists of role and content), and the columns " + ", ".join(BESIDE) + "."


def write(rows: Outgoing, folder: Path, form: Form) -> dict[str, int]:
    """data/{split}-00000-of-00001.parquet; returns rows written by split, and left out by reason."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        places = {split: folder / "data" / f"{split}-00000-of-00001.parquet" for split in rows.splits}
        files = {split: stack.enter_context(ParquetFile(place)) for split, place in places.items()}
        for split, frame in rows.by("split"):
            made, left_out = with_prompts(with_lists(frame), form, responses=split != "rl")
            files[split].write(_columns(made, split))
            counts[split] += made.height
            counts.update(left_out)
    (folder / "README.md").write_text(_configurations(rows.splits), "utf-8")
    return dict(counts)


def read(folder: Path, template: str) -> Incoming:
    """Every Parquet and JSON-lines file of the folder or its `data`. Raises FormatError."""
    told: list[dict[str, Any]] = []
    texts: dict[tuple[str, str], str] = {}
    for path in _files(folder):
        for place, row in _rows(path):
            where = f"{path.parent / place}"
            shown = read_prompt(where, row["prompt"], template)
            docids, final, chain = row["initial_list"], row["final_list"], None
            if len(docids) != len(shown.passages):
                raise FormatError(
                    f"{where}: the prompt shows {len(shown.passages)} passages, initial_list {len(docids)}."
                )
            if row.get("completion"):
                order, chain = read_response(where, row["completion"][-1]["content"], len(docids))
                final = [docids[position] for position in order]
            for docid, text in zip(docids, shown.passages, strict=True):
                texts.setdefault((row["dataset"], docid), text)
            told.append(
                {
                    "place": place, "domain": row["dataset"], "qid": row["qid"], "query": shown.query,
                    "initial_list": docids, "final_list": final, "relevant_docids": row["relevant_docids"],
                    "reasoning": chain, "split": path.name.split("-0")[0].split(".")[0],
                }
            )  # fmt: skip
    return incoming("trl", folder, told, texts, LACKS)


def _files(folder: Path) -> list[Path]:
    files = sorted(
        path for kind in ("parquet", "jsonl") for at in (folder, folder / "data") for path in at.glob(f"*.{kind}")
    )
    if not files:
        raise FormatError(f"{folder}: holds no .parquet or .jsonl file, nor does its folder data. {_REMEDY}")
    return files


def _rows(path: Path) -> Any:
    needed = ("prompt", *BESIDE)
    if path.suffix == ".parquet":
        frame = read_parquet(path, needed, _REMEDY)
        return ((f"{path.name}:{number}", row) for number, row in enumerate(frame.iter_rows(named=True), start=1))
    return (_checked(path, place, row, needed) for place, row in read_lines(path, _REMEDY))


def _checked(path: Path, place: str, row: dict[str, Any], needed: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    if missing := [name for name in needed if name not in row]:
        raise FormatError(f"{path.parent / place}: field {missing[0]!r} is missing. {_REMEDY}")
    return place, row


def _configurations(splits: Sequence[str]) -> str:
    """The header by which `datasets` keeps splits of different columns apart."""
    lines = ["---", "configs:"]
    for name, held in (("sft", ("sft", "dev")), ("rl", ("rl",))):
        there = [split for split in held if split in splits]
        if there:
            lines += [f"- config_name: {name}", "  data_files:"]
            lines += [f"  - split: {split}\n    path: data/{split}-*.parquet" for split in there]
    return "\n".join([*lines, "---", ""])


def _columns(frame: pl.DataFrame, split: str) -> pl.DataFrame:
    written = pl.concat_list(pl.struct(role=pl.lit("assistant"), content="response")).cast(MESSAGES)
    completion = [] if split == "rl" else [written.alias("completion")]
    return frame.with_columns(dataset="domain").select("prompt", *completion, *BESIDE)
