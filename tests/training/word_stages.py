"""Stages of the word model that take a second or two, and what stands in for the end of a process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from test_systems import eight_rows, system
from training_toys import Lines
from word_model import make_word_model

from training import rl, sft
from training.jobs import ModelRef, RerankJob, RlJob, SftJob, TrainResult

SUPERVISED = ("cross_entropy", "first_token_ranknet", "softmax_cross_entropy")
# Three epochs and a bit of eight rows in batches of two; the schedule falls, so that a lost step would be seen.
SHORT = {"batch": 2, "max_steps": 14, "scheduler": "cosine"}
ROLLS = {"prompts": 3, "updates": 2, "rollouts": 4, "batch": 3, "max_steps": 6, "lr": 1e-3}


def make_words(folder: Path) -> ModelRef:
    """The word model, with the words of the eight rows."""
    return make_word_model(folder, [f"{r['query']} {' '.join(r['passages'])} helps with This" for r in eight_rows()])


def write_rows(folder: Path, *splits: str) -> Path:
    """The eight rows, once a split."""
    path = folder / "rows.parquet"
    pl.DataFrame([one | {"split": split} for split in splits for one in eight_rows()]).write_parquet(path)
    return path


def sft_job(
    words: ModelRef,
    rows: Path,
    output: Path,
    name: str = "reasonrank",
    objective: Mapping[str, Any] = {},
    student: Mapping[str, Any] = {},
    **job: Any,
) -> SftJob:
    """A short supervised stage of a system, with some of its settings changed."""
    recipe = system(name, objective={choice: {**SHORT, **objective} for choice in SUPERVISED}, model=student)
    return SftJob(recipe=recipe, release="toy", rows=rows, model=words, output=output, seed=1, **job)


def rl_job(
    words: ModelRef,
    rows: Path,
    output: Path,
    name: str = "reasonrank-direct",
    sampling: Mapping[str, Any] = {},
    student: Mapping[str, Any] = {},
    **job: Any,
) -> RlJob:
    """A short reinforcement stage of a system, with some of its settings changed."""
    recipe = system(name, sampling={**ROLLS, "max_completion_tokens": 20, **sampling}, model=student)
    return RlJob(recipe=recipe, release="toy", rows=rows, model=words, output=output, seed=1, **job)


def rerank_job(words: ModelRef, output: Path, qids: Sequence[str], name: str = "direct-point") -> RerankJob:
    """A reranking of the eight rows' passages by a system's decoder, for some of their queries (q0 to q7)."""
    candidates = [
        {"domain": "toys", "qid": qid, "query": row["query"], "docid": f"d{n}", "rank": n + 1, "score": 1.0 / (n + 1),
         "text": text}
        for qid, row in ((f"q{n}", row) for n, row in enumerate(eight_rows()))
        if qid in qids
        for n, text in enumerate(row["passages"])
    ]  # fmt: skip
    path = output / f"candidates {' '.join(qids)}.parquet"
    output.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(candidates).write_parquet(path)
    return RerankJob(recipe=system(name), release="toy", model=words, candidates=path, candidates_sha256=path.stem,
                     student="base", output=output)  # fmt: skip


def run(job: SftJob | RlJob, reporter: Lines | None = None) -> TrainResult:
    """Do a job in this process."""
    reporter = reporter or Lines()
    return sft.run(job, reporter) if isinstance(job, SftJob) else rl.run(job, reporter)


def figures(result: TrainResult) -> list[dict[str, float]]:
    """The curve without what a clock or a memory gauge says."""
    gauges = ("seconds", "tokens_per_second", "memory_gb", "dev_seconds")
    return [{name: value for name, value in entry.items() if name not in gauges} for entry in result.history]


class Died(BaseException):
    """What ends a process from inside, in place of a signal."""


class Mortal(Lines):
    """A reporter whose process dies as it tells of a step."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        super().step(stage, step, total, metrics)
        if step == self.last:
            raise Died
