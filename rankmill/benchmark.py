"""`rankmill benchmark`: a first stage and a model on a part of a benchmark, beside what others published for it.

    part = chosen_part(settings, "BRIGHT/biology", None)
    rows = measure(settings, part, chosen, run=None, passage_tokens=None, resamples=1000, watch=print)

Every row says how it was measured, since one baseline in two settings lies points apart. Scores are means over all
queries of the judgements, as trec_eval has them. Absent on purpose: training on a benchmark, which nothing here does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ranking.prompts import titled
from ranking.retrieval import first_stage
from ranking.trec import write_run
from rankmill.benchmark_rows import NO_WEIGHT, asked_how, fused_with, row_of, weight_of
from rankmill.cascade import rerank
from rankmill.chosen_model import ChosenModel, tag
from rankmill.rerank_lists import lists_of
from rankmill.settings import ROOT, Settings
from training.seams import WeightedFusion
from warehouse.benchmarks.boards import Board, boards_of, unregistered
from warehouse.benchmarks.folders import ASKED, SEARCHED, read_folder, write_folder
from warehouse.benchmarks.loading import Texts, load
from warehouse.benchmarks.registry import Benchmark, BenchmarkError, find, registered
from warehouse.lake import CommitMessage, Replace, canonical_sha256, content_sha256
from warehouse.production import CODE_VERSION

REGISTRY = ROOT / "benchmarks"


@dataclass(frozen=True)
class Part:
    """A part of a benchmark: what is known of it, and its folder."""

    name: str
    benchmark: Benchmark
    folder: Path


@dataclass(frozen=True)
class Measured:
    """Rows as boards.py describes them, and what is to be said of what they lack."""

    rows: list[dict[str, Any]]
    notes: list[str]


def chosen_part(settings: Settings, name: str, known_as: str | None) -> Part:
    """The part that was named: of the registry, fetched where it is not there, or a folder that stands for one.

    A folder that `known_as` does not name is a benchmark of its own. Raises BenchmarkError, HubUnreachable.
    """
    known = registered(REGISTRY)
    if Path(name).is_dir():
        folder = Path(name).absolute()
        if known_as is not None:
            return Part(known_as, find(known, known_as), folder)
        return Part(folder.name, unregistered(folder.name), folder)
    benchmark = find(known, name)
    folder = settings.home / "benchmarks" / name
    if not folder.is_dir():
        fetch(benchmark, name, folder)
    return Part(name, benchmark, folder)


def fetch(benchmark: Benchmark, name: str, folder: Path) -> Texts:
    """The texts of a part from its place, kept as a folder. Raises BenchmarkError, HubUnreachable."""
    found = load(benchmark, name)
    write_folder(found, folder)
    return found


def measure(
    settings: Settings,
    part: Part,
    models: Sequence[ChosenModel],
    keep: int,
    run: Path | None,
    passage_tokens: int | None,
    watch: Callable[[Any], None],
) -> Measured:
    """The first stage, the models' reranking of it, and where a recipe says so the two fused; kept in the lake.

    `models` is none, one, or two of a cascade, the second over the first `keep` of what the first makes. `run` is
    another first stage than the registry's or the folder's, or than BM25 where there is none. Raises BenchmarkError.
    """
    texts = read_folder(part.folder, part.name, run or part.benchmark.run_of(part.name))
    work = settings.home / "benchmarks" / "runs" / part.name
    first, said = _first_stage(texts, part.benchmark.top)
    stem = content_sha256(first, ["qid", "rank"])[:8]  # a row's run stays when another first stage is measured
    path = work / f"first_stage-{stem}.trec"
    write_run(path, first, "first-stage")
    setting: dict[str, Any] = {"first_stage": said, "query_retrieved": _field(texts), "depth": first["rank"].max()}
    known = (part.name, part.benchmark)
    base = row_of(settings, known, texts, path, f"{said.partition('(')[0].strip()} (first stage)", setting)
    rows, notes = [base.row], []
    if models:
        asked = [_within(model, part.benchmark, passage_tokens) for model in models]
        shown = dict(texts.queries.select("qid", "text").iter_rows())
        passages = {docid: titled(title, text) for docid, title, text in texts.passages.iter_rows()}
        lists = lists_of(first, path, (shown, part.folder / ASKED), (passages, part.folder / SEARCHED))
        made = rerank(settings, asked, keep, lists, None, True, watch)
        name = "-".join(f"{one.recipe.name}-{one.short}-{one.recipe.asked['passage_tokens']}" for one in asked).replace(
            "/", "-"
        )
        out = work / f"{name}{f'-{keep}' if len(asked) > 1 else ''}-{stem}.trec"
        write_run(out, made.run, tag(asked))
        how = {**setting, **asked_how(asked, keep, made)}
        system = ", then ".join(f"{one.recipe.name}: {one.told}" for one in asked)
        model = "+".join(one.reference.sha256 for one in asked)
        rows.append(row_of(settings, known, texts, out, system, how, made, base, model).row)
        fusion = asked[-1].recipe.fusion
        if isinstance(fusion, WeightedFusion):
            weight = weight_of(settings, asked[-1], fusion)
            if weight is None:
                notes.append(NO_WEIGHT.format(recipe=asked[-1].recipe.name, model=asked[-1].names[0]))
            else:
                both = out.with_name(f"{out.stem}+{fusion.method}={weight:g}.trec")
                write_run(both, fused_with(made, first, fusion, weight), tag(asked))
                weighed = {**how, "fusion": f"{fusion.method}, {weight:g} of it the model's"}
                fused = f"{system} + {fusion.method}"
                rows.append(row_of(settings, known, texts, both, fused, weighed, made, base, model).row)
        if made.refused:
            notes.append(
                f"{len(made.refused)} lists are too long for {system} and keep the first stage's order; "
                "--passage-tokens shortens them"
            )
    _keep(settings, rows)
    return Measured(rows, notes)


def _within(chosen: ChosenModel, benchmark: Benchmark, passage_tokens: int | None) -> ChosenModel:
    """A model asked as its recipe says, within the benchmark's budget and depth."""
    recipe, budget = chosen.recipe, passage_tokens or benchmark.passage_tokens
    return ChosenModel(
        chosen.reference,
        recipe.model_copy(
            update={
                "units": recipe.units.model_copy(update={"passage_tokens": budget}),
                "decoding": recipe.decoding.model_copy(update={"passage_tokens": None, "top": benchmark.top}),
            }
        ),
        chosen.names,
    )


