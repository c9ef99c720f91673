"""A chat completion of the stand-in teacher: from the JSON of a request to the JSON of the answer.

Faults of the text are made here: an answer that is cut off, empty, refused, garbage or interrupted is still a chat
completion, with the usage of what it says. A token is a word or a sign.

Absent on purpose: streaming, tools, several choices, content in parts, sampling (temperature and seed change nothing).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

from inference.exchange import canonical_json
from inference.logprobs import MOST_TOP
from inference.standin.answers import VERSION, Said, answer
from inference.standin.faults import Draw
from inference.standin.logprobs import token_logprobs

_TOKEN = re.compile(r"\w+|[^\w\s]")
GARBAGE = ("[1] > [1] > [99]", "The passages are all of interest.", "[2 > 1", "1, 2, 3", "[0]")
REFUSING = "I'm sorry, but I can't help with that."


def what_is_wrong(body: Any) -> str | None:
    """Why a body is no chat completion request that can be answered here, or None."""
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    for name in ("messages", "model"):
        if name not in body:
            return f"{name!r} is missing"
    messages = body["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "'messages' is not a list of objects"
    if not all(isinstance(message.get("content"), str | None) for message in messages):
        return "the content of a message is not a string"
    if body.get("stream"):
        return "'stream' is not spoken here"
    top = body.get("top_logprobs")
    if top is not None and not body.get("logprobs"):
        return "'top_logprobs' asks for 'logprobs' to be true"
    if top is not None and not (type(top) is int and 0 <= top <= MOST_TOP):
        return f"'top_logprobs' is not between 0 and {MOST_TOP}"
    return None


def tokens_wanted(body: Mapping[str, Any]) -> int:
    """The tokens of the prompt and of the longest answer that is asked for."""
    limit = body.get("max_completion_tokens", body.get("max_tokens")) or 0
    return limit + sum(_tokens(m.get("content") or "") for m in body["messages"])


def prompt_key(messages: list[dict[str, str]]) -> str:
    """The hash that a conversation is known by."""
    return hashlib.sha256(canonical_json(messages).encode("utf-8", "replace")).hexdigest()


def completion(body: Mapping[str, Any], draw: Draw) -> dict[str, Any]:
    """The answer to a request that nothing is wrong with, under the fault that was drawn."""
    messages = body["messages"]
    said = answer(messages)
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    reasoning, content, refusal, finish = _under_fault(said, draw)
    spent = _tokens(reasoning)
    if limit is not None and spent + _tokens(content or "") > limit:
        finish = "length"
        reasoning = _first_tokens(reasoning, limit)
        content = _first_tokens(content or "", max(0, limit - spent))
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    if refusal is not None:
        message["refusal"] = refusal
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "message": message}
    if body.get("logprobs"):
        top = body.get("top_logprobs") or 0
        entries = None if content is None else token_logprobs(content, said.ranked, top, said.bare)
        choice["logprobs"] = {"content": entries, "refusal": None}
    prompt = sum(_tokens(m.get("content") or "") for m in messages)
    completed = _tokens(reasoning) + _tokens(content or refusal or "")
    return {
        "id": f"chatcmpl-{prompt_key(messages)[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "system_fingerprint": VERSION,
        "choices": [choice],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed},
    }


def _under_fault(said: Said, draw: Draw) -> tuple[str, str | None, str | None, str]:
    """Reasoning, content, refusal and finish reason."""
    content = said.content
    if draw.kind == "garbage":
        return said.reasoning, GARBAGE[len(content) % len(GARBAGE)], None, "stop"
    if draw.kind == "cutoff":
        return said.reasoning, content[: len(content) // 2], None, "length"
    if draw.kind == "interrupted":
        return said.reasoning, content[: len(content) // 2], None, "insufficient_system_resource"
    if draw.kind == "empty":
        return said.reasoning, "", None, "stop"
    if draw.kind == "refusal":
        refusals: tuple[tuple[str, str | None, str | None, str], ...] = (
            ("", "", None, "content_filter"),
            ("", None, REFUSING, "stop"),
            ("", REFUSING, None, "stop"),
        )
        return refusals[draw.variant % len(refusals)]
    return said.reasoning, content, None, "stop"


def _tokens(text: str) -> int:
    return len(_TOKEN.findall(text))


def _first_tokens(text: str, count: int) -> str:
    matches = list(_TOKEN.finditer(text))
    return text if len(matches) <= count else text[: matches[count].start()]
