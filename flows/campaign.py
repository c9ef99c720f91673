"""The paid half of a label campaign: questions through the engine, and what came of them.

    bought = label("label math", questions, teacher, home, on_progress=print)

Where PREFECT_API_URL names a server, a campaign is a Prefect flow whose tasks are chunks of several hundred questions,
never one; chunks overlap, so that one slow answer holds nothing up, and share one client, pace and budget. A chunk that
dies is retried and pays nothing twice, because every answer was committed to the exchange store before it counted.
Without a server the same questions go through the same engine in one stream: starting Prefect's own would cost more
than labelling the seed. Prefect's schedules are not used: Dagster schedules.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.questions import Question, check_of
from flows.standing import CHUNK, standing
from flows.teacher import UNASKED, TeacherSettings, engine_for, serving
from inference.batch.rows import BatchElsewhere
from inference.breaker import MostlyErrors
from inference.budget import Budget, BudgetExceeded
from inference.endpoint import EndpointRefused
from inference.engine import Asks
from inference.estimate import Estimate, estimate
from inference.exchange import Exchange, Failure, Request
from inference.metrics import serving_metrics
from inference.prices import Cost, UnknownPrice
from inference.progress import Progress
from inference.running import run
from inference.store import ExchangeStore

CHUNKS_AT_ONCE = 4
# What a person decides: the same chunk asked again would end the same way.
DECISIONS = (BudgetExceeded, EndpointRefused, UnknownPrice, MostlyErrors, BatchElsewhere)
Tell = Callable[[str], None]
Outcome = Exchange | Failure


@dataclass(frozen=True)
class Home:
    """Where a campaign keeps things: the exchange store, logs of servers, and Prefect's results where it is used."""

    store: Path
    logs: Path
    prefect: Path | None = None


class Label(BaseModel):
    """What a campaign brought: one outcome a question, in their order, and the figures."""

    model_config = ConfigDict(frozen=True)

    outcomes: tuple[Outcome, ...]
    progress: Progress
    presumed: tuple[int, Cost] = (0, Cost())

    @property
    def unanswered(self) -> int:
        """Questions that the endpoint never answered; nothing is stored of them, so the next run asks again."""
        return sum(isinstance(outcome, Failure) for outcome in self.outcomes)

    @property
    def figures(self) -> dict[str, float]:
        """The engine's figures of this campaign, as metadata."""
        bought = self.progress.prompt_tokens + self.progress.completion_tokens
        figures = {**self.progress.figures, "tokens": bought, "unanswered": self.unanswered}
        requests, cost = self.presumed
        return figures | ({"presumed_requests": requests, "presumed_usd": cost.usd} if requests else {})


def label(
    name: str,
    questions: Sequence[Question],
    teacher: TeacherSettings,
    home: Home,
    on_progress: Tell | None = None,
) -> Label:
    """Answers to all questions, bought or from the store.

    Raises BudgetExceeded, EndpointDown, EndpointRefused (by its kind), MostlyErrors, UnknownPrice, StoreUnusable and
    VllmUnusable; whatever was bought by then is stored.
    """
    last: list[Progress] = []
    with ExchangeStore(home.store) as store, ExitStack() as during:
        foreseen = foresee((stand.due for stand in standing(store, questions)), teacher, store)
        if on_progress is not None and foreseen.calls:
            on_progress(f"{name}: {foreseen.line}")
        watchers: list[Callable[[Progress], None]] = [last.append]
        if on_progress is not None and questions:
            watchers.append(lambda progress: on_progress(f"{name}: {progress.line}"))
        elif on_progress is not None:
            on_progress(f"{name}: there is nothing to ask")
        if teacher.metrics_port is not None:
            watchers.append(during.enter_context(serving_metrics(teacher.metrics_port)))

        def watch(progress: Progress) -> None:
            del last[:]
            for watcher in watchers:
                watcher(progress)

        # A server that takes a minute to start is not started for answers that are all stored.
        log = home.logs / f"vllm {name}.log"
        base_url = during.enter_context(serving(teacher, log)) if foreseen.calls else UNASKED
        engine = engine_for(teacher, base_url, store, name)
        if home.prefect is not None and foreseen.calls:
            outcomes = run(_as_flow(engine, questions, name, home.prefect, watch, _chunk(teacher)))
        else:
            outcomes = run(_in_one_stream(engine, questions, watch))
        presumed = store.presumed(Budget().scope)
    if on_progress is not None and presumed[0]:
        on_progress(
            f"{name}: {presumed[0]:,} requests of this home were in flight when a process ended and were asked again; "
            f"they may have been charged, so ${presumed[1].usd:.2f} count as spent"
        )
    return Label(outcomes=tuple(outcomes), progress=last[0], presumed=presumed)


