"""Texts that begin alike as one sequence, in which what they share is read once.

    line = shared([[1, 2, 3], [1, 2, 4, 5]])            # ids 1 2 3 4 5; the first two belong to both texts
    ids, owners, places = padded([line, ...], pad=0)
    model(input_ids=ids, attention_mask=sight(owners, torch.float32), position_ids=places)

A token sees the shared beginning and its own text, at the place that it has there, so a model says of every text what
it says of it alone. The prompts of one query's passages share instructions and query: with passages of 64 tokens that
is more than half of what would be read otherwise. Deliberately absent: flash attention, which takes no such mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

SHARED, PADDED = 0, -1


@dataclass(frozen=True)
class Line:
    """Some texts in one sequence. Of each token its id, whose it is (SHARED, or 1 for the first text) and its place in
    that text; `ends` says where in the sequence each text's last token is.
    """

    ids: tuple[int, ...]
    owners: tuple[int, ...]
    places: tuple[int, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def shared(texts: Sequence[Sequence[int]]) -> Line:
    """Texts of at least a token each as a line; the last token of each is its own, also where another text goes on."""
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))
    begin = min(alike, min(map(len, texts)) - 1)
    ids, owners, places, ends = list(texts[0][:begin]), [SHARED] * begin, list(range(begin)), []
    for number, text in enumerate(texts, start=1):
        ids += text[begin:]
        owners += [number] * (len(text) - begin)
        places += range(begin, len(text))
        ends.append(len(ids) - 1)
    return Line(tuple(ids), tuple(owners), tuple(places), tuple(ends))


def padded(lines: Sequence[Line], pad: int) -> Any:
    """Tensors (B, longest) of the ids, the owners and the places of some lines, padded to the right."""
    import torch

    width = max(map(len, lines))

    def filled(parts: Sequence[Sequence[int]], filler: int) -> Any:
        return torch.tensor([[*part, *[filler] * (width - len(part))] for part in parts])

    return (
        filled([line.ids for line in lines], pad),
        filled([line.owners for line in lines], PADDED),
        filled([line.places for line in lines], 0),
    )


def sight(owners: Any, dtype: Any) -> Any:
    """What is added to the attention of token i to token j, (B, 1, W, W): nothing where it sees it, else the least."""
    import torch

    before = torch.ones(owners.shape[1], owners.shape[1], dtype=torch.bool, device=owners.device).tril()
    mine = owners[:, None, :] == owners[:, :, None]
    seen = before & (mine | (owners[:, None, :] == SHARED))
    return torch.zeros(seen.shape, dtype=dtype, device=owners.device).masked_fill(~seen, torch.finfo(dtype).min)[
        :, None
    ]
