"""Students' answers of a whole batch, parsed as `ranking.parsing` parses each, at a fraction of the time.

    orders, faults = parse_answers(texts, counts)                # (B, N) positions, filled up with -1; a fault or None

Nearly every answer has one usual form: tags with two white spaces at most beside them, and between them just what
`format_order` writes, with ids up to [99]. From the end of the chain on, these are laid side by side as bytes and read
all at once; any other text goes to `parse_answer`, so that the grammar stands there alone. Absent on purpose: recovery
of malformed answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from ranking.parsing import Fault, parse_answer

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Texts that are read at once: what is made on the way then stays in the processor's cache. A sixth quicker than all of
# 4,096 together.
BLOCK = 1_024
_TAGS = _THINK, _END_THINK, _ANSWER, _END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
_THINK_SIZE, _END_THINK_SIZE, _ANSWER_SIZE, _END_ANSWER_SIZE = map(len, _TAGS)
_WHITE = np.array([chr(byte).isspace() for byte in range(128)] + [False] * 128)


def parse_answers(
    texts: Sequence[str], counts: Sequence[int], think: bool = True
) -> tuple[Ints, tuple[Fault | None, ...]]:
    """What parse_answer gives for each of B texts: orders (B, N), N being the largest count, and faults.

    A row holds its 0-based positions, best first, filled up with -1, and -1 alone where there is a fault.
    """
    count = np.asarray(counts, np.int64)
    orders = np.full((len(texts), count.max(initial=0)), -1)
    faults: list[Fault | None] = [None] * len(texts)
    usual = np.zeros(len(texts), bool)
    for at in range(0, len(texts), BLOCK):
        rows = slice(at, at + BLOCK)
        usual[rows] = _read_usual(texts[rows], count[rows], think, orders[rows])
    for row in np.flatnonzero(~usual).tolist():
        answer = parse_answer(texts[row], counts[row], think)
        faults[row] = answer.fault
        if answer.order is not None:
            orders[row, : len(answer.order)] = answer.order
    return orders, tuple(faults)


def _read_usual(texts: Sequence[str], counts: Ints, think: bool, orders: Ints) -> Bools:
    """Which of B texts are right and in the usual form; their positions are put into `orders` (B, N)."""
    bodies = tails = list(map(str.strip, texts))
    if think:
        ends_of_chain = map(str.find, bodies, repeat("<"), repeat(_THINK_SIZE))
        tails = [
            body[at:] if body.startswith(_END_THINK, at) else _from_chain_end(body)
            for body, at in zip(bodies, ends_of_chain, strict=True)
        ]
    headed = np.fromiter(map(str.startswith, bodies, repeat(_THINK if think else _ANSWER)), bool, len(bodies))
    lines = _Lines.of(tails)
    tagged, start, stop = lines.within_tags(think)
    return lines.read_lists(start, stop, headed & tagged, counts, orders)


def _from_chain_end(body: str) -> str:
    """What follows a chain that holds a `<`, which is nothing where that opens a tag."""
    return body[body.rfind(_END_THINK) :] if sum(map(body.count, _TAGS)) == len(_TAGS) else ""


@dataclass(frozen=True)
class _Lines:
    """B texts as bytes, one behind the other; text b stops before `ends[b]`.

    `eight` is a view: the eight bytes from each place on, as one number. It is for a few places: of many, a byte at a
    time is read sooner.
    """

    data: NDArray[np.uint8]
    eight: NDArray[np.uint64]
    ends: Ints

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Lines":
        """The bytes of `texts`, and zeros behind, since what looks for a tag looks past the last of them."""
        data = np.frombuffer("\n".join([*texts, "\0" * 16]).encode("ascii", "replace"), np.uint8)
        eight = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
        return cls(data, eight, np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1)

    def within_tags(self, think: bool) -> tuple[Bools, Ints, Ints]:
        """Which texts are `</think> <answer>…</answer>` (`<answer>…</answer>` without `think`), and where … stands.

        Texts begin with a tag that is known to be right. Places are whole numbers, meaningless for the other texts.
        """
        tags = np.flatnonzero(self.data == ord("<"))
        upto = np.searchsorted(tags, self.ends)
        chain_end, answer, answer_end = (np.append(tags, [0, 0, 0])[upto - back] for back in (3, 2, 1))
        fine = np.diff(upto, prepend=0) == (3 if think else 2)
        fine &= (self.eight[answer] == _number(_ANSWER)) & (self.eight[answer_end] == _number(_END_ANSWER[:8]))
        fine &= (self.data[answer_end + 8] == ord(">")) & (answer_end + _END_ANSWER_SIZE == self.ends)
        if think:
            fine &= self.blank(chain_end + _END_THINK_SIZE, answer)
        return fine, answer + _ANSWER_SIZE, answer_end

    def read_lists(self, start: Ints, stop: Ints, among: Bools, counts: Ints, orders: Ints) -> Bools:
        """Which texts of `among` hold `[i] > [j] > …` from start to stop, a permutation; it is put into `orders`."""
        ids = np.flatnonzero(self.data == ord("["))
        if not ids.size:
            return np.zeros(len(counts), bool)
        upto = np.searchsorted(ids, self.ends)
        lengths = np.diff(upto, prepend=0)
        first, last = (ids.take(number, mode="clip") for number in (upto - lengths, upto - 1))
        # The seven letters behind each `[`: of `[7] > [` the seventh does not count.
        tens, ones, *between = (self.data[at:].take(ids) for at in range(1, 8))
        short, long = ones == ord("]"), between[0] == ord("]")
        followed = short & _spells(" > [", between) | ~short & _spells(" > [", between[1:])
        followed[upto[lengths > 0] - 1] = True
        tens, ones = tens - np.uint8(ord("0")), ones - np.uint8(ord("0"))
        fine = among & (lengths > 0) & (lengths == counts)
        fine &= self.blank(start, first) & self.blank(last + 4 - short.take(upto - 1, mode="clip"), stop)
        right = (tens > 0) & (tens < 10) & (short | (ones < 10) & long) & followed
        # A text whose ids are right, and its count, holds a permutation where all its positions have been seen. What
        # is wrong is at -1, which comes to lie in the place behind the last position's.
        width = orders.shape[1]
        number = tens + (9 * tens + ones) * ~short
        position = np.where(right & (number <= width), number, 0).astype(np.int16)
        position -= 1
        place = np.repeat(np.arange(len(counts)) * (width + 1), lengths)
        place += position
        seen = np.zeros((len(counts), width + 1), bool)
        seen.ravel()[place] = True
        shown = np.arange(width) < counts[:, None]
        fine &= np.count_nonzero(seen[:, :width] & shown, axis=1) == counts
        if len(position) == orders.size and fine.all():  # all lists are whole windows
            orders[:] = position.reshape(orders.shape)
        else:
            orders[shown & fine[:, None]] = position[np.repeat(fine, lengths)]
        return fine

    def blank(self, start: Ints, stop: Ints) -> Bools:
        """Whether nothing stands from start to stop, or one white space, or two."""
        long, white = stop - start, _WHITE[self.data[start]]
        return (long == 0) | white & ((long == 1) | (long == 2) & _WHITE[self.data[start + 1]])


def _spells(text: str, letters: Sequence[NDArray[np.uint8]]) -> Bools:
    """Where the letters, each an array, are those of `text`."""
    found = letters[0] == ord(text[0])
    for letter, wanted in zip(letters[1:], text[1:], strict=False):
        found &= letter == ord(wanted)
    return found


def _number(text: str) -> int:
    return int.from_bytes(text.encode("ascii"), "little")