def foresee(due: Iterable[Request | None], teacher: TeacherSettings, store: ExchangeStore) -> Estimate:
    """Calls, tokens, USD and hours that what is `due` would take, from the real prompts; None is due no more.

    Raises UnknownPrice.
    """
    window_h = teacher.batch.window_s / 3600 if teacher.mode == "batch" else None
    return estimate(due, teacher.prices, store, teacher.pace, teacher.share, window_h)


async def _in_one_stream(
    engine: Asks, questions: Sequence[Question], watch: Callable[[Progress], None]
) -> list[Outcome]:
    place = {question.id: i for i, question in enumerate(questions)}
    requests = (question.request for question in questions)
    outcomes = [
        outcome async for outcome in engine.ask(requests, check_of(questions), total=len(questions), on_progress=watch)
    ]
    return sorted(outcomes, key=lambda outcome: place[outcome.request_id])


async def _as_flow(
    engine: Asks,
    questions: Sequence[Question],
    name: str,
    results: Path,
    watch: Callable[[Progress], None],
    size: int,
) -> list[Outcome]:
    from prefect import flow, task
    from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings

    answered: dict[str, Outcome] = {}
    failed: list[Exception] = []
    gate = asyncio.Semaphore(CHUNKS_AT_ONCE)
    async with engine.open(len(questions), watch) as session:

        @task(
            name="label-chunk",
            task_run_name="questions {first} to {last}",
            retries=2,
            retry_delay_seconds=5,
            retry_condition_fn=_may_help,
            # A key of this very run: the store is the cache, which knows every answer and not only whole chunks.
            result_storage_key="label-{flow_run.id}-{parameters[first]}",
            persist_result=True,
            result_serializer="json",
        )
        async def label_chunk(first: int, last: int) -> dict[str, int]:
            chunk = questions[first:last]
            # Tried again, it asks what is still without an answer: the others are counted already.
            left = [q for q in chunk if not isinstance(answered.get(q.id), Exchange)]
            async for outcome in session.ask((question.request for question in left), check_of(left)):
                answered[outcome.request_id] = outcome
            return _told([answered[question.id] for question in chunk])

        async def in_turn(first: int) -> None:
            async with gate:
                if failed:
                    return
                try:
                    await label_chunk(first, min(first + size, len(questions)))
                except Exception as error:  # noqa: BLE001 - raised once the chunks beside it have ended
                    failed.append(error)

        @flow(name="label-campaign", flow_run_name=name, persist_result=True, result_serializer="json")
        async def label_campaign() -> dict[str, int]:
            # After an error no chunk begins, and those under way finish what they have sent: it is paid for.
            try:
                async with asyncio.TaskGroup() as chunks:
                    for first in range(0, len(questions), size):
                        chunks.create_task(in_turn(first))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            if failed:
                raise failed[0]
            return _told(list(answered.values()))

        with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: results}):
            await label_campaign()
    return [answered[question.id] for question in questions]


def _chunk(teacher: TeacherSettings) -> int:
    """Questions a Prefect task; in batch mode a task holds a whole batch of the provider's."""
    return CHUNK if teacher.mode == "live" else teacher.batch.max_requests


def _told(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """A chunk's result as Prefect keeps it: counts; the answers themselves are in the store."""
    failed = sum(isinstance(outcome, Failure) for outcome in outcomes)
    faulty = sum(isinstance(outcome, Exchange) and outcome.fault is not None for outcome in outcomes)
    return {"questions": len(outcomes), "unanswered": failed, "faulty": faulty}


async def _may_help(_task: Any, _run: Any, state: Any) -> bool:
    return not isinstance(await state.aresult(raise_on_failure=False), DECISIONS)
