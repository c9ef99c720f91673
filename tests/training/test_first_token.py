"""One forward pass a prompt: the probabilities are the model's own, and do not depend on the batch."""

from __future__ import annotations

from typing import Any

import pytest
from training_toys import RECIPE

from ranking.decoding.calls import Call, Reply, Task
from ranking.decoding.desk import Ticket, decode_all
from ranking.decoding.listwise import sliding_window
from ranking.decoding.pointwise import pointwise
from ranking.decoding.replies import LETTERS, read_first_token, read_grade
from training.first_token import FirstToken, SeveralTokensError
from training.jobs import ModelRef
from training.rankers import ranker_for
from training.recipes import load_recipe

PROMPTS = [[{"role": "user", "content": "Which is best? " + "moon " * length}] for length in (1, 9, 30)]


@pytest.fixture(scope="module")
def model(tiny: ModelRef) -> Any:
    from pathlib import Path

    from training.student import load_student

    return load_student(Path(tiny.path), device="cpu")


def test_the_probabilities_are_those_of_the_whole_vocabulary(model: Any, tokenizer: Any) -> None:
    import torch

    scorer = FirstToken(model, tokenizer, "ABC")
    for number, read in scorer.read(PROMPTS, batch=1):
        text = tokenizer.apply_chat_template(PROMPTS[number], add_generation_prompt=True, tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            whole = model(ids).logits[0, -1].float().log_softmax(-1)
        expected = {letter: float(whole[tokenizer.convert_tokens_to_ids(letter)]) for letter in "ABC"}
        assert read.logprobs == pytest.approx(expected, abs=1e-4)
        assert read.prompt_tokens == ids.shape[1]


def test_a_batch_says_what_each_prompt_says_alone(model: Any, tokenizer: Any) -> None:
    scorer = FirstToken(model, tokenizer, ("yes", "no"))
    alone, together = dict(scorer.read(PROMPTS, batch=1)), dict(scorer.read(PROMPTS, batch=3))
    assert alone.keys() == together.keys() == {0, 1, 2}
    for number, read in alone.items():
        assert together[number].logprobs == pytest.approx(read.logprobs, abs=1e-4)
    assert alone[0].logprobs != alone[2].logprobs


def test_exact_answers_are_the_same_to_the_last_bit_whatever_the_batch_and_twins_stay_as_they_were(
    tokenizer: Any,
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).eval()  # narrow ones do not round
    # Passages of one text: padding moves their scores by rounding, and any difference would turn them round.
    prompts = [PROMPTS[number % 3] for number in range(12)]
    calls = [Call((number,), Task.SCORE) for number in range(12)]

    def scores(batch: int, exact: bool) -> list[float | None]:
        recipe = load_recipe(RECIPE.with_name("direct-point.yaml"), {"decoding": {"batch": batch}})
        answers = dict(ranker_for(recipe, model, tokenizer, exact).answer(prompts, calls))
        return [answers[number].reply.score for number in range(12)]

    alone = scores(12, exact=True)
    assert all(scores(batch, exact=True) == alone for batch in (1, 5))
    assert len(set(alone)) == 3 and alone[:3] * 4 == alone
    assert any(scores(batch, exact=False) != alone for batch in (2, 3, 5, 7, 12))  # which ones do, is the processor's


def test_what_is_no_single_token_is_refused_by_name(model: Any, tokenizer: Any) -> None:
    with pytest.raises(SeveralTokensError, match="'unbelievably so' is not one token"):
        FirstToken(model, tokenizer, ("yes", "unbelievably so"))


def test_a_local_model_orders_windows_by_one_token_and_scores_single_passages(model: Any, tokenizer: Any) -> None:
    letters = FirstToken(model, tokenizer, LETTERS[:5])
    yes_or_no = FirstToken(model, tokenizer, ("yes", "no"))

    def reply_to(tickets: list[Ticket]) -> list[Reply]:
        prompts = [[{"role": "user", "content": f"passages {ticket.call.positions}"}] for ticket in tickets]
        single = tickets[0].call.task is Task.SCORE
        found = dict((yes_or_no if single else letters).read(prompts))
        return [
            read_grade(t.call, found[n].logprobs, {"yes": 1.0, "no": 0.0})
            if single
            else read_first_token(t.call, found[n].logprobs)
            for n, t in enumerate(tickets)
        ]

    for decoder in (sliding_window(5, 2, task=Task.FIRST_TOKEN), pointwise()):
        first = decode_all([9, 6], decoder, reply_to)
        assert [sorted(made.order) for made in first] == [list(range(9)), list(range(6))]
        assert decode_all([9, 6], decoder, reply_to) == first
    scores = decode_all([6], pointwise(), reply_to)[0].scores
    assert scores is not None and all(0.0 < score < 1.0 for score in scores)
