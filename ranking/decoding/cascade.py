"""Two rerankers, the second over what the first has put in front (CoRanking's shape: small over all, large over 20)."""

from dataclasses import replace

from ranking.decoding.calls import Decoder, Ranked, Steps


def cascade(first: Decoder, second: Decoder, keep: int = 20) -> Decoder:
    """`first` (ranker 0) orders all, `second` (ranker 1) the first `keep` of that; the rest stays where it was put.

    To `second` the order that `first` has made is the first stage's: what it leaves open stays as `first` said.
    """
    if keep < 1:
        raise ValueError(f"a cascade must hand on at least one passage, got keep = {keep}.")

    def decode(count: int) -> Steps:
        made = yield from first(count)
        front = made.order[:keep]
        place = {position: number for number, position in enumerate(front)}
        steps = second(len(front))
        try:
            calls = next(steps)
            while True:
                shown = tuple(
                    replace(call, positions=tuple(front[p] for p in call.positions), ranker=call.ranker + 1)
                    for call in calls
                )
                replies = yield shown
                calls = steps.send(
                    [replace(reply, order=tuple(place[position] for position in reply.order)) for reply in replies]
                )
        except StopIteration as finished:
            order = tuple(front[number] for number in finished.value.order)
        return Ranked((*order, *made.order[keep:]))

    return decode
