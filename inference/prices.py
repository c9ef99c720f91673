"""What tokens cost: a dated table per model, and the arithmetic on it.

`Prices.load()` reads the table that ships (`prices.yaml`); `with_price` adds a model that is not in it. A model
without a price raises `UnknownPrice` before anything is sent. What a batch costs is a share of the same price.

Absent on purpose: time-of-day discounts, and currencies other than USD.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.exchange import Request

SHIPPED = Path(__file__).with_name("prices.yaml")
HALF_A_YEAR = datetime.timedelta(days=183)
# Chat templates wrap every message in a few tokens of their own.
TOKENS_PER_MESSAGE = 16
# As measured over prompts of four English domains; other languages have fewer bytes a token.
BYTES_PER_TOKEN = 3.6
# Two more messages, and what names the fault.
REPAIR_TOKENS = 1_000


class UnknownPrice(Exception):
    """A model has no price, so neither a budget nor an estimate can be kept."""


class Price(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0, description="USD per million prompt tokens that miss the provider's cache")
    cached: float = Field(ge=0, description="USD per million prompt tokens that hit the provider's cache")
    output: float = Field(ge=0, description="USD per million completion tokens, reasoning included")
    batch: float = Field(1.0, gt=0, le=1, description="share of these prices that is paid in a batch; 1: no discount")
    source: str = Field(description="where the price was read")


class Cost(NamedTuple):
    """Money and tokens, spent or to be spent."""

    usd: float = 0.0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(self.usd + other.usd, self.tokens + other.tokens)


NOTHING = Cost()


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dated: datetime.date
    models: dict[str, Price]


@dataclass(frozen=True)
class Prices:
    """A price table; `dated` says when it was last checked."""

    dated: datetime.date
    models: Mapping[str, Price]

    @staticmethod
    def load(path: Path = SHIPPED) -> Prices:
        """Read a table from YAML; raises ValueError that names the file."""
        try:
            table = _Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, ValidationError, yaml.YAMLError) as error:
            raise ValueError(f"The price table {path} cannot be read: {error}. Compare it with {SHIPPED}.") from error
        return Prices(table.dated, table.models)

    def is_old(self, today: datetime.date) -> bool:
        """Whether it was last checked more than half a year ago."""
        return today - self.dated > HALF_A_YEAR

    def with_price(self, model: str, price: Price) -> Prices:
        return Prices(self.dated, {**self.models, model: price})

    def of(self, model: str) -> Price:
        """The price of a model; raises UnknownPrice."""
        try:
            return self.models[model]
        except KeyError:
            known = ", ".join(sorted(self.models))
            raise UnknownPrice(
                f"The model {model!r} has no price (table of {self.dated}; known: {known}). Without one no budget can "
                "be kept. Give its USD per million input, cached and output tokens in the profile (0 for your own "
                "server)."
            ) from None

    def usd(self, model: str, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """What an answer cost, from the usage that the endpoint reported."""
        price = self.of(model)
        missed = prompt_tokens - cached_tokens
        return (missed * price.input + cached_tokens * price.cached + completion_tokens * price.output) / 1e6

    def worst_case(self, request: Request) -> Cost:
        """The most that a request can cost: no token is shorter than a byte, no answer longer than max_tokens."""
        price = self.of(request.sampling.model)
        prompt = prompt_tokens_at_most(request)
        dearest_input = max(price.input, price.cached)
        usd = (prompt * dearest_input + request.sampling.max_tokens * price.output) / 1e6
        return Cost(usd, prompt + request.sampling.max_tokens)

    def worst_repair(self, request: Request) -> Cost:
        """The most that the repair turn of a request can cost: its prompt, any answer to it, and the fault named."""
        if request.repair_of is not None or not request.mend:
            return NOTHING
        price, limit = self.of(request.sampling.model), request.sampling.max_tokens
        prompt = prompt_tokens_at_most(request) + limit + REPAIR_TOKENS
        return Cost((prompt * max(price.input, price.cached) + limit * price.output) / 1e6, prompt + limit)


def prompt_tokens_at_most(request: Request) -> int:
    """An upper bound on the prompt's tokens under any byte-level tokenizer: the bytes of its JSON, and more."""
    return len(request.messages_json) + TOKENS_PER_MESSAGE * len(request.messages)


def prompt_tokens_about(request: Request) -> int:
    """A fair guess at the prompt's tokens, where no answer of the model has told how many its prompts have."""
    return round(len(request.messages_json) / BYTES_PER_TOKEN)
