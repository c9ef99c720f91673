"""Where the questions of a campaign stand in the exchange store, without asking anybody.

Deliberately absent: what to do about it (plan.py, campaign.py).
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

from flows.questions import Question, check_of
from inference.exchange import Request, repair_request
from inference.purchase import fault_of
from inference.store import ExchangeStore

# answered: nothing to buy. changed: the same question was asked before in other words. unrepaired: its repair turn is
# still to come. rejected: faulty in spite of it. inconsistent: in good form, and left out by the consistency filter.
State = Literal["answered", "new", "changed", "unrepaired", "rejected", "inconsistent"]
STATES: tuple[State, ...] = ("answered", "new", "changed", "unrepaired", "rejected", "inconsistent")
CHUNK = 400


class Stand(NamedTuple):
    """Where a question stands: its request in its present generation, and what of it is to be bought.

    `due` is the request itself, or the repair turn of its answer; None where there is nothing to buy.
    """

    request: Request
    state: State
    due: Request | None = None


def standing(
    store: ExchangeStore,
    asked: Sequence[Question],
    asked_before: Collection[str] = (),
    left_out: Collection[str] = (),
) -> Iterator[Stand]:
    """Where each question stands.

    `asked_before` are ids of requests to the same model, `left_out` keys of those whose answers the consistency filter
    left out.
    """
    for first in range(0, len(asked), CHUNK):
        chunk = asked[first : first + CHUNK]
        check = check_of(chunk)
        faulty: list[tuple[Request, Request]] = []
        for request, answer in store.look_up([question.request for question in chunk]):
            if answer is None:
                yield Stand(request, "changed" if request.id in asked_before else "new", request)
            elif (fault := fault_of(request, answer, check)) is None:
                yield Stand(request, "inconsistent" if request.key in left_out else "answered")
            else:
                faulty.append((request, repair_request(request, answer.content, fault)))
        mended = store.look_up([turn for _, turn in faulty])
        for (request, _), (turn, answer) in zip(faulty, mended, strict=True):
            if answer is None:
                yield Stand(request, "unrepaired", turn)
            else:
                good: State = "inconsistent" if request.key in left_out else "answered"
                yield Stand(request, good if fault_of(turn, answer, check) is None else "rejected")
