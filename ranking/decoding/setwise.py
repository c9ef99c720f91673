"""Decoders that name one passage a call: heapsort by the best of a set, and elimination of the worst.

What is shown stands in the first stage's order, so that an answer without a usable name speaks for the first stage.
Elimination also takes a model that orders whole pools, of which it reads the last.
"""

from collections.abc import Generator, Iterator, Sequence

from ranking.decoding.calls import Call, Decoder, Ranked, Reply, Steps, Task

_Sift = Generator[Call, Reply, None]


def heapsort(children: int = 19, k: int = 10) -> Decoder:
    """The first `k` by a heap whose nodes have `children` children (Setwise, Zhuang et al. 2024; Rank-R1's decoding).

    A call shows a node and its children and asks for the best of them: children + 1 passages. 100 candidates at 19 make
    6 calls for the heap, whose nodes of one level are asked together, and one or two for each further place: about 23.
    What is not among the first `k` keeps the first stage's order behind them.
    """
    if children < 1:
        raise ValueError(f"a heap's node needs at least one child, got {children}.")
    if k < 1:
        raise ValueError(f"heapsort must find at least one passage, got k = {k}.")

    def decode(count: int) -> Steps:
        heap = list(range(count))
        for level in _levels(count, children):
            yield from _together([_sift(heap, node, count, children) for node in level])
        front: list[int] = []
        size = count
        while size and len(front) < k:
            front.append(heap[0])
            size -= 1
            heap[0] = heap[size]
            if len(front) < k:
                yield from _together([_sift(heap, 0, size, children)])
        chosen = set(front)
        return Ranked((*front, *(position for position in range(count) if position not in chosen)))

    return decode


def elimination(window: int = 20, task: Task = Task.WORST) -> Decoder:
    """The worst of a pool is put aside until one is left (IRanker): n - 1 calls in sequence.

    With Task.ORDER a model that orders is asked, and the last of its order goes. The pool holds `window` passages:
    first the last of the list, then each that is put aside makes room for the next one towards the front. So the first
    window - 1 are in exact order if the model is right.
    """
    if window < 2:
        raise ValueError(f"a pool needs at least 2 passages to put one aside, got {window}.")

    def decode(count: int) -> Steps:
        pool = list(range(max(0, count - window), count))
        aside: list[int] = []
        while len(pool) > 1:
            (reply,) = yield (Call(tuple(pool), task),)
            aside.append(reply.order[-1])
            pool.remove(reply.order[-1])
            if (coming := count - len(pool) - len(aside)) > 0:
                pool.insert(0, coming - 1)
        return Ranked((*pool, *reversed(aside)))

    return decode


def _levels(count: int, children: int) -> Iterator[range]:
    """The nodes that have children, level by level from the deepest: nodes of one level share no passage."""
    begins, begin = [], 0
    while begin * children + 1 < count:
        begins.append(begin)
        begin = begin * children + 1
    last = (count - 2) // children
    for begin in reversed(begins):
        yield range(begin, min(begin * children, last) + 1)


def _sift(heap: list[int], node: int, size: int, children: int) -> _Sift:
    """Let the passage at `node` sink until it is better than its children."""
    while (first := node * children + 1) < size:
        places = [node, *range(first, min(first + children, size))]
        reply = yield Call(tuple(sorted(heap[place] for place in places)), Task.BEST)
        best = next(place for place in places if heap[place] == reply.order[0])
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best


def _together(sifts: Sequence[_Sift]) -> Generator[tuple[Call, ...], Sequence[Reply], None]:
    """Run several at once, a batch of their calls a step."""
    waiting = [(sift, call) for sift in sifts if (call := next(sift, None)) is not None]
    while waiting:
        replies = yield tuple(call for _, call in waiting)
        going = []
        for (sift, _), reply in zip(waiting, replies, strict=True):
            try:
                going.append((sift, sift.send(reply)))
            except StopIteration:
                continue
        waiting = going
