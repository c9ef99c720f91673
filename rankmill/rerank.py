"""`rankmill rerank`: a trained model over a TREC run from files, through the process that evaluation uses."""

import json
import subprocess
from pathlib import Path

import polars as pl

from ranking.prompts import titled
from ranking.trec import read_run, write_run
from rankmill.settings import Settings, SettingsError
from training.jobs import ModelRef, RerankJob, RerankResult, base_model, command, finished, weights_sha256
from training.recipes import Recipe
from warehouse.evaluation import keep_candidates


class RerankInputError(ValueError):
    """Run, queries and passages do not fit together; the message names the first that is missing."""


def rerank_files(
    settings: Settings, model: str, run: Path, queries: Path, passages: Path, out: Path, recipe_name: str
) -> RerankResult:
    """Rerank `run` and write `out`. The same files, model and settings are not reranked twice.

    Raises RerankInputError, SettingsError, and RuntimeError when the process ends without a result.
    """
    recipe = settings.recipe(recipe_name)
    candidates = _candidates(run, queries, passages)
    path, digest = keep_candidates(candidates, settings.home / "work")
    stage, reference = _resolve(settings, model, recipe)
    job = RerankJob(
        recipe=recipe,
        release="",
        model=reference,
        candidates=path,
        candidates_sha256=digest,
        student=stage,
        output=settings.models / "reranked",
        cache=settings.models / "base",
        seed=settings.profile.seed,
    )
    if finished(job) is None:
        subprocess.run(command(*[job]), check=False)
    result = finished(job)
    if result is None:
        raise SettingsError(f"reranking ended without a result; its output stands above. Nothing was written to {out}.")
    tag = f"rankmill-{recipe_name}-{reference.sha256[:12]}"
    write_run(out, pl.read_parquet(job.folder / "run.parquet").sort("qid", "rank"), tag)
    return result


def _candidates(run: Path, queries: Path, passages: Path) -> pl.DataFrame:
    ranked = read_run(run)
    texts = pl.DataFrame(
        [(row["docid"], titled(row.get("title"), row["text"])) for row in _lines(passages, ("docid", "text"))],
        schema={"docid": pl.String, "text": pl.String},
        orient="row",
    )
    asked = pl.DataFrame(
        [(row["qid"], row["text"]) for row in _lines(queries, ("qid", "text"))],
        schema={"qid": pl.String, "query": pl.String},
        orient="row",
    )
    for frame, key, file in ((asked, "qid", queries), (texts, "docid", passages)):
        missing = ranked.join(frame, on=key, how="anti")
        if missing.height:
            raise RerankInputError(
                f"{run}: {key} {missing[key][0]!r} and {missing[key].n_unique() - 1} others are not in {file}. "
                f"Give the file that the run was made from."
            )
    for frame, key, file in ((asked, "qid", queries), (texts, "docid", passages), (ranked, "docid", run)):
        keys = ["qid", "docid"] if frame is ranked else [key]
        if (twice := frame.filter(pl.struct(keys).is_duplicated())).height:
            raise RerankInputError(f"{file}: {key} {twice[key][0]!r} stands more than once. Give each one line.")
    # As trec_eval reads a run: by score, ties by docid; the rank column is not trusted.
    ranked = ranked.sort("qid", "score", "docid", descending=[False, True, True]).with_columns(
        rank=pl.int_range(1, pl.len() + 1).over("qid")
    )
    joined = ranked.join(asked, on="qid").join(texts, on="docid")
    return joined.select(pl.lit("files").alias("domain"), "qid", "query", "docid", "rank", "score", "text").sort(
        "qid", "rank"
    )


def _lines(path: Path, fields: tuple[str, ...]) -> list[dict]:
    rows = []
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RerankInputError(f"{path}: cannot be read ({error}). Check the path and save it as UTF-8.") from None
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RerankInputError(f"{path}:{number}: not JSON ({error.msg}). Write one JSON object a line.") from None
        for field in fields:
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                raise RerankInputError(
                    f"{path}:{number}: no text field {field!r}. Every line needs {', '.join(fields)}."
                )
        rows.append(row)
    return rows


def _resolve(settings: Settings, model: str, recipe: Recipe) -> tuple[str, ModelRef]:
    if Path(model).is_dir():
        try:
            return "rl", ModelRef(path=str(Path(model).absolute()), sha256=weights_sha256(Path(model)))
        except FileNotFoundError as error:
            raise SettingsError(str(error)) from None
    if model.split("/")[-1] == "base":
        return "base", base_model(recipe)
    known = pl.DataFrame()
    if settings.has_lake:
        known = settings.lake().read("models").sort("created_at")
        name, _, stage = model.partition("/")
        named = (pl.col("recipe") == name) & (pl.col("stage") == stage) | pl.col("model").str.starts_with(model)
        matches = known.filter(named)
        if matches.height:
            row = matches.row(-1, named=True)
            return row["stage"], ModelRef(path=str(settings.home / row["path"]), sha256=row["weights_sha256"])
    listing = "; ".join(f"{r['model'][:12]} ({r['recipe']}/{r['stage']})" for r in known.iter_rows(named=True))
    raise SettingsError(
        f"there is no model {model!r}. Models of this home: {listing or 'none yet'}; "
        "or give a checkpoint folder, or `base`."
    )
