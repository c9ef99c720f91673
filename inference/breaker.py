"""The circuit breaker: it stops a run that is going nowhere, and says which error keeps it there.

Three ways of going nowhere: an endpoint that answers nothing any more (an outage), one that refuses what it is asked
(a parameter, a prompt that is too long), and one whose answers are mostly unusable (a wrong model, a prompt it cannot
follow, a token limit too low), where every further request is paid for nothing. What was answered is stored, so a
stopped run goes on where it was.

Absent on purpose: closing again by itself. A person looks first.
"""

from __future__ import annotations

from collections import Counter, deque

from pydantic import BaseModel, ConfigDict, Field

from inference.endpoint import RequestRefused, refused_as
from inference.exchange import Exchange, Failure, fault_kind


class EndpointDown(Exception):
    """Nobody is there, or nothing but errors of the server's; what was answered before is stored. Later may do."""


class MostlyErrors(Exception):
    """Most of what comes is unusable; what was answered is stored."""


TOO_LATE = "too late"  # a request whose turn did not come before its deadline


class BreakerSettings(BaseModel):
    """When a run is given up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unanswered_in_a_row: int = Field(10, ge=1, description="Requests in a row without any answer that end a run.")
    window: int = Field(50, ge=1, description="New answers that the share of errors is taken over.")
    share: float = Field(
        0.8, gt=0, le=1, description="Share of unusable answers in the window that ends a run; 1 never does."
    )


class Breaker:
    """Watches the outcomes of one run; what comes from the store says nothing about the endpoint."""

    def __init__(self, settings: BreakerSettings, base_url: str) -> None:
        self._settings = settings
        self._base_url = base_url
        self._in_a_row: list[Failure] = []
        self._recent: deque[str | None] = deque(maxlen=settings.window)

    def watch(self, outcome: Exchange | Failure) -> None:
        """Count an outcome; raises EndpointDown, RequestRefused or MostlyErrors."""
        if isinstance(outcome, Exchange):
            if outcome.from_store:
                return
            self._in_a_row.clear()
            self._recent.append(None if outcome.fault is None else fault_kind(outcome.fault))
        else:
            self._in_a_row.append(outcome)
            self._recent.append(outcome.kind)
            if len(self._in_a_row) >= self._settings.unanswered_in_a_row:
                self._stop()
        window = self._settings.window
        if len(self._recent) == window and window - self._recent.count(None) > self._settings.share * window:
            self._give_up(Counter(kind for kind in self._recent if kind is not None), outcome)

    def _stop(self) -> None:
        """Say why the last requests in a row have no answer: most of them decide what is to be done.

        What is refused is told by the first refusal, which came before anything that followed from it.
        """
        kinds = Counter(failure.kind for failure in self._in_a_row)
        counted = f" ({', '.join(f'{n} x {kind}' for kind, n in kinds.most_common())})" if len(kinds) > 1 else ""
        refusals = [failure for failure in self._in_a_row if refused_as(failure.kind) is not None]
        if 2 * len(refusals) > kinds.total():
            raise RequestRefused(
                f"{self._base_url} is up, and refused {kinds.total()} requests in a row{counted}, the first one "
                f"{_told(refusals[0])} {RequestRefused.remedy}"
            )
        remedies = {
            "429": "Ask for less at a time (max_in_flight, requests_per_minute, tokens_per_minute), or later; then run "
            "again.",
            TOO_LATE: "Nothing was sent: no turn came in time. Raise deadline_s, or the rate limits; then run again.",
        }
        most = next((remedy for kind, remedy in remedies.items() if 2 * kinds[kind] > kinds.total()), None)
        remedy = most or "Check that the endpoint is up, then run again."
        raise EndpointDown(
            f"{self._base_url} left {kinds.total()} requests in a row{counted} without an answer, the last one "
            f"{_told(self._in_a_row[-1])} {remedy}"
        )

    def _give_up(self, kinds: Counter[str], last: Exchange | Failure) -> None:
        counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        said = (
            f"{last.fault}; it wrote {last.content[:120]!r}"
            if isinstance(last, Exchange)
            else f"{last.kind}: {last.detail}"
        )
        raise MostlyErrors(
            f"{kinds.total()} of the last {self._settings.window} answers of {self._base_url} are unusable "
            f"({counted}), the last one ({last.request_id}): {said}. All answers so far are kept. Check model, prompt "
            "and token limit; where such answers are expected, raise the breaker's share to 1, then run again."
        )


def _told(failure: Failure) -> str:
    return f"({failure.request_id}) with {failure.kind}: {failure.detail}. All answers so far are kept."
