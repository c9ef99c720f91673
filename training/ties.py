"""Greedy decoding whose words do not depend on what else stands in the batch.

    Writer(...).write(prompts, Decoding(max_new_tokens=96, exact=True))

Left padding and the number of rows change the order in which a matrix product adds, so the logits of one prompt differ
by rounding from batch to batch, and where two tokens are almost equally likely the other one is written. Here such a
near tie is decided by a forward pass over the row alone, without padding or cache: its outcome depends on the prompt
and on what was written, and on nothing else. All other steps have a margin that rounding cannot turn.

The claim holds while the rounding noise of a logit stays below half of TOLERANCE. In fp32 on the CPU it does
(docs/serving.md has the figures); in bf16 the noise is a thousand times larger, and most steps would be near ties.
Deliberately absent: bf16, sampling.
"""

from typing import Any

# Logits of two tokens closer than this are a near tie.
TOLERANCE = 2e-3


class NearTies:
    """A logits processor for `generate`: rows whose two best tokens nearly tie are asked again, each alone."""

    def __init__(self, model: Any, paddings: list[int], width: int, ends: set[int]) -> None:
        """`paddings` is the number of padding tokens before each row, `width` that of the padded prompts."""
        self.model = model
        self.paddings = paddings
        self.width = width
        self.ends = ends
        self.decided = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        best = scores.topk(2, dim=-1).values
        for row in (best[:, 0] - best[:, 1] < TOLERANCE).nonzero().flatten().tolist():
            if input_ids.shape[1] > self.width and int(input_ids[row, -1]) in self.ends:
                continue  # finished; what stands here is padding
            alone = self.model(input_ids=input_ids[row : row + 1, self.paddings[row] :], use_cache=False)
            winner = int(alone.logits[0, -1].argmax())
            scores[row] = -torch.inf
            scores[row, winner] = 0.0
            self.decided += 1
        return scores
