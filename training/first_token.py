"""The log probabilities of an answer's first token: one forward pass a prompt, nothing is written.

    scorer = FirstToken(load_student(folder), tokenizer, tokens="ABCDEFGHIJKLMNOPQRST")
    for number, read in scorer.read(prompts, batch=32):
        reply = read_first_token(call, read.logprobs)         # a window ordered by one token (FIRST)

    FirstToken(model, tokenizer, ("yes", "no"))               # scores of single passages: read_grade(call, …)

Every one of `tokens` must be a single token, or its logit would be that of a part of it. Deliberately absent: scores
said in several tokens, and answers that open with something else; those are written out.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.chat import prompt_ids

Messages = list[dict[str, str]]


class SeveralTokensError(ValueError):
    """A score or identifier that this tokenizer does not write as one token; the message names it."""


@dataclass(frozen=True)
class Read:
    """The log probability of each token after one prompt; `seconds` is the prompt's share of its batch."""

    logprobs: dict[str, float]
    prompt_tokens: int
    seconds: float


class FirstToken:
    """A model that is asked for the probabilities of one token."""

    def __init__(self, model: Any, tokenizer: Any, tokens: Sequence[str]) -> None:
        """Raises SeveralTokensError where one of `tokens` is not a single token."""
        self.model = model
        self.tokenizer = tokenizer
        self.ids = token_ids(tokenizer, tokens)

    def read(self, prompts: Sequence[Messages], batch: int = 32) -> Iterator[tuple[int, Read]]:
        """(prompt number, what was read) of each prompt, longest prompts first."""
        # What is read here stands first in the answer: no chain goes before it.
        ids = [prompt_ids(self.tokenizer, prompt, think=False) for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            yield from zip(chunk, self._read_batch([ids[number] for number in chunk]), strict=True)

    def _read_batch(self, prompts: Sequence[Sequence[int]]) -> list[Read]:
        import torch

        started = time.perf_counter()
        width, pad = max(map(len, prompts)), self.tokenizer.pad_token_id
        device = self.model.device
        input_ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        # Unlike `generate`, a plain forward pass would count the padding as places.
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        wanted = torch.tensor(list(self.ids.values()), device=device)
        with torch.inference_mode():
            output = self.model(
                input_ids=input_ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1
            )
            logprobs = output.logits[:, -1].float().log_softmax(dim=-1)[:, wanted].tolist()
        seconds = (time.perf_counter() - started) / len(prompts)
        return [
            Read(dict(zip(self.ids, row, strict=True)), len(prompt), seconds)
            for prompt, row in zip(prompts, logprobs, strict=True)
        ]


def token_ids(tokenizer: Any, tokens: Sequence[str]) -> dict[str, int]:
    """The id of each of `tokens`. Raises SeveralTokensError where one is not a single token."""
    found = {}
    for token in tokens:
        ids: list[int] = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise SeveralTokensError(f"{token!r} is not one token of this model. Choose identifiers or grades that are")
        (found[token],) = ids
    return found
