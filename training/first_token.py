"""The log probabilities of an answer's first token: one forward pass a prompt, nothing is written.

    scorer = FirstToken(load_student(folder), tokenizer, tokens="ABCDEFGHIJKLMNOPQRST", opening="<answer> ")
    for number, read in scorer.read(prompts, batch=32):
        reply = read_first_token(call, read.logprobs)         # a window ordered by one token (FIRST)

    FirstToken(model, tokenizer, ("yes", "no"))               # scores of single passages: read_grade(call, …)

`opening` is what the answer has said before that token. Every one of `tokens` must be a single token there, or its
logit would be that of a part of it. Deliberately absent: scores said in several tokens; those are written out.
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

    def __init__(self, model: Any, tokenizer: Any, tokens: Sequence[str], opening: str = "") -> None:
        """Raises SeveralTokensError where one of `tokens` is not a single token after `opening`."""
        self.model = model
        self.tokenizer = tokenizer
        self.opening: list[int] = tokenizer.encode(opening, add_special_tokens=False)
        self.ids = token_ids(tokenizer, tokens, opening)

    def read(self, prompts: Sequence[Messages], batch: int = 32) -> Iterator[tuple[int, Read]]:
        """(prompt number, what was read) of each prompt, longest prompts first."""
        ids = [self._prompt(prompt) for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            yield from zip(chunk, self._read_batch([ids[number] for number in chunk]), strict=True)

    def _prompt(self, prompt: Messages) -> list[int]:
        # What is read here stands first in the answer: no chain goes before it.
        return [*prompt_ids(self.tokenizer, prompt, think=False), *self.opening]

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


def token_ids(tokenizer: Any, tokens: Sequence[str], opening: str = "") -> dict[str, int]:
    """The id of each of `tokens` after `opening`. Raises SeveralTokensError where one is not a single token there."""
    before: list[int] = tokenizer.encode(opening, add_special_tokens=False)
    found = {}
    for token in tokens:
        together: list[int] = tokenizer.encode(opening + token, add_special_tokens=False)
        if len(together) != len(before) + 1 or together[:-1] != before:
            raise SeveralTokensError(
                f"{token!r} after {opening!r} is not one token of this model. Choose identifiers or grades that are, "
                f"or end the opening elsewhere."
            )
        found[token] = together[-1]
    return found
