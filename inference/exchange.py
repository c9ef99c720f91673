"""What is asked and what comes back: `Request`, `Exchange`, `Failure`, and what can be wrong with an answer.

A request's `key` is the hash of everything that shapes the answer: model, messages, sampling parameters and the
generation number. Its `id` (whose question it is) and the endpoint (who is paid) are not part of it, so the same
question asked for two reasons is bought once, and a server may move. Raise `generation` to buy a fresh answer.

Absent on purpose: any reading of the answer beyond what every kind of task shares. What is a good answer is the
caller's `check`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson

from inference.logprobs import MOST_TOP

Message = Mapping[str, str]


@dataclass(frozen=True)
class Sampling:
    """The model and the parameters that shape its answer; every one is explicit and recorded.

    `top_logprobs` asks for the log-probabilities of the answer's tokens, each beside so many of the most likely ones at
    its place (0: its own alone); None asks for none.
    """

    model: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("Sampling.model is empty: name the model that the endpoint serves.")
        if self.max_tokens < 1:
            raise ValueError(f"Sampling.max_tokens is {self.max_tokens} for {self.model}: it must be at least 1.")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MOST_TOP:
            raise ValueError(f"Sampling.top_logprobs is {self.top_logprobs}: endpoints list from 0 to {MOST_TOP}.")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name; `top_logprobs` only where it is set, so that what was hashed before it stays."""
        named = asdict(self)
        if self.top_logprobs is None:
            del named["top_logprobs"]
        return named

    @cached_property
    def json(self) -> bytes:
        """The canonical JSON of the parameters; temperature 0 and 0.0 ask the same thing and hash alike."""
        same = {"temperature": float(self.temperature), "top_p": float(self.top_p)}
        return canonical_json({**self.parameters, **same}).encode()


@dataclass(frozen=True)
class Request:
    """One question to a model; `repair_of` is the key of the faulty answer that it asks to mend.

    `mend` says whether a faulty answer is asked for once more with the fault named; it is no part of the key.

    `messages_json` is the canonical JSON of the messages: hashed for the key, sent, and stored. `key` is the sha256 of
    model, messages, sampling parameters and generation.
    """

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    generation: int = 0
    repair_of: str | None = None
    mend: bool = field(default=True, compare=False)
    messages_json: bytes = field(init=False, repr=False, compare=False)
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Both at once: whoever makes a request wants both, and a cached_property takes a lock to make each.
        object.__setattr__(self, "messages_json", _json_of(self.messages))
        object.__setattr__(self, "key", self._hash())

    def _hash(self) -> str:
        """The key. A repair turn is known by the answer that it mends, not by the words that name the fault:
        rewording a check must not buy it again.
        """
        if self.repair_of is not None:
            return hashlib.sha256(b'{"repair_of":"%b"}' % self.repair_of.encode()).hexdigest()
        # The same bytes as canonical_json of the whole, put together from parts so that resuming is quick.
        parts = (self.generation, self.messages_json, self.sampling.json)
        return hashlib.sha256(b'{"generation":%d,"messages":%b,"sampling":%b}' % parts).hexdigest()

    def in_generation(self, generation: int) -> Request:
        """The same question, to be asked for the `generation`-th time again."""
        return self if generation == self.generation else replace(self, generation=generation)


@dataclass(frozen=True)
class Exchange:
    """One answer of a model, good or faulty, as it was paid for.

    `fault` names what is wrong with the answer (None: nothing). `repair_of` is the key of the faulty answer that this
    one was asked to mend. `usd` is what this answer cost when it was bought, also when it now comes from the store.
    `attempts` counts the HTTP requests, or the batches, it took; `latency_s` is the time of the last request (0 in a
    batch, where nobody knows). `logprobs` are those of its tokens where they were asked for (inference.logprobs).
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
    fault: str | None = None
    repair_of: str | None = None
    logprobs: str | None = None
    from_store: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any], request_id: str) -> Exchange:
        """An exchange of the values in `row`, every field but the id, which are taken as they are.

        A fifth of the time of __init__, which sets one field of a frozen class after the other.
        """
        made = cls.__new__(cls)
        made.__dict__.update(row, request_id=request_id)
        return made

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


Requests = AsyncIterable[Request] | Iterable[Request]
Outcome = Exchange | Failure
# Faults that show without knowing the task, as the repair turn names them; whatever a check says is "malformed".
FAULTS = {
    "chain_cut_off": "the reasoning used up the token limit before an answer began",
    "cut_off": "the answer was cut off at the token limit",
    "withheld": "the answer was withheld by a content filter",
    "refusal": "the model refused to answer",
    "empty": "the answer was empty",
}
_KINDS = {text: kind for kind, text in FAULTS.items()}
# Only looked for in an answer that the check refuses anyway.
_REFUSING = re.compile(
    r"\W*(?:I(?:'|’)?m (?:very |so )?sorry|I am sorry|sorry\b|I apologi[sz]e|I (?:can(?:no|'|’)?t|cannot|am unable to|"
    r"am not able to|won(?:'|’)t|must decline)|as an AI\b)",
    re.I,
)


def own_fault(exchange: Exchange) -> str | None:
    """The fault that shows without knowing the task: cut off, withheld, refused or empty.

    Where log-probabilities came they are what was asked for, and an answer of one token is no answer cut short.
    """
    empty = not exchange.content.strip() and exchange.logprobs is None
    if exchange.finish_reason == "length" and exchange.logprobs is None:
        return FAULTS["chain_cut_off" if empty else "cut_off"]
    if exchange.finish_reason == "content_filter":
        return FAULTS["withheld"]
    if exchange.finish_reason == "refusal":
        return FAULTS["refusal"]
    return FAULTS["empty"] if empty else None


def task_fault(content: str, fault: str | None) -> str | None:
    """What a check found, told apart from a model that would not do the task at all."""
    return FAULTS["refusal"] if fault is not None and _REFUSING.match(content) else fault


def fault_kind(fault: str) -> str:
    """The kind of a fault: a key of FAULTS, or "malformed" for what a check has found."""
    return _KINDS.get(fault, "malformed")


def repair_request(request: Request, answer: str, fault: str) -> Request:
    """The one further turn that shows the model its answer and names the fault; it has a key of its own."""
    turns: tuple[Message, ...] = (
        # Several endpoints refuse an empty assistant turn, or two user turns in a row.
        {"role": "assistant", "content": answer if answer.strip() else "(no answer)"},
        {
            "role": "user",
            "content": f"That answer cannot be used: {fault}. Answer the same task again, in exactly the form "
            "that it asks for and with nothing else.",
        },
    )
    return Request(request.id, (*request.messages, *turns), request.sampling, request.generation, request.key)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _json_of(messages: tuple[Message, ...]) -> bytes:
    try:
        return orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # lone surrogates, or mappings that are no dict
        return canonical_json([dict(m) for m in messages]).encode("utf-8", "surrogatepass")


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no blanks and no escapes, the same on every machine."""
    return _ENCODER.encode(value)
