"""The bodies of `/v1/rerank` and `/v2/rerank`: what clients of Cohere and Jina send, and what they read.

    ask = read_body(content, limits)              # raises BadBody (400, 422)
    answer = answer_body(ask, ranking, "model")

`relevance_score` is what a pointwise model says of a document, from 0 to 1. A listwise model gives an order and no
scores, so it says the place alone: 1 for the best of n documents, then 1 - 1/n, 1 - 2/n and so on; such scores of two
requests cannot be compared, and `meta.scores` is "places" where they are no more than that. What is asked for and not
done here is named in `meta.warnings`. Absent on purpose: images, chunking, and `rank_fields` other than text, which are
refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inference.server.ranker import Ranking

KNOWN = {"model", "query", "documents", "top_n", "return_documents", "rank_fields"}


class BadBody(ValueError):
    """A body that cannot be answered; `status` is 400 where it is no JSON object, else 422."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RerankAsk:
    """A valid request. `top_n` is None for all documents."""

    query: str
    documents: tuple[str, ...]
    model: str | None
    top_n: int | None
    return_documents: bool
    not_read: tuple[str, ...]


def read_body(content: bytes, most_documents: int) -> RerankAsk:
    """The request in a body. Raises BadBody naming the field and what it must be."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadBody(f"the body is not JSON in UTF-8: {error}", 400) from None
    if not isinstance(body, dict):
        raise BadBody("the body must be a JSON object with query and documents", 400)
    query = body.get("query")
    if not isinstance(query, str) or not query.strip():
        raise BadBody("query must be a text that is not empty")
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents:
        raise BadBody('documents must be a list of texts, or of {"text": …}, that is not empty')
    if len(documents) > most_documents:
        raise BadBody(f"{len(documents):,} documents are more than the {most_documents:,} that one request may hold")
    top_n, wanted, model = body.get("top_n"), body.get("return_documents"), body.get("model")
    if top_n is not None and (type(top_n) is not int or top_n < 1):
        raise BadBody("top_n must be a whole number from 1")
    if wanted is not None and not isinstance(wanted, bool):
        raise BadBody("return_documents must be true or false")
    if model is not None and not isinstance(model, str):
        raise BadBody("model must be a name")
    if body.get("rank_fields") not in (None, [], ["text"]):
        raise BadBody("rank_fields other than text are not read here; join what matters into text")
    return RerankAsk(
        query=query,
        documents=tuple(_text(number, document) for number, document in enumerate(documents)),
        model=model,
        top_n=top_n,
        return_documents=bool(wanted),
        not_read=tuple(sorted(name[:64] for name, value in body.items() if name not in KNOWN and value is not None))[
            :16
        ],
    )


def _text(number: int, document: object) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise BadBody(f'documents[{number}] must be a text, or an object with a field "text"')
    return text


def answer_body(ask: RerankAsk, ranking: Ranking, model: str, api: str) -> dict[str, Any]:
    """The answer, with the fields of both APIs; `api` is the version in the path."""
    count = len(ask.documents)
    results: list[dict[str, Any]] = []
    scores = ranking.scores or tuple(1 - place / count for place in range(count))
    for index, score in zip(ranking.order[: ask.top_n], scores, strict=False):
        result: dict[str, Any] = {"index": index, "relevance_score": round(score, 6)}
        if ask.return_documents:
            result["document"] = {"text": ask.documents[index]}
        results.append(result)
    return {
        "id": str(uuid.uuid4()),
        "object": "list",
        "model": model,
        "results": results,
        "usage": {
            "prompt_tokens": ranking.input_tokens,
            "completion_tokens": ranking.output_tokens,
            "total_tokens": ranking.input_tokens + ranking.output_tokens,
        },
        "meta": {
            "api_version": {"version": api.removeprefix("v")},
            "tokens": {"input_tokens": ranking.input_tokens, "output_tokens": ranking.output_tokens},
            "scores": "places" if ranking.scores is None else "model",
            "calls": ranking.calls,
            "malformed": ranking.malformed,
            "warnings": _warnings(ask.not_read, ranking),
        },
    }


def _warnings(not_read: Sequence[str], ranking: Ranking) -> list[str]:
    warnings = [f"not read here: {', '.join(not_read)}"] if not_read else []
    if ranking.malformed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ranking.malformed.items()))
        warnings.append(f"malformed answers of the model ({kinds}): what they do not say keeps the order it came in")
    return warnings
