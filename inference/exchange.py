"""What is asked and what comes back: `Request`, `Exchange`, `Failure`.

A request's `key` is the hash of everything that shapes the answer: model, messages, sampling parameters and the
generation number. Its `id` (whose question it is) and the endpoint (who is paid) are not part of it, so the same
question asked for two reasons is bought once, and a server may move. Raise `generation` to buy a fresh answer.

Absent on purpose: any reading of the answer. What is a good answer is the caller's `check`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

Message = Mapping[str, str]


@dataclass(frozen=True)
class Sampling:
    """The model and the parameters that shape its answer; every one is explicit and recorded."""

    model: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("Sampling.model is empty: name the model that the endpoint serves.")
        if self.max_tokens < 1:
            raise ValueError(f"Sampling.max_tokens is {self.max_tokens} for {self.model}: it must be at least 1.")


@dataclass(frozen=True)
class Request:
    """One question to a model."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    generation: int = 0

    @cached_property
    def key(self) -> str:
        """sha256 over the canonical JSON of model, messages, sampling parameters and generation."""
        # temperature 0 and 0.0 ask the same thing and must hash alike.
        sampling = asdict(self.sampling)
        sampling["temperature"] = float(self.sampling.temperature)
        sampling["top_p"] = float(self.sampling.top_p)
        identity = {"messages": [dict(m) for m in self.messages], "sampling": sampling, "generation": self.generation}
        return hashlib.sha256(canonical_json(identity).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Exchange:
    """One answer of a model, good or faulty, as it was paid for.

    `fault` names what is wrong with the answer (None: nothing). `repair_of` is the key of the faulty answer that this
    one was asked to mend. `usd` is what this answer cost when it was bought, also when it now comes from the store.
    `attempts` counts the HTTP requests it took; `latency_s` is the time of the last of them.
    """

    request_id: str
    key: str
    model: str
    served_model: str
    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    usd: float
    latency_s: float
    attempts: int
    created_at: str
    generation: int = 0
    fingerprint: str = ""
    from_store: bool = False
    fault: str | None = None
    repair_of: str | None = None

    @property
    def repaired(self) -> bool:
        """Whether the first answer was faulty and this second one is good."""
        return self.repair_of is not None and self.fault is None


@dataclass(frozen=True)
class Failure:
    """A request that the endpoint never answered; nothing was stored, so asking again tries again."""

    request_id: str
    key: str
    kind: str
    detail: str


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no blanks and no escapes, the same on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def own_fault(exchange: Exchange) -> str | None:
    """The fault that shows without reading the answer: cut off, withheld, or empty."""
    if exchange.finish_reason == "length":
        return "the answer was cut off at the token limit"
    if exchange.finish_reason == "content_filter":
        return "the answer was withheld by a content filter"
    if not exchange.content.strip():
        return "the answer was empty"
    return None


def repair_request(request: Request, answer: str, fault: str) -> Request:
    """The one further turn that shows the model its answer and names the fault; it has a key of its own."""
    turns: Iterator[Message] = iter(
        (
            # Several endpoints refuse an empty assistant turn, or two user turns in a row.
            {"role": "assistant", "content": answer if answer.strip() else "(no answer)"},
            {
                "role": "user",
                "content": f"That answer cannot be used: {fault}. Answer the same task again, in exactly the form "
                "that it asks for and with nothing else.",
            },
        )
    )
    return Request(request.id, (*request.messages, *turns), request.sampling, request.generation)
