"""The paid half of a label campaign: questions through the engine, in chunks, as a Prefect flow.

    outcomes, rows = label("label math", questions, teacher, store_path, on_progress=print)

A Prefect task is a chunk of several hundred questions, never one; a chunk that dies is asked again and pays nothing
twice, because every answer was committed to the exchange store before it counted. Without PREFECT_API_URL no Prefect
server is started for it: a run of stored answers must not cost eight seconds, and the flow is then the plain function.
Prefect's own schedules are not used: Dagster schedules.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from flows.labelling import Question
from inference.budget import Budget, BudgetExceeded, estimate
from inference.endpoint import Endpoint, EndpointRefused
from inference.engine import Engine, ask_all
from inference.exchange import Exchange, Failure, Sampling
from inference.pace import PaceSettings
from inference.prices import Price, Prices, UnknownPrice
from inference.store import ExchangeStore

CHUNK = 400
# What a person decides: the same chunk asked again would end the same way.
DECISIONS = (BudgetExceeded, EndpointRefused, UnknownPrice)
STAND_IN = "stand-in"
EXCHANGE_SCHEMA = {
    "domain": pl.String, "purpose": pl.String, "key": pl.String, "request_id": pl.String, "model": pl.String,
    "served_model": pl.String, "messages": pl.String, "sampling": pl.String, "generation": pl.Int64,
    "content": pl.String, "reasoning": pl.String, "finish_reason": pl.String, "fault": pl.String,
    "prompt_tokens": pl.Int64, "completion_tokens": pl.Int64, "cached_tokens": pl.Int64, "usd": pl.Float64,
    "latency_s": pl.Float64, "attempts": pl.Int64, "created_at": pl.String, "prompt_sha256": pl.String,
}  # fmt: skip


class TeacherSettings(BaseModel):
    """Which teacher is asked, how, and for how much at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(STAND_IN, description="Address up to /v1, or `stand-in` for the teacher that ships.")
    model: str = Field("stand-in-teacher", description="Name of the model that the endpoint serves.")
    api_key: SecretStr = Field(SecretStr("none"), description="From OPENAI_API_KEY; never from a file.")
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; recorded on every row.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus; recorded on every row.")
    max_tokens: int = Field(8192, ge=16, description="Most tokens of an answer, its chain included.")
    max_in_flight: int = Field(64, ge=1, description="Most requests in flight at once.")
    timeout_s: float = Field(900, gt=0, description="Longest wait for one answer.")
    budget_usd: float | None = Field(None, ge=0, description="Hard limit of all spending in this home, in USD.")
    budget_tokens: int | None = Field(None, ge=0, description="Hard limit of all tokens in this home.")
    price: Price | None = Field(None, description="USD per million tokens where the table does not know the model.")

    @property
    def sampling(self) -> Sampling:
        """The sampling parameters of every request."""
        return Sampling(self.model, self.temperature, self.top_p, self.max_tokens)


class Label(BaseModel):
    """What a campaign brought: one outcome a question, in their order, and the figures of what was paid."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    outcomes: tuple[Exchange | Failure, ...]
    exchanges: pl.DataFrame
    calls: int
    stored: int
    tokens: int
    usd: float

    @property
    def unanswered(self) -> int:
        """Questions that the endpoint never answered; nothing is stored of them, so the next run asks again."""
        return sum(isinstance(outcome, Failure) for outcome in self.outcomes)

    @property
    def figures(self) -> dict[str, float]:
        """What was paid for, as metadata."""
        return {
            "calls": self.calls,
            "cache_hits": self.stored,
            "tokens": self.tokens,
            "usd": self.usd,
            "unanswered": self.unanswered,
        }


def label(
    name: str,
    questions: Sequence[Question],
    teacher: TeacherSettings,
    store_path: Path,
    domain: str,
    on_progress: Callable[[str], None] | None = None,
    flow_server: bool = False,
) -> Label:
    """Answers to all questions, bought or from the store, and their rows for the lake's `exchanges`.

    Raises BudgetExceeded, EndpointDown, EndpointRefused and UnknownPrice; whatever was bought by then is stored.
    """
    prices = Prices.load()
    if teacher.price is not None:
        prices = prices.with_price(teacher.model, teacher.price)
    with ExchangeStore(store_path) as store:
        keys = {question.request.key for question in questions}
        before = {record.exchange.key for record in store.records(keys)}
        foreseen = estimate((question.request for question in questions), prices, store)
        if on_progress is not None and foreseen.calls:
            on_progress(
                f"{name}: {foreseen.calls:,} calls to buy, {foreseen.stored:,} stored; {foreseen.prompt_tokens:,} "
                f"prompt tokens, at most {foreseen.completion_tokens_at_most:,} more and ${foreseen.usd_at_most:,.2f}"
            )
        ask = _as_flow if flow_server and not keys <= before else _ask
        # The teacher is at hand even where every first answer is stored: one of them may still want its repair turn.
        with serving(teacher) as base_url:
            outcomes = ask(questions, teacher, base_url, store, prices, name, on_progress)
        exchanges = exchange_rows(store, questions, outcomes, domain)
    bought = exchanges.filter(~pl.col("key").is_in(list(before)))
    return Label(
        outcomes=tuple(outcomes),
        exchanges=exchanges,
        calls=bought.height,
        stored=len(before),
        tokens=int((bought["prompt_tokens"] + bought["completion_tokens"]).sum()),
        usd=float(bought["usd"].sum()),
    )


@contextmanager
def serving(teacher: TeacherSettings) -> Iterator[str]:
    """The teacher's address; the stand-in is started on loopback for the length of the block."""
    if teacher.base_url != STAND_IN:
        yield teacher.base_url
        return
    from inference.standin import running_standin

    with running_standin() as standin:
        yield standin.base_url


