"""Which rows stand in one batch: rows of like length, so that less than a tenth of its places is padding.

    sampler = AlikeBatches(lengths, batch)      # a torch sampler over row numbers

Every epoch the rows are shuffled, sorted by about their length in pools of 50 batches and cut into batches, which are
shuffled; the one with the longest row comes first, so that memory that does not suffice is out at once. Transformers'
own sampler cuts a small release into four pools whatever its size, which leaves a few rows to choose among, and goes
through each from long to short. Deliberately absent: packing, under which the texts of one row would see another's.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

POOL = 50


class AlikeBatches(Sampler[int]):
    """Row numbers, `batch` at a time of like length; the order is drawn from torch's random state."""

    def __init__(self, lengths: Sequence[int], batch: int) -> None:
        self.lengths = lengths
        self.batch = batch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order, pool = torch.randperm(len(self.lengths)).tolist(), POOL * self.batch
        # Give or take a twentieth: a release smaller than a pool would otherwise have the same batches for ever.
        blur = 0.95 + 0.1 * torch.rand(len(self.lengths))
        about = [length * factor for length, factor in zip(self.lengths, blur.tolist(), strict=True)]
        batches = []
        for start in range(0, len(order), pool):
            alike = sorted(order[start : start + pool], key=lambda number: -about[number])
            batches += [alike[first : first + self.batch] for first in range(0, len(alike), self.batch)]
        # Readers cut by number: a batch that is not full stays last.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch else []
        shuffled = [batches[place] for place in torch.randperm(len(batches)).tolist()]
        longest = max(
            range(len(shuffled)), key=lambda place: max(self.lengths[number] for number in shuffled[place]), default=0
        )
        if shuffled:
            shuffled.insert(0, shuffled.pop(longest))
        return iter([number for batch in shuffled + last for number in batch])
