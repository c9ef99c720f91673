"""`rankmill rerank --model teacher`: the profile's endpoint over a TREC run, asked as a recipe's students are.

    summary = rerank_by_teacher(settings, chosen, lists, out, watch=print)

Every answer goes through the home's exchange store, under the teacher's budget and pace: a run that is stopped goes on
where it was, and one that is repeated costs nothing. Deliberately absent: lists that are too long for the model; its
endpoint refuses their calls, which are counted and keep the order shown.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from flows.teacher import engine_at
from inference.progress import Progress
from ranking.trec import write_run
from rankmill.chosen_model import ChosenModel
from rankmill.rerank import Summary
from rankmill.rerank_lists import CandidateList
from rankmill.settings import Settings
from training.jobs import EndpointRerankJob
from training.over_endpoint import rerank_over
from warehouse.evaluation import keep_candidates

DOMAIN = "run"  # a TREC run knows no domains


def rerank_by_teacher(
    settings: Settings,
    chosen: ChosenModel,
    lists: Sequence[CandidateList],
    out: Path,
    watch: Callable[[Progress], None],
) -> Summary:
    """Have the teacher order `lists`, and write `out`, whole or not at all.

    Raises what training.over_endpoint.rerank_over raises; all answers that came are kept.
    """
    started = time.monotonic()
    teacher = settings.profile.teacher
    path, digest = keep_candidates(_candidates(lists), settings.home / "work")
    job = EndpointRerankJob(
        recipe=chosen.recipe,
        release="",
        model=chosen.reference,
        candidates=path,
        candidates_sha256=digest,
        output=settings.home / "work" / "teacher",
        cache=settings.models / "base",
    )
    name = f"reranking {chosen.recipe.name}"
    with engine_at(teacher, settings.store_path, settings.campaign_home.logs, name) as engine:
        result = rerank_over(engine, job, watch)
    run = pl.read_parquet(job.folder / "run.parquet").select("qid", "docid", "rank", "score")
    write_run(out, run, f"rankmill-{chosen.recipe.name}-{teacher.model.replace('/', '-').replace(' ', '_')}")
    return Summary(
        queries=len(lists),
        from_journal=0,
        calls=result.calls,
        malformed=result.malformed,
        refused=(),
        seconds=time.monotonic() - started,
        usd=result.usd,
        cached_tokens=result.cached_tokens,
    )


def _candidates(lists: Sequence[CandidateList]) -> pl.DataFrame:
    rows = [
        (DOMAIN, entry.qid, entry.query, docid, rank, float(-rank), text)
        for entry in lists
        for rank, (docid, text) in enumerate(zip(entry.docids, entry.texts, strict=True), start=1)
    ]
    schema = {
        "domain": pl.String, "qid": pl.String, "query": pl.String, "docid": pl.String, "rank": pl.Int32,
        "score": pl.Float64, "text": pl.String,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")
