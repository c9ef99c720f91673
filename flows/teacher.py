"""Which teacher is asked, how hard it is pushed, and for how much at most.

    with serving(teacher, logs) as base_url:
        engine = engine_for(teacher, base_url, store, what="teacher_rankings math")

A teacher is any OpenAI-compatible endpoint, a vLLM server that is started for the campaign, or the stand-in that ships.
Deliberately absent: the environment (the front door fills in address, key and budget).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from inference.batch.engine import BatchEngine
from inference.batch.settings import BatchSettings
from inference.breaker import BreakerSettings
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Asks, Engine
from inference.exchange import Sampling
from inference.pace import PaceSettings
from inference.prices import SHIPPED, Price, Prices
from inference.store import ExchangeStore
from inference.vllm import VllmSettings, serving_vllm

STAND_IN = "stand-in"
VLLM = "vllm"
UNASKED = "http://127.0.0.1:9/v1"  # stands where nothing will be asked; nobody listens on the discard port


class TeacherSettings(BaseModel):
    """Which teacher is asked, how, and for how much at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(
        STAND_IN, description="Address up to /v1; `stand-in` for the teacher that ships; `vllm` to start a server."
    )
    model: str = Field("stand-in-teacher", description="Name of the model that the endpoint serves.")
    api_key: SecretStr = Field(SecretStr("none"), description="From OPENAI_API_KEY; never from a file.")
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; recorded on every row.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus; recorded on every row.")
    max_tokens: int = Field(8192, ge=16, description="Most tokens of an answer, its chain included.")
    token_limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls the limit on an answer's tokens."
    )
    timeout_s: float = Field(900, gt=0, description="Longest wait for one attempt; raise it for slow servers.")
    connect_timeout_s: float = Field(30, gt=0, description="Longest wait for a connection.")
    pace: PaceSettings = Field(PaceSettings(), description="How hard the endpoint is pushed.")
    breaker: BreakerSettings = Field(BreakerSettings(), description="When a run is given up.")
    mode: Literal["live", "batch"] = Field(
        "live", description="`batch` uses the provider's Batch API: within a day, mostly at half the price."
    )
    batch: BatchSettings = Field(BatchSettings(), description="Sizes and patience of batch mode.")
    vllm: VllmSettings | None = Field(None, description="The server to start where base_url is `vllm`.")
    budget_usd: float | None = Field(None, ge=0, description="Hard limit of all spending in this home, in USD.")
    budget_tokens: int | None = Field(None, ge=0, description="Hard limit of all tokens in this home.")
    price: Price | None = Field(None, description="USD per million tokens where the table does not know the model.")
    price_table: Path = Field(
        SHIPPED, description="Price table in YAML; left out: inference/prices.yaml, with its date."
    )
    generations: int = Field(
        3, ge=1, description="How often a question is asked in all, where its answers are rejected and retried."
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port on this machine where Prometheus reads a campaign's figures."
    )

    @model_validator(mode="after")
    def _vllm_is_described(self) -> "TeacherSettings":
        if self.base_url == VLLM and self.vllm is None:
            raise ValueError("base_url is `vllm`, so `vllm` must say which model to serve: {model: …, served_name: …}")
        if self.base_url == VLLM and self.vllm is not None and self.vllm.served_name != self.model:
            raise ValueError(
                f"model is {self.model!r}, and vllm.served_name {self.vllm.served_name!r}: give both alike"
            )
        return self

    @property
    def sampling(self) -> Sampling:
        """The sampling parameters of every request."""
        return Sampling(self.model, self.temperature, self.top_p, self.max_tokens)

    @property
    def behind(self) -> str:
        """What answers: the stand-in, a vLLM of one's own, or an endpoint, whose address is nobody's business."""
        return self.base_url if self.base_url in (STAND_IN, VLLM) else "endpoint"

    @property
    def prices(self) -> Prices:
        """The price table, with this teacher's own price where one is given."""
        table = Prices.load(self.price_table)
        return table if self.price is None else table.with_price(self.model, self.price)

    def prices_told(self, today: date) -> str:
        """Of when the prices are, and whether that is too long ago; nothing where nothing is paid by the table."""
        table = self.prices
        price = table.of(self.model)
        if self.price is not None or not (price.input or price.output):
            return ""
        told = f"prices of {table.dated}"
        if not table.is_old(today):
            return told
        return (
            f"{told}, more than half a year old: compare {price.source}, and give teacher.price or teacher.price_table"
        )

    @property
    def share(self) -> float:
        """The share of the listed price that is paid in this mode."""
        return self.prices.of(self.model).batch if self.mode == "batch" else 1.0


def engine_for(teacher: TeacherSettings, base_url: str, store: ExchangeStore, what: str) -> Asks:
    """The engine that asks this teacher; `what` is named where a budget stops it."""
    endpoint = Endpoint(
        base_url=base_url,
        api_key=teacher.api_key,
        timeout_s=teacher.timeout_s,
        connect_timeout_s=teacher.connect_timeout_s,
        token_limit_name=teacher.token_limit_name,
    )
    budget = Budget(usd=teacher.budget_usd, tokens=teacher.budget_tokens, what=what)
    if teacher.mode == "batch":
        return BatchEngine(endpoint, store, budget, teacher.prices, teacher.batch, teacher.breaker)
    return Engine(endpoint, store, budget, teacher.prices, teacher.pace, teacher.breaker)


@contextmanager
def engine_at(teacher: TeacherSettings, store: Path, logs: Path, what: str) -> Iterator[Asks]:
    """An engine that asks this teacher over the exchange store at `store`, for the length of the block.

    It asks live, whatever the teacher's mode: who reranks waits for one answer before the next question.
    """
    live = teacher.model_copy(update={"mode": "live"})
    with ExchangeStore(store) as opened, serving(live, logs / f"vllm {what}.log") as base_url:
        yield engine_for(live, base_url, opened, what)


@contextmanager
def serving(teacher: TeacherSettings, log: Path) -> Iterator[str]:
    """The teacher's address; the stand-in or a vLLM server (which writes to `log`) runs for the length of the block."""
    if teacher.base_url == STAND_IN:
        from inference.standin.server import running_standin

        with running_standin() as standin:
            yield standin.base_url
    elif teacher.base_url == VLLM:
        assert teacher.vllm is not None  # validated
        with serving_vllm(teacher.vllm, log) as base_url:
            yield base_url
    else:
        yield teacher.base_url