def measured(settings: Settings) -> list[Board]:
    """By part, what was measured in this home and what others published for it."""
    return boards_of(settings.lake().read("benchmark_scores"), registered(REGISTRY)) if settings.has_lake else []


def _first_stage(texts: Texts, top: int) -> tuple[pl.DataFrame, str]:
    """The `top` candidates a query without those excluded for it, and what ranked them."""
    excluded = texts.queries.select("qid", docid="excluded_docids").explode("docid").drop_nulls()
    if texts.first_stage is not None:
        kept = texts.first_stage.join(excluded, on=["qid", "docid"], how="anti")
        # As trec_eval reads a run: by score, ties by docid; the rank column is not trusted.
        ordered = kept.sort("qid", "score", "docid", descending=[False, True, True])
        ranked = ordered.with_columns(rank=pl.int_range(1, pl.len() + 1).over("qid"))
        assert texts.run is not None  # where the run is from
        digest = hashlib.sha256(texts.run.read_bytes()).hexdigest()
        return ranked.filter(pl.col("rank") <= top), f"given run {texts.run.name} ({digest[:12]})"
    if texts.passages.is_empty() or texts.queries.is_empty():
        raise BenchmarkError(
            f"{texts.name}: without passages or queries BM25 cannot rank. Give a run with --run, or bring "
            f"{ASKED} and {SEARCHED}."
        )
    asked = texts.queries.with_columns(text=pl.coalesce("retrieval_text", "text"))
    found = first_stage(asked, texts.passages, top)
    return found.drop("retriever"), found["retriever"][0] if found.height else "bm25"


def _field(texts: Texts) -> str:
    if texts.first_stage is not None:
        return "the run's own"
    return "retrieval_text" if texts.queries["retrieval_text"].is_not_null().any() else "text"


def _keep(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Into the lake, in place of what the same system had in the same setting."""
    lake = settings.lake()
    for row in rows:
        digest = canonical_sha256(row["setting"])
        told = {name: row[name] for name in ("measures", "setting", "versus", "costs")}
        texts = {name: None if value is None else json.dumps(value, sort_keys=True) for name, value in told.items()}
        kept = {name: value for name, value in row.items() if name != "origin"}
        frame = pl.DataFrame(
            [{**kept, **texts, "setting_sha256": digest}],
            schema_overrides={"malformed_rate": pl.Float64, "versus": pl.String, "costs": pl.String},
        )
        where = {"part": row["part"], "system": row["system"], "setting_sha256": digest}
        lake.commit([Replace("benchmark_scores", frame, where)], CommitMessage("benchmark", row["part"], CODE_VERSION))
