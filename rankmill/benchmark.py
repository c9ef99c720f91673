"""`rankmill benchmark`: a first stage and a model on a part of a benchmark, beside what others published for it.

    part = chosen_part(settings, "BRIGHT/biology", None)
    rows = measure(settings, part, chosen, run=None, passage_tokens=None, resamples=1000, watch=print)

Every row says how it was measured, since one baseline in two settings lies points apart. Scores are means over all
queries of the judgements, as trec_eval has them. Absent on purpose: training on a benchmark, which nothing here does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from ranking.metrics import evaluate
from ranking.prompts import load_template, titled
from ranking.retrieval import first_stage
from ranking.statistics import bootstrap_mean
from ranking.trec import read_run, write_run
from rankmill.chosen_model import ChosenModel
from rankmill.rerank import rerank_files
from rankmill.rerank_lists import lists_of
from rankmill.rerank_teacher import rerank_by_teacher
from rankmill.settings import ROOT, Settings
from warehouse.benchmarks.boards import HERE, Board, boards_of, unregistered
from warehouse.benchmarks.folders import ASKED, SEARCHED, read_folder, write_folder
from warehouse.benchmarks.loading import Texts, load
from warehouse.benchmarks.registry import Benchmark, BenchmarkError, find, registered
from warehouse.lake import CommitMessage, Replace, canonical_sha256, now
from warehouse.production import CODE_VERSION

REGISTRY = ROOT / "benchmarks"


@dataclass(frozen=True)
class Part:
    """A part of a benchmark: what is known of it, and its folder."""

    name: str
    benchmark: Benchmark
    folder: Path


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
    chosen: ChosenModel | None,
    run: Path | None,
    passage_tokens: int | None,
    resamples: int,
    watch: Callable[[Any], None],
) -> list[dict[str, Any]]:
    """The rows of the first stage and, where there is one, of the model's reranking of it; kept in the lake.

    `run` is another first stage than the folder's, or than BM25 where that has none. Raises BenchmarkError.
    """
    texts = read_folder(part.folder, part.name, run)
    work = settings.home / "benchmarks" / "runs" / part.name
    first, said = _first_stage(texts, part.benchmark.top)
    path = work / "first_stage.trec"
    write_run(path, first, "first-stage")
    setting: dict[str, Any] = {"first_stage": said, "query_retrieved": _field(texts), "depth": first["rank"].max()}
    rows = [_row(settings, part, texts, path, f"{said.partition('(')[0]} (first stage)", "", setting, None, resamples)]
    if chosen is not None:
        budget = passage_tokens or part.benchmark.passage_tokens
        recipe = chosen.recipe.model_copy(
            update={
                "units": chosen.recipe.units.model_copy(update={"passage_tokens": budget}),
                "decoding": chosen.recipe.decoding.model_copy(update={"top": part.benchmark.top}),
            }
        )
        student = ChosenModel(chosen.reference, recipe, chosen.names)
        known_by = chosen.reference.sha256.replace("/", "-").removeprefix("endpoint:")
        out = work / f"{recipe.name}-{known_by if chosen.is_teacher else known_by[:12]}-{budget}.trec"
        asked = dict(texts.queries.select("qid", "text").iter_rows())
        passages = {docid: titled(title, text) for docid, title, text in texts.passages.iter_rows()}
        lists = lists_of(first, path, (asked, part.folder / ASKED), (passages, part.folder / SEARCHED))
        if chosen.is_teacher:
            summary = rerank_by_teacher(settings, student, lists, out, watch)
            engine = {"engine": settings.profile.teacher.behind, "precision": "not told"}
        else:
            summary = rerank_files(settings, student, lists, out, None, True, watch)
            engine = {"engine": f"transformers {metadata.version('transformers')}", "precision": "float32"}
        setting |= {
            "query_reranked": "text", "passage_tokens": budget, "decoding": recipe.decoding.model_dump(mode="json"),
            "temperature": 0, "repeats": 1, "fusion": "none",
            "prompt_sha256": load_template(recipe.contract.template).sha256,
            **engine, "not_reranked": len(summary.refused), "malformed": summary.malformed,
        }  # fmt: skip
        rate = sum(summary.malformed.values()) / max(1, summary.calls)
        system = f"{recipe.name}: {' '.join(chosen.names) if chosen.is_teacher else chosen.names[0]}"
        rows.append(_row(settings, part, texts, out, system, chosen.reference.sha256, setting, rate, resamples))
    _keep(settings, rows)
    return rows


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
        return ranked.filter(pl.col("rank") <= top), "given run"
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


def _row(
    settings: Settings,
    part: Part,
    texts: Texts,
    run: Path,
    system: str,
    model: str,
    setting: dict[str, Any],
    malformed_rate: float | None,
    resamples: int,
) -> dict[str, Any]:
    measures = part.benchmark.measures
    scores = evaluate(read_run(run), texts.judgements, measures)
    _, low, high = bootstrap_mean(scores[measures[0]].to_numpy(), resamples, 0)
    return {
        "part": part.name, "system": system, "origin": HERE, "model": model, "queries": scores.height,
        "measures": {name: float(scores[name].mean()) for name in measures}, "low": low, "high": high,  # type: ignore[arg-type]
        "malformed_rate": malformed_rate, "setting": dict(setting), "run": str(run.relative_to(settings.home)),
        "run_sha256": hashlib.sha256(run.read_bytes()).hexdigest(), "created_at": now(),
    }  # fmt: skip


def _keep(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Into the lake, in place of what the same system had in the same setting."""
    lake = settings.lake()
    for row in rows:
        digest = canonical_sha256(row["setting"])
        texts = {name: json.dumps(row[name], sort_keys=True) for name in ("measures", "setting")}
        kept = {name: value for name, value in row.items() if name != "origin"}
        frame = pl.DataFrame(
            [{**kept, **texts, "setting_sha256": digest}], schema_overrides={"malformed_rate": pl.Float64}
        )
        where = {"part": row["part"], "system": row["system"], "setting_sha256": digest}
        lake.commit([Replace("benchmark_scores", frame, where)], CommitMessage("benchmark", row["part"], CODE_VERSION))
