"""Batched generation: left padding, batches of like length, early stop, tokens and seconds counted.

    writer = Writer(load_student(folder, dtype="bfloat16"), tokenizer)
    completions = writer.write(prompts, Decoding(max_new_tokens=96, batch=16))

Used by reranking (greedy) and by the rollouts of reinforcement learning (sampling). A sequence ends at eos, or as
soon as it has written `</answer>`, except in rollouts, where the policy must itself learn to stop. Deliberately
absent: a server (an OpenAI-compatible endpoint behind the engine serves at scale) and beam search.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ranking.decoding.replies import number_places
from training.chat import prompt_ids
from training.ties import NearTies

STOP = "</answer>"


@dataclass(frozen=True)
class Completion:
    """What was written for one prompt; `seconds` is the prompt's share of its batch."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    seconds: float


@dataclass(frozen=True)
class Decoding:
    """How to write: temperature 0 is greedy."""

    max_new_tokens: int
    batch: int = 32
    temperature: float = 0.0
    stop_at_answer: bool = True
    exact: bool = False  # what is written to a prompt does not depend on its batch (see training.ties)


class Writer:
    """A model that writes completions for chat prompts."""

    def __init__(self, model: Any, tokenizer: Any, think: bool = True) -> None:
        """`think`: whether the answer opens with a chain, for templates that ask (see training.chat)."""
        self.model = model
        self.tokenizer = tokenizer
        self.think = think

    def write(
        self,
        prompts: Sequence[list[dict[str, str]]],
        decoding: Decoding,
        abandoned: Callable[[int], bool] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Completions as (prompt number, completion), batch by batch, longest prompts first.

        `abandoned` is asked before each token which prompts nobody waits for any more; their rows end there.
        """
        ids = [tuple(prompt_ids(self.tokenizer, prompt, self.think)) for prompt in prompts]
        # Longest first: padding stays small, and a batch that does not fit into memory fails at once.
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(order), decoding.batch):
            chunk = order[start : start + decoding.batch]
            given_up = [_Abandoned(chunk, abandoned)] if abandoned is not None else []
            yield from zip(chunk, self._write_batch([ids[i] for i in chunk], decoding, given_up), strict=True)

    def confidence(self, completion: Completion) -> float:
        """The probability with which the model says the number in `<answer>`: the product over its tokens (ERank)."""
        import torch

        places = number_places([self.tokenizer.decode(completion.ids[: end + 1]) for end in range(len(completion.ids))])
        ids = torch.tensor([[*completion.prompt_ids, *completion.ids]], device=self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=len(completion.ids) + 1).logits[0, :-1]
        logprobs = logits.float().log_softmax(dim=-1)
        return float(sum(logprobs[place, completion.ids[place]] for place in places).exp()) if places else 0.0

    def _write_batch(
        self, prompts: Sequence[tuple[int, ...]], decoding: Decoding, given_up: Sequence["_Abandoned"] = ()
    ) -> list[Completion]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        started = time.perf_counter()
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        device = self.model.device
        input_ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=pad,
            **(sampling if decoding.temperature > 0 else {"do_sample": False}),
        )
        written = [_AnswerWritten(self.tokenizer, width)] if decoding.stop_at_answer else []
        stop = StoppingCriteriaList([*written, *given_up])
        ties = [self._near_ties(prompts, width)] if decoding.exact else []
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=stop,
                logits_processor=LogitsProcessorList(ties),
            )
        rows = [self._trim(row, keep_eos=not decoding.stop_at_answer) for row in output[:, width:].tolist()]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        seconds = (time.perf_counter() - started) / len(prompts)
        return [Completion(p, tuple(r), t, seconds) for p, r, t in zip(prompts, rows, texts, strict=True)]

    def _near_ties(self, prompts: Sequence[tuple[int, ...]], width: int) -> NearTies:
        ends = {self.tokenizer.pad_token_id, self.tokenizer.eos_token_id}
        return NearTies(self.model, [width - len(prompt) for prompt in prompts], width, ends)

    def _trim(self, row: list[int], keep_eos: bool) -> list[int]:
        """Up to the first eos: behind a sequence that stopped at its answer, eos is only generate's padding."""
        eos = self.tokenizer.eos_token_id
        return row[: row.index(eos) + keep_eos] if eos in row else row


class _AnswerWritten:
    """Stopping criterion: a sequence is done once `</answer>` stands in what it wrote."""

    def __init__(self, tokenizer: Any, prompt_width: int) -> None:
        self.tokenizer = tokenizer
        self.prompt_width = prompt_width

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        tails = self.tokenizer.batch_decode(input_ids[:, max(self.prompt_width, input_ids.shape[1] - 12) :])
        return torch.tensor([STOP in tail for tail in tails], device=input_ids.device)


class _Abandoned:
    """Stopping criterion: a sequence is done once nobody waits for it."""

    def __init__(self, numbers: Sequence[int], abandoned: Callable[[int], bool]) -> None:
        self.numbers = numbers
        self.abandoned = abandoned

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.tensor([self.abandoned(number) for number in self.numbers], device=input_ids.device)
