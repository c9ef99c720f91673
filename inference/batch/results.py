"""What a batch has brought: its output and error files, read against the requests that it was sent with.

Every request comes out as an answer with its price, or as the trouble that it met. A line without an answer is not
charged; one that says that it has an answer, and holds none that can be read, may have been.

Absent on purpose: whether an answer is any good (`engine`), and the files' way here (`api`).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from inference.batch.rows import Asked
from inference.endpoint import Answer, Endpoint, Line, Trouble, read_json
from inference.prices import Price, Prices
from inference.purchase import priced
from inference.store import Bought


@dataclass(frozen=True)
class Results:
    """What is to be kept of a batch, and by key what became of the rest."""

    bought: list[Bought] = field(default_factory=list)
    troubles: dict[str, Trouble] = field(default_factory=dict)

    @property
    def charged(self) -> list[str]:
        """Keys of requests that were not answered and may be charged all the same."""
        return [key for key, trouble in self.troubles.items() if trouble.may_cost]


def read_results(
    asked: Sequence[Asked], ended_as: str, files: Sequence[bytes], model: str, price: Price, endpoint: Endpoint
) -> Results:
    """Read the files of a batch that ended as the provider says; a key that stands there twice counts once."""
    told: dict[str, Mapping[str, Any]] = {}
    for row in (row for file in files for row in file.split(b"\n") if row.strip()):
        try:
            said = read_json(row)
            told.setdefault(said["custom_id"], said)
        except (ValueError, TypeError, LookupError):
            continue  # what it was about is missing then, and treated so
    results = Results()
    prices = Prices(datetime.date.min, {model: price})
    line = Line(endpoint)
    for request, attempt in asked:
        outcome = _outcome(told.get(request.key), ended_as, line)
        if isinstance(outcome, Answer):
            worst = prices.worst_case(request)
            results.bought.append((request, priced(request, outcome, worst, attempt, prices, price.batch)))
        else:
            results.troubles[request.key] = outcome
    return results


def missing(ended_as: str) -> Trouble:
    """What befell a request of which a batch that has ended says nothing."""
    done = ended_as == "completed"
    kind = "not in the results" if done else f"batch {ended_as}"
    return Trouble(kind, f"its batch ended as {ended_as}", retry=True, may_cost=done)


def _outcome(said: Mapping[str, Any] | None, ended_as: str, line: Line) -> Answer | Trouble:
    if said is None:
        return missing(ended_as)
    try:
        response, error = said.get("response"), said.get("error") or {}
        if response is not None:
            # As over HTTP: the same statuses mean the same, and the same bodies are answers.
            return line.read(int(response["status_code"]), {}, orjson.dumps(response["body"]), 0.0)
        detail = line.endpoint.scrub(str(error.get("message") or "no explanation"))
        return Trouble(str(error["code"]).replace("_", " "), detail, retry=True)
    except (ValueError, TypeError, LookupError, AttributeError) as error_in_line:
        detail = line.endpoint.scrub(f"{type(error_in_line).__name__}: {error_in_line} in a line of the results")
        return Trouble("unreadable", detail, retry=True, may_cost=True)
