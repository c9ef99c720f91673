"""Every format by its name: how a release is written in it, how a set in it is read, and what it cannot hold.

    export(release_rows(lake, "newest"), "reasonrank", out, ExportOptions(), overwrite=False)
    incoming = read_set(folder, "reasonrank")
    name = recognised(folder)

Deliberately absent: converting one foreign set into another format. What comes in goes through curation first.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from warehouse.formats import beir, hub, llamafactory, rankllm, reasonrank, trec, trl, verl
from warehouse.formats.files import FormatError
from warehouse.formats.incoming import Incoming
from warehouse.formats.outgoing import SPLITS, Outgoing
from warehouse.formats.prompted import Form
from warehouse.formats.whole_folder import MANIFEST, ExportRefused, whole_folder, write_manifest


@dataclass(frozen=True)
class ExportOptions:
    """What shapes an export: the splits taken, the prompt and response form, and the card that travels with a set."""

    splits: tuple[str, ...] = SPLITS
    form: Form = field(default_factory=Form)
    card: Path | None = None


@dataclass(frozen=True)
class Format:
    """One format. `audited` says whether a set in it holds lists with labels and a teacher's order."""

    name: str
    description: str
    write: Callable[[Outgoing, Path, ExportOptions], dict[str, int]]
    read: Callable[[Path, str], Incoming]
    lacks: Sequence[str]
    audited: bool
    signs: tuple[str, ...]
    """Files, as patterns, by which a folder in this format is known."""


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format(
            "reasonrank", "ReasonRank's released layout: training_data_all.jsonl, id_query/, id_doc/",
            lambda rows, folder, _: reasonrank.write(rows, folder),
            reasonrank.read, reasonrank.LACKS, True, (reasonrank.ROWS_FILE,),
        ),
        Format(
            "verl", "ReasonRank's RL Parquet for verl: prompt, label, lists, reward_model",
            lambda rows, folder, options: verl.write(rows, folder, options.form),
            verl.read, verl.LACKS, True, ("*.parquet",),
        ),
        Format(
            "llamafactory", "LLaMA-Factory's SFT JSON: instruction, output, system, and dataset_info.json",
            lambda rows, folder, options: llamafactory.write(rows, folder, options.form),
            llamafactory.read, llamafactory.LACKS, False, (llamafactory.INFO,),
        ),
        Format(
            "trl", "TRL's conversational sets: prompt and completion messages, Parquet by split",
            lambda rows, folder, options: trl.write(rows, folder, options.form),
            trl.read, trl.LACKS, True, (),
        ),
        Format(
            "trec", "TREC runs and qrels a domain: the list, the teacher's order, the labels",
            lambda rows, folder, _: trec.write(rows, folder),
            trec.read, trec.LACKS, False, (f"*/{trec.INITIAL}",),
        ),
        Format(
            "rankllm", "RankLLM's requests JSON a domain: a query and the candidates to rerank",
            lambda rows, folder, _: rankllm.write(rows, folder),
            rankllm.read, rankllm.LACKS, False, (),
        ),
        Format(
            "beir", "BEIR folders a domain: corpus.jsonl, queries.jsonl, qrels/",
            lambda rows, folder, _: beir.write(rows, folder),
            beir.read, beir.LACKS, False, ("corpus.jsonl", "*/corpus.jsonl"),
        ),
        Format(
            "hub", "a Hugging Face dataset folder ready to push: every column of the release, and its card",
            lambda rows, folder, options: hub.write(rows, folder, options.card),
            hub.read, hub.LACKS, True, (),
        ),
    )
}  # fmt: skip
AUDITED = tuple(name for name, each in FORMATS.items() if each.audited)


def export(rows: Outgoing, name: str, out: Path, options: ExportOptions, overwrite: bool) -> dict[str, object]:
    """Write a release to the folder `out`, whole or not at all; returns the manifest. Raises ExportRefused."""
    chosen_rows = rows.of(options.splits)
    if not chosen_rows.sizes:
        raise ExportRefused(
            f"release {rows.release[:12]} has no row in the splits {', '.join(options.splits)}; it has: "
            f"{', '.join(rows.splits) or 'none'}. Nothing was written."
        )
    with whole_folder(out, overwrite) as folder:
        told: dict[str, object] = {
            "format": name, "release": rows.release, "splits": list(options.splits),
            "written": chosen(name).write(chosen_rows, folder, options), "not_held": list(chosen(name).lacks),
        }  # fmt: skip
        if name in ("verl", "llamafactory", "trl"):
            told |= {"template": options.form.template, "think": options.form.think}
        write_manifest(folder, told)
    return told


def read_set(folder: Path, name: str | None = None, template: str = Form().template) -> Incoming:
    """A foreign set, in the format named or in the one its files show. Raises FormatError."""
    if not folder.is_dir():
        raise FormatError(f"{folder}: there is no such folder. Check the path.")
    return chosen(name or recognised(folder)).read(folder, template)


def chosen(name: str) -> Format:
    """A format by its name. Raises FormatError listing all of them."""
    if name not in FORMATS:
        raise FormatError(f"there is no format {name!r}. Formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def recognised(folder: Path) -> str:
    """The format that a folder's manifest or files show. Raises FormatError where none does."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        name = json.loads(manifest.read_text("utf-8")).get("format")
        if name in FORMATS:
            return str(name)
    for name, each in FORMATS.items():
        if any(next(folder.glob(sign), None) for sign in each.signs):
            return name
    if next(folder.glob("data/*.parquet"), None):
        columns = pq.read_schema(next(folder.glob("data/*.parquet"))).names
        return "trl" if "prompt" in columns else "hub"
    if (folder / "queries.jsonl").is_file() and (folder / "passages.jsonl").is_file():
        raise FormatError(f"{folder}: a source, and no training set. Label it: rankmill run --sources {folder}")
    raise FormatError(
        f"{folder}: in none of the known formats, by its files. Name it with --format: {', '.join(FORMATS)}."
    )