def exchange_rows(
    store: ExchangeStore, questions: Sequence[Question], outcomes: Sequence[Exchange | Failure], domain: str
) -> pl.DataFrame:
    """The stored exchanges behind `questions`, repair turns included, as rows of the lake."""
    by_key = {question.request.key: question for question in questions}
    repaired = {
        outcome.repair_of: outcome for outcome in outcomes if isinstance(outcome, Exchange) and outcome.repair_of
    }
    rows: list[dict[str, Any]] = []
    for record in store.records(by_key):
        exchange = record.exchange
        question = by_key.get(exchange.key) or by_key[exchange.repair_of or ""]
        fault = exchange.fault
        if exchange.key in repaired and fault is None:
            fault = "repaired by a second turn"
        rows.append(
            {
                "domain": domain, "purpose": question.purpose, "key": exchange.key,
                "request_id": question.request.id, "model": exchange.model, "served_model": exchange.served_model,
                "messages": json.dumps(record.messages, ensure_ascii=False), "sampling": json.dumps(record.sampling),
                "generation": exchange.generation, "content": exchange.content, "reasoning": exchange.reasoning,
                "finish_reason": exchange.finish_reason, "fault": fault, "prompt_tokens": exchange.prompt_tokens,
                "completion_tokens": exchange.completion_tokens, "cached_tokens": exchange.cached_tokens,
                "usd": exchange.usd, "latency_s": exchange.latency_s, "attempts": exchange.attempts,
                "created_at": exchange.created_at, "prompt_sha256": question.template.sha256,
            }
        )  # fmt: skip
    return (
        pl.DataFrame(rows, schema=EXCHANGE_SCHEMA)
        .unique("key", maintain_order=True)
        .sort("purpose", "request_id", "key")
    )


def _ask(
    questions: Sequence[Question],
    teacher: TeacherSettings,
    base_url: str,
    store: ExchangeStore,
    prices: Prices,
    name: str,
    on_progress: Callable[[str], None] | None,
) -> list[Exchange | Failure]:
    engine = Engine(
        Endpoint(base_url=base_url, api_key=teacher.api_key, timeout_s=teacher.timeout_s),
        store,
        Budget(usd=teacher.budget_usd, tokens=teacher.budget_tokens, what=name),
        prices,
        PaceSettings(max_in_flight=teacher.max_in_flight, start_in_flight=min(8, teacher.max_in_flight)),
    )
    by_id = {question.request.id: question for question in questions}
    return ask_all(
        engine,
        [question.request for question in questions],
        lambda request, content: by_id[request.id].fault_of(content),
        on_progress=None if on_progress is None else lambda progress: on_progress(f"{name}: {progress.line}"),
    )


def _as_flow(
    questions: Sequence[Question],
    teacher: TeacherSettings,
    base_url: str,
    store: ExchangeStore,
    prices: Prices,
    name: str,
    on_progress: Callable[[str], None] | None,
) -> list[Exchange | Failure]:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    @task(
        name="label-chunk",
        retries=2,
        retry_delay_seconds=5,
        retry_condition_fn=lambda _task, _run, state: not isinstance(state.result(raise_on_failure=False), DECISIONS),
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def label_chunk(first: int) -> list[Exchange | Failure]:
        return _ask(questions[first : first + CHUNK], teacher, base_url, store, prices, name, on_progress)

    @flow(name="label-campaign", flow_run_name=name, persist_result=False)
    def label_campaign() -> list[Exchange | Failure]:
        return [outcome for first in range(0, len(questions), CHUNK) for outcome in label_chunk(first)]

    return label_campaign()
