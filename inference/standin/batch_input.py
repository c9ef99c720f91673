"""The lines of a batch's input file, and what OpenAI calls what is wrong with them.

One wrong line fails the whole batch before anything is run, as it does there. Codes and wording are the ones that
OpenAI gives, as far as they have been seen; a client reads `code`, `line` and `param`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MOST_LINES = 50_000


@dataclass(frozen=True)
class Line:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]


def read_lines(data: bytes, url: str, model: str) -> tuple[list[Line], list[dict[str, Any]]]:
    """The requests of an input file, or what is wrong with it; one of the two is empty."""
    rows = data.removesuffix(b"\n").split(b"\n") if data.strip() else []
    if not rows:
        return [], [error("empty_file", "The input file holds no requests.")]
    if len(rows) > MOST_LINES:
        return [], [error("too_many_tasks", f"The input file holds {len(rows)} requests; {MOST_LINES} are allowed.")]
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        read = _read(row, number, url, model, seen)
        if isinstance(read, Line):
            lines.append(read)
            seen.add(read.custom_id)
        else:
            errors.append(read)
    return ([], errors) if errors else (lines, [])


def error(code: str, message: str, param: str | None = None, line: int | None = None) -> dict[str, Any]:
    """One entry of a failed batch's `errors.data`."""
    return {"code": code, "message": message, "param": param, "line": line}


def _read(row: bytes, number: int, url: str, model: str, seen: set[str]) -> Line | dict[str, Any]:
    try:
        task = json.loads(row)
    except ValueError:
        task = None
    if not isinstance(task, dict):
        return error("invalid_json_line", "This line is not parseable as valid JSON.", None, number)
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if name not in task:
            return error("missing_required_parameter", f"Missing required parameter: '{name}'.", name, number)
        if not isinstance(task[name], kind):
            wanted = "a string" if kind is str else "an object"
            return error("invalid_type", f"Invalid type for '{name}': expected {wanted}.", name, number)
    if task["custom_id"] in seen:
        message = f"The custom_id {task['custom_id']!r} is a duplicate of another request's in this file."
        return error("duplicate_custom_id", message, "custom_id", number)
    if task["method"] != "POST":
        return error("invalid_method", f"Invalid method {task['method']!r}: only POST is supported.", "method", number)
    if task["url"] != url:
        message = "The URL provided for this request does not match the batch endpoint."
        return error("invalid_url", message, "url", number)
    body = task["body"]
    for name in ("model", "messages"):
        if name not in body:
            return error("invalid_request", f"{name.title()} parameter is required.", f"body.{name}", number)
    if body["model"] != model:
        message = f"The provided model {body['model']!r} is not supported by the Batch API."
        return error("model_not_found", message, "body.model", number)
    if body.get("stream"):
        message = "Chat Completions: Streaming is not supported in the Batch API."
        return error("streaming_unsupported", message, "body.stream", number)
    return Line(task["custom_id"], body)
