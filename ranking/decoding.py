"""From a model that can order one window to the order of a whole candidate list.

A decoder is a generator for one query: it yields the positions now standing in a window, is sent those positions in
their new order, and returns the final order. `decode_all` advances the decoders of many queries together, so that the
model sees one batch of independent windows a round and nothing waits for a slower query of the same batch.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

Order = tuple[int, ...]
Decoder = Callable[[int], Generator[Order, Sequence[int], Order]]


@dataclass(frozen=True)
class Window:
    """Positions of query number `query`'s candidate list (0 = the first stage's best), in their present order."""

    query: int
    positions: Order


def sliding_window(window: int = 20, step: int = 10) -> Decoder:
    """Windows from the back to the front (RankGPT; METHOD section 5): 100 candidates at 20/10 make 9 calls."""
    if not 1 <= step <= window:
        raise ValueError(f"a sliding window of {window} needs a step from 1 to {window}, got {step}.")

    def decode(count: int) -> Generator[Order, Sequence[int], Order]:
        order = list(range(count))
        end = count
        while count > 1:
            start = max(0, end - window)
            order[start:end] = yield tuple(order[start:end])
            if start == 0:
                break
            end -= step
        return tuple(order)

    return decode


def decode_all(
    counts: Sequence[int], decoder: Decoder, rank_batch: Callable[[list[Window]], Sequence[Sequence[int]]]
) -> list[Order]:
    """Final orders of len(counts) queries, query q having counts[q] candidates.

    `rank_batch` gets the open window of every unfinished query and returns, for each, the same positions reordered.
    Raises ValueError if what comes back is not a permutation of what was sent: a position must never be lost.
    """
    results: dict[int, Order] = {}
    waiting: dict[int, tuple[Generator[Order, Sequence[int], Order], Order]] = {}
    for query, count in enumerate(counts):
        _advance(query, decoder(count), None, waiting, results)
    while waiting:
        windows = [Window(query, positions) for query, (_, positions) in waiting.items()]
        orders = rank_batch(windows)
        for window, order in zip(windows, orders, strict=True):
            if sorted(order) != sorted(window.positions):
                raise ValueError(
                    f"query {window.query}: window {list(window.positions)} came back as {list(order)}, which is "
                    f"not a permutation of it. Recover malformed answers before they reach the decoder."
                )
            _advance(window.query, waiting.pop(window.query)[0], order, waiting, results)
    return [results[query] for query in range(len(counts))]


def _advance(
    query: int,
    generator: Generator[Order, Sequence[int], Order],
    order: Sequence[int] | None,
    waiting: dict[int, tuple[Generator[Order, Sequence[int], Order], Order]],
    results: dict[int, Order],
) -> None:
    try:
        waiting[query] = (generator, next(generator) if order is None else generator.send(order))
    except StopIteration as finished:
        results[query] = finished.value
