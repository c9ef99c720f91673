"""`rankmill rerank --model teacher`: the profile's endpoint over candidate lists, asked as a recipe's students are.

    made = rerank_by_teacher(settings, chosen, lists, watch=print)

Every answer goes through the home's exchange store, under the teacher's budget and pace: a run that is stopped goes on
where it was, and one that is repeated costs nothing. Deliberately absent: lists that are too long for the model; its
endpoint refuses their calls, which are counted and keep the order shown.
"""

import time
from collections.abc import Callable, Sequence

import polars as pl

from flows.paid import every_call_kept
from flows.teacher import engine_at
from inference.progress import Progress
from rankmill.chosen_model import ChosenModel
from rankmill.rerank_lists import CandidateList
from rankmill.reranking import RUN, Reranking
from rankmill.settings import Settings
from training.jobs import EndpointRerankJob
from training.over_endpoint import rerank_over
from warehouse.evaluation import keep_candidates
from warehouse.lake import opened

DOMAIN = "run"  # a TREC run knows no domains


def rerank_by_teacher(
    settings: Settings,
    chosen: ChosenModel,
    lists: Sequence[CandidateList],
    watch: Callable[[Progress], None],
) -> Reranking:
    """Have the teacher order `lists`.

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
    store, logs = settings.store_path, settings.campaign_home.logs
    with (
        opened(settings.lake()) as lake,
        every_call_kept(lake, store, name),
        engine_at(teacher, store, logs, name) as engine,
    ):
        result = rerank_over(engine, job, watch)
    calls = pl.read_parquet(job.folder / "calls.parquet")
    told = calls["cached_tokens"].null_count() < calls.height
    return Reranking(
        run=pl.read_parquet(job.folder / "run.parquet").select(*RUN),
        costs=_costs(lists, calls).with_columns(cached_tokens=pl.when(told).then("cached_tokens")),
        malformed=result.malformed,
        refused=(),
        from_journal=0,
        seconds=time.monotonic() - started,
        engine=teacher.behind,
        engine_version=", ".join(" ".join(filter(None, served)) for served in sorted(result.versions.items())),
    )


def _costs(lists: Sequence[CandidateList], calls: pl.DataFrame) -> pl.DataFrame:
    """What each list took; one of a single passage took nothing."""
    taken = calls.group_by("qid").agg(
        calls=pl.len().cast(pl.Int64),
        rounds=pl.col("round").n_unique().cast(pl.Int64),
        input_tokens=pl.col("prompt_tokens").sum().cast(pl.Int64),
        output_tokens=pl.col("completion_tokens").sum().cast(pl.Int64),
        cached_tokens=pl.col("cached_tokens").sum(),
        seconds=pl.col("seconds").sum(),
        usd=pl.col("usd").sum(),
    )
    asked = pl.DataFrame({"qid": [entry.qid for entry in lists]}, schema={"qid": pl.String})
    return asked.join(taken, on="qid", how="left", maintain_order="left").select("qid", pl.exclude("qid").fill_null(0))


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
