"""What a finished training run leaves behind: weights, tokenizer, prompt template and a card that says where from.

`write_checkpoint` fills the job's temporary folder and returns the TrainResult; `jobs.publish` makes it final. The
folder loads as it is in transformers, vLLM and (with the template beside it) RankLLM. Deliberately absent: optimizer
state, which is needed while a stage goes on and no longer (training.survival).
"""

import hashlib
import platform
import time
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from training.cards import model_card
from training.jobs import LeftOut, RlJob, SftJob, TrainResult
from training.ranks import best_device
from training.recipes import Recipe
from training.shortened import Shortened
from training.student import arithmetic, save_student

ROOT = Path(__file__).resolve().parents[1]
# The rooms whose code decides what comes out of a training process.
CODE = ("training", "ranking")
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "safetensors")


class TrainingDataError(RuntimeError):
    """Rows that a stage cannot train on; the message counts them and names the reasons."""


def read_rows(path: Path, split: str) -> list[dict[str, Any]]:
    """The rows of one split, ordered by row_id so that a seed means the same on any machine."""
    rows = pl.read_parquet(path).filter(pl.col("split") == split).sort("row_id")
    return rows.to_dicts()


def require(row_ids: Sequence[str], left_out: Sequence[LeftOut], path: Path, split: str) -> None:
    """Raise TrainingDataError when nothing is left to train on."""
    if not row_ids:
        reasons = "; ".join(sorted({item.reason for item in left_out})) or f"no row has split {split!r}"
        raise TrainingDataError(
            f"{path}: none of {len(left_out)} {split} rows fits the recipe: {reasons}. "
            f"Raise the token budgets in the recipe or the profile, or materialize training_set with more rows."
        )


def versions() -> dict[str, str]:
    """Versions of this code, of Python and of the libraries that decide what comes out."""
    return {"rankmill": code_version(), **libraries()}


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what comes out."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


@cache
def code_version() -> str:
    """The installed version with a digest of the code that runs: `0.1.0+1a2b3c4d5e6f`."""
    digest = hashlib.sha256()
    for path in sorted(path for room in CODE for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".yaml"}):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{metadata.version('rankmill')}+{digest.hexdigest()[:12]}"


def hardware(dtype: str) -> str:
    """The device that did the work, and what it computed in where `dtype` was asked for."""
    import torch

    if best_device() == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {arithmetic(dtype)}"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {arithmetic(dtype)}"


def write_checkpoint(
    part: Path,
    job: SftJob | RlJob,
    model: Any,
    tokenizer: Any,
    *,
    row_ids: Sequence[str],
    shortened: Shortened,
    left_out: Sequence[LeftOut],
    seen: Iterable[str],
    history: Sequence[dict[str, float]],
    steps: int,
    chosen_step: int | None,
    dev_ndcg: float | None,
    went_on_at: Sequence[int],
    tokens: int,
    started: float,
    train_seconds: float,
) -> TrainResult:
    """Save everything but result.json into `part`; `started` is the process's start in time.time() seconds."""
    weights = save_student(model, tokenizer, part)
    write_template(job.recipe, part)
    result = TrainResult(
        stage=job.stage,
        job=job.sha256,
        recipe=job.recipe.name,
        recipe_sha256=job.recipe.sha256,
        release=job.release,
        model=job.model,
        seed=job.seed,
        seconds=time.time() - started,
        versions=versions(),
        hardware=hardware(job.recipe.model.inference_dtype),
        weights_sha256=weights,
        rows_used=len(set(row_ids)),
        rows_seen=tuple(sorted(seen)),
        rows_left_out=tuple(left_out),
        shortened=shortened,
        steps=steps,
        chosen_step=chosen_step,
        dev_ndcg=dev_ndcg,
        went_on_at=tuple(went_on_at),
        tokens=tokens,
        step_seconds=train_seconds / max(1, steps),
        processor_seconds=time.process_time(),
        history=tuple(history),
    )
    (part / "README.md").write_text(model_card(job, result, licences(job.rows, job.stage)), encoding="utf-8")
    return result


def write_template(recipe: Recipe, folder: Path) -> None:
    """The prompt template beside the weights, in RankLLM's format."""
    from ranking.prompts import TEMPLATES

    name = recipe.contract.template
    source = Path(name) if name.endswith((".yaml", ".yml")) else TEMPLATES / f"{name}.yaml"
    (folder / "prompt_template.yaml").write_bytes(source.read_bytes())


def licences(rows: Path, split: str) -> list[tuple[str, str, int]]:
    """(source, licence, rows) of the data a stage read."""
    table = pl.read_parquet(rows, columns=["split", "source", "license"]).filter(pl.col("split") == split)
    counted = (
        table.group_by("source", "license").len("rows").sort(pl.col("rows").cast(pl.Int64).neg(), "source", "license")
    )
    return [(str(source), str(licence), rows) for source, licence, rows in counted.iter_rows()]
