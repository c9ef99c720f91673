"""`rankmill rerank`: a trained model of this home over candidate lists.

    made = rerank_here(settings, chosen, lists, batch=40, exact=True, watch=print)

The model runs in the process that also stands behind `rankmill serve`; lists go to it as fast as it takes them, and
each is journalled when it comes back. What comes out depends on the model, the recipe and the lists, not on the batch,
on how often it was stopped, or on what else was reranked (see training.ties for what that rests on). The score counts
down from the list's length, since a listwise model gives none; `value` is a pointwise model's. Deliberately absent:
files, which are the caller's.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import polars as pl

from inference.server.ranker import ListRefused, NotReady, RankerDied, RankerProcess, RankerUnusable, Ranking
from ranking.prompts import load_template
from rankmill.chosen_model import ChosenModel
from rankmill.journal import Journal
from rankmill.rerank_lists import CandidateList
from rankmill.reranking import COSTS, RUN, Reranking
from rankmill.settings import Settings
from training.recipes import content_hash
from training.serving import ServingJob

VERSION = 2  # raise it when the same lists would come back in another order, or with less than they are asked for
AHEAD = 2  # lists that wait at the model for every place in a batch


class RerankStopped(RuntimeError):
    """The model's process ended; what was ordered is kept."""


@dataclass(frozen=True)
class Progress:
    """Where a reranking stands."""

    done: int
    total: int
    calls: int
    malformed: int
    seconds_a_list: float

    @property
    def seconds_left(self) -> float:
        """Seconds that the rest will take at the pace so far."""
        return self.seconds_a_list * (self.total - self.done)

    @property
    def line(self) -> str:
        """The same in one line."""
        return (
            f"{self.done:,} of {self.total:,} lists, {self.calls:,} calls, "
            f"{100 * self.malformed / max(1, self.calls):.1f} % malformed, "
            f"{self.seconds_a_list:.2f} s a list, about {self.seconds_left:,.0f} s to go"
        )


def rerank_here(
    settings: Settings,
    chosen: ChosenModel,
    lists: Sequence[CandidateList],
    batch: int | None,
    exact: bool,
    watch: Callable[[Progress], None],
) -> Reranking:
    """Rerank `lists`. Raises JournalBusy, and RerankStopped when the model's process ends."""
    recipe = chosen.recipe
    if batch is not None:
        recipe = recipe.model_copy(update={"decoding": recipe.decoding.model_copy(update={"batch": batch})})
    job = ServingJob(
        recipe=recipe,
        model=chosen.reference,
        cache=settings.models / "base",
        top=recipe.decoding.top,
        exact=exact,
    )
    started = time.monotonic()
    with Journal(settings.home / "work" / f"reranked-{identity(job)[:12]}.jsonl") as journal:
        todo = list({entry.sha256: entry for entry in lists if entry.sha256 not in journal.lines}.values())
        if todo:
            asyncio.run(_order(job, todo, lists, journal, watch))
        answers = [journal.lines[entry.sha256] for entry in lists]
    return Reranking(
        run=_run(lists, answers),
        costs=_costs(lists, answers),
        malformed=dict(sum((Counter(answer["malformed"]) for answer in answers), Counter[str]())),
        refused=tuple(
            (entry.qid, answer["refused"])
            for entry, answer in zip(lists, answers, strict=True)
            if answer.get("refused")
        ),
        from_journal=len(lists) - len(todo),
        seconds=time.monotonic() - started,
        engine="transformers",
        engine_version=f"{metadata.version('transformers')} on torch {metadata.version('torch')}",
    )


def identity(job: ServingJob) -> str:
    """Hash of everything that decides an order, and of nothing that does not: the batch is left out where it may be."""
    decoding = job.recipe.decoding.model_dump()
    if job.exact:
        del decoding["batch"]
    return content_hash(
        {
            "version": VERSION,
            "recipe": job.recipe.sha256_of("units", "contract"),
            "decoding": decoding,
            "template": load_template(job.recipe.contract.template).sha256,
            "model": job.model.sha256,
            "top": job.top,
            "dtype": "exact" if job.exact else job.recipe.model.inference_dtype,
            "libraries": [metadata.version(name) for name in ("torch", "transformers", "tokenizers")],
        }
    )


async def _order(
    job: ServingJob,
    todo: Sequence[CandidateList],
    lists: Sequence[CandidateList],
    journal: Journal,
    watch: Callable[[Progress], None],
) -> None:
    """Have the model order `todo`, a bounded number of lists ahead of it."""
    ranker = RankerProcess(job.command())
    running = asyncio.create_task(ranker.run())
    source, begun = iter(todo), 0.0
    kept = [journal.lines[key] for key in {entry.sha256 for entry in lists} & journal.lines.keys()]
    done, calls = len(kept), sum(entry["calls"] for entry in kept)
    malformed = sum(sum(entry["malformed"].values()) for entry in kept)
    total = done + len(todo)

    async def take(entries: Iterator[CandidateList]) -> None:
        nonlocal done, calls, malformed
        for entry in entries:
            answer = await _answer(ranker, entry)
            journal.add(entry.sha256, answer)
            done, calls = done + 1, calls + answer["calls"]
            malformed += sum(answer["malformed"].values())
            watch(Progress(done, total, calls, malformed, (time.monotonic() - begun) / (done - len(kept))))

    try:
        ready = asyncio.create_task(ranker.until_ready())
        await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            running.result()
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(todo), AHEAD * job.recipe.decoding.batch)):
                group.create_task(take(source))
    except* (NotReady, RankerDied, RankerUnusable) as errors:
        raise RerankStopped(
            f"{errors.exceptions[0]}; its output stands above. {len(journal.lines):,} lists are kept: run the same "
            f"command to go on, with a smaller --batch where memory was short."
        ) from None
    finally:
        await ranker.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _answer(ranker: RankerProcess, entry: CandidateList) -> dict[str, Any]:
    try:
        return asdict(await ranker.rank(entry.query, entry.texts))
    except ListRefused as refused:  # too long for the model: the first stage's order stays
        order = list(range(len(entry.docids)))
        return {**asdict(Ranking(tuple(order), 0, {}, 0, 0)), "refused": str(refused)}


def _run(lists: Sequence[CandidateList], answers: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The run, by qid and rank."""
    rows = [
        (entry.qid, entry.docids[position], rank, float(len(entry.docids) - rank + 1), value)
        for entry, answer in zip(lists, answers, strict=True)
        for rank, (position, value) in enumerate(
            zip(answer["order"], answer["scores"] or [None] * len(entry.docids), strict=True), start=1
        )
    ]
    return pl.DataFrame(rows, schema=RUN, orient="row")


def _costs(lists: Sequence[CandidateList], answers: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """What each list took; a local model tells of no cache and bills nothing."""
    names = ("calls", "rounds", "input_tokens", "output_tokens", "seconds")
    rows = [
        {"qid": entry.qid, **{name: answer[name] for name in names}}
        for entry, answer in zip(lists, answers, strict=True)
    ]
    frame = pl.DataFrame(rows, schema={name: kind for name, kind in COSTS.items() if name in ("qid", *names)})
    untold = {name: pl.lit(None, dtype=COSTS[name]) for name in ("cached_tokens", "usd")}
    return frame.with_columns(**untold).select(*COSTS)
