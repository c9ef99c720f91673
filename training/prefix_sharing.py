"""Texts that begin alike as one sequence, in which what they share is read once.

    sequence = one_sequence([[1, 2, 3], [1, 2, 4, 5]])       # ids 1 2 3 4 5; the first two belong to both texts
    sequences = packed(texts, limit=4096)                    # as few as fit, each with the beginning of its texts
    ids, segments, positions = padded(sequences, pad=0)
    model(input_ids=ids, attention_mask=attention_bias(segments, torch.bfloat16), position_ids=positions)

A token sees the shared beginning and its own text, at the position that it has there, so a model whose every layer
attends to all that it may see says of every text what it says of it alone (`attends_fully`). The prompts of one query's
passages share instructions and query: with passages of 64 tokens that is two fifths of what is read otherwise.
Deliberately absent: flash attention, which takes no such mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARED, PADDING = 0, -1


@dataclass(frozen=True)
class PackedSequence:
    """Some texts in one sequence. Of each token its id, its segment (SHARED, or 1 for the first text) and its position
    in that text; `ends` says where in the sequence each text's last token is.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    positions: tuple[int, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def one_sequence(texts: Sequence[Sequence[int]]) -> PackedSequence:
    """Texts of at least a token each in one; the last token of each is its own, also where another text goes on."""
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))
    begin = min(alike, min(map(len, texts)) - 1)
    ids, segments, positions, ends = list(texts[0][:begin]), [SHARED] * begin, list(range(begin)), []
    for number, text in enumerate(texts, start=1):
        ids += text[begin:]
        segments += [number] * (len(text) - begin)
        positions += range(begin, len(text))
        ends.append(len(ids) - 1)
    return PackedSequence(tuple(ids), tuple(segments), tuple(positions), tuple(ends))


def packed(texts: Sequence[Sequence[int]], limit: int) -> list[PackedSequence]:
    """Texts of at most `limit` tokens each, in order, in the fewest sequences that fit it, about as many each."""
    for count in range(1, len(texts) + 1):
        cuts = [number * len(texts) // count for number in range(count + 1)]
        sequences = [one_sequence(texts[start:stop]) for start, stop in pairwise(cuts)]
        if max(map(len, sequences)) <= limit:
            break
    return sequences


def attends_fully(config: Any, longest: int) -> bool:
    """Whether every layer of a model lets a token see all that stands before it in texts of `longest` tokens.

    Layers with a shorter window do not, nor do recurrent ones and convolutions: they would mix the texts.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None)
    kinds = set(kinds or ["full_attention" if window is None else "sliding_attention"])
    if window is not None and longest <= window:
        kinds.discard("sliding_attention")
    return kinds <= {"full_attention"} and hasattr(text, "num_attention_heads")


def padded(sequences: Sequence[PackedSequence], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, segments and positions of some sequences, (B, longest) each, padded to the right."""
    import torch

    width = max(map(len, sequences))

    def filled(parts: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*part, *[filler] * (width - len(part))] for part in parts])

    return (
        filled([sequence.ids for sequence in sequences], pad),
        filled([sequence.segments for sequence in sequences], PADDING),
        filled([sequence.positions for sequence in sequences], 0),
    )


def attention_bias(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention of token i to token j, (B, 1, W, W): nothing where it sees it, else the least."""
    import torch

    before = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    mine = segments[:, None, :] == segments[:, :, None]
    seen = (before & (mine | (segments[:, None, :] == SHARED)))[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill(~seen, torch.finfo(dtype).min)
