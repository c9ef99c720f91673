"""LLaMA-Factory's supervised sets: a JSON array of instruction, output and system, and its entry in dataset_info.json.

One file a split, `rankmill_{split}.json`; the entry names the columns as ReasonRank's own does. The folder can be
LLaMA-Factory's `dataset_dir`, or its entries copied into one that exists.
"""

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.formats.files import FormatError, JsonArray, read_json
from warehouse.formats.incoming import Incoming, incoming
from warehouse.formats.outgoing import Outgoing
from warehouse.formats.prompted import Form, read_prompt, read_response, with_prompts

INFO = "dataset_info.json"
COLUMNS = {"prompt": "instruction", "response": "output", "system": "system"}
LACKS = (
    "domain, query id and passage ids (made from the texts when read)", "labels: which passages are relevant",
    "teacher", "licence and address of a text", "consistency",
    "white space and [n] inside a text, which the prompt rewrites",
)  # fmt: skip
_REMEDY = f"The folder holds {INFO} and, for each entry, a JSON array of objects with instruction, output and system."


def write(rows: Outgoing, folder: Path, form: Form) -> dict[str, int]:
    """One file a split that has rows, and dataset_info.json; returns rows written, and left out by reason."""
    counts: Counter[str] = Counter()
    names = {split: f"rankmill_{split}" for split in rows.splits}
    with ExitStack() as stack:
        files = {split: stack.enter_context(JsonArray(folder / f"{name}.json")) for split, name in names.items()}
        for split, frame in rows.by("split"):
            made, left_out = with_prompts(frame, form, responses=True)
            files[split].write(_columns(made))
            counts[split] += made.height
            counts.update(left_out)
    info = {name: {"file_name": f"{name}.json", "columns": COLUMNS} for name in names.values()}
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", "utf-8")
    return dict(counts)


def read(folder: Path, template: str) -> Incoming:
    """Every set that dataset_info.json names a file of. Raises FormatError."""
    told: list[dict[str, Any]] = []
    texts: dict[tuple[str, str], str] = {}
    for name, entry in read_json(folder / INFO, _REMEDY).items():
        path = folder / entry.get("file_name", f"{name}.json")
        columns = COLUMNS | entry.get("columns", {})
        value = read_json(path, _REMEDY)
        if not isinstance(value, list):
            raise FormatError(f"{path}: not a JSON array. {_REMEDY}")
        for number, row in enumerate(value, start=1):
            place = f"{path.name}:{number}"
            if missing := [column for column in (columns["prompt"], columns["response"]) if column not in row]:
                raise FormatError(f"{folder / place}: row {number} has no field {missing[0]!r}. {_REMEDY}")
            shown = read_prompt(f"{folder / place}", [{"role": "user", "content": row[columns["prompt"]]}], template)
            order, chain = read_response(f"{folder / place}", row[columns["response"]], len(shown.passages))
            docids = [_name("p", text) for text in shown.passages]
            texts |= {(name, docid): text for docid, text in zip(docids, shown.passages, strict=True)}
            told.append(
                {
                    "place": place, "domain": name, "qid": _name("q", shown.query), "query": shown.query,
                    "initial_list": docids, "final_list": [docids[position] for position in order],
                    "reasoning": chain, "split": name.removeprefix("rankmill_"),
                }
            )  # fmt: skip
    return incoming("llamafactory", folder, told, texts, LACKS)


def _columns(frame: pl.DataFrame) -> pl.DataFrame:
    said = pl.col("prompt").list
    user = said.last().struct.field("content")
    has_system = said.len() > 1
    system = pl.when(has_system).then(said.first().struct.field("content")).otherwise(pl.lit(""))
    return frame.select(instruction=user, output="response", system=system)


def _name(kind: str, text: str) -> str:
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
