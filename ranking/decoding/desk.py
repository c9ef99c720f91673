"""The desk between many decoders and whoever asks the model: calls go out one by one, replies come in any order.

    desk = Desk(counts, decoder)
    while not desk.done:
        for ticket in desk.take():                # every call that is open now
            desk.put(ticket, reply_to(ticket.call))
    desk.ranked                                   # one Ranked a query

A query goes on as soon as the replies of its own batch are in, whatever the others do: nothing waits for a slower
query, nor for a whole batch of them. `decode_all` is the loop above for a formula, and `decode_in_batches` that for a
model which takes so many calls at once.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ranking.decoding.calls import Call, Decoder, Ranked, Reply, Steps


@dataclass(frozen=True)
class Ticket:
    """A call of query number `query`, the `place`-th of its batch; `round` counts the query's batches from 1."""

    query: int
    round: int
    place: int
    call: Call


@dataclass
class _Open:
    """A query whose replies are not all in."""

    steps: Steps
    calls: tuple[Call, ...]
    round: int
    replies: dict[int, Reply] = field(default_factory=dict)


class Desk:
    """Decoders of len(counts) queries, query q having counts[q] candidates."""

    def __init__(self, counts: Sequence[int], decoder: Decoder) -> None:
        self.calls = 0
        self.faults: Counter[str] = Counter()
        self.rounds = [0] * len(counts)
        self._results: dict[int, Ranked] = {}
        self._open: dict[int, _Open] = {}
        self._ready: deque[Ticket] = deque()
        for query, count in enumerate(counts):
            self._advance(query, _Open(decoder(count), (), 0))

    @property
    def done(self) -> bool:
        """Whether every query has its final order."""
        return not self._open

    @property
    def finished(self) -> int:
        """How many queries have their final order."""
        return len(self._results)

    @property
    def ranked(self) -> list[Ranked]:
        """The final orders; raises RuntimeError while a query is open."""
        if self._open:
            raise RuntimeError(f"{len(self._open)} queries still wait for replies, query {min(self._open)} among them.")
        return [self._results[query] for query in range(len(self._results))]

    def take(self, most: int | None = None) -> list[Ticket]:
        """Up to `most` open calls that nobody has taken, those that have waited longest first."""
        count = len(self._ready) if most is None else min(most, len(self._ready))
        return [self._ready.popleft() for _ in range(count)]

    def put(self, ticket: Ticket, reply: Reply) -> None:
        """Hand in the reply to a call.

        Raises ValueError for an order that is no permutation of what was shown (a position must never be lost), and
        where the call is not open or was answered.
        """
        positions = ticket.call.positions
        if sorted(reply.order) != sorted(positions):
            raise ValueError(
                f"query {ticket.query}: window {list(positions)} came back as {list(reply.order)}, which is not a "
                f"permutation of it. Recover malformed answers before they reach the decoder."
            )
        waiting = self._open.get(ticket.query)
        if waiting is None or waiting.round != ticket.round or ticket.place in waiting.replies:
            raise ValueError(f"query {ticket.query}: call {ticket.place} of round {ticket.round} is not open.")
        self.calls += 1
        if reply.fault is not None:
            self.faults[reply.fault] += 1
        waiting.replies[ticket.place] = reply
        if len(waiting.replies) == len(waiting.calls):
            self._advance(ticket.query, waiting)

    def _advance(self, query: int, waiting: _Open) -> None:
        """Go on with a query until it asks something or is done."""
        try:
            if waiting.round == 0:
                waiting.calls = next(waiting.steps)
            else:
                waiting.calls = waiting.steps.send([waiting.replies[place] for place in range(len(waiting.calls))])
            while not waiting.calls:
                waiting.calls = waiting.steps.send([])
        except StopIteration as finished:
            self._open.pop(query, None)
            self._results[query] = finished.value
            return
        waiting.round += 1
        waiting.replies = {}
        self.rounds[query] = waiting.round
        self._open[query] = waiting
        self._ready.extend(Ticket(query, waiting.round, place, call) for place, call in enumerate(waiting.calls))


def decode_all(
    counts: Sequence[int], decoder: Decoder, reply_to: Callable[[list[Ticket]], Sequence[Reply]]
) -> list[Ranked]:
    """Final orders of len(counts) queries; `reply_to` gets the open calls of all queries together, a batch a round."""
    desk = Desk(counts, decoder)
    while not desk.done:
        tickets = desk.take()
        for ticket, reply in zip(tickets, reply_to(tickets), strict=True):
            desk.put(ticket, reply)
    return desk.ranked


def decode_in_batches(
    desk: Desk, batch: int, weight: Callable[[Ticket], int], reply_to: Callable[[list[Ticket]], Sequence[Reply]]
) -> None:
    """Answer until the desk is done, `batch` calls at a time, and fewer only where fewer are open.

    Earlier rounds come first, and what is left of one is filled up with calls of the next: no query waits for the end
    of a round. Of one round the heaviest come first, so that like ones stand together.
    """
    waiting: list[tuple[int, int, int, Ticket]] = []
    taken = 0
    while not desk.done:
        for ticket in desk.take():
            waiting.append((ticket.round, -weight(ticket), taken, ticket))
            taken += 1
        waiting.sort()
        tickets, waiting = [entry[-1] for entry in waiting[:batch]], waiting[batch:]
        for ticket, reply in zip(tickets, reply_to(tickets), strict=True):
            desk.put(ticket, reply)
