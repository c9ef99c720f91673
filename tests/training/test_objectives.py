"""The losses beside cross-entropy: equal to their formulas written out, and blind to what they should not see."""

import math
from pathlib import Path
from typing import Any

import pytest
from word_stages import sft_job

from training import host, sft
from training.checkpoints import read_rows
from training.curves import Tally
from training.examples import pair_groups, sft_examples
from training.jobs import ModelRef
from training.stages import Bench
from training.student import load_tokenizer

host.settle()
torch = pytest.importorskip("torch")

from training.objectives import first_token_ranknet, group_cross_entropy  # noqa: E402

SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
    "tie_word_embeddings",
)  # fmt: skip


def by_hand(scores: list[float]) -> float:
    """Equation 3 of FIRST, as two loops: ranks from 1, a worse passage's logit above a better one's costs."""
    total = 0.0
    for i in range(len(scores)):
        for j in range(i + 1, len(scores)):
            total += math.log1p(math.exp(scores[j] - scores[i])) / ((i + 1) + (j + 1))
    return total


def test_ranknet_is_its_formula_meaned_over_the_lists() -> None:
    scores = [[0.3, -1.2, 2.0, 0.1], [1.0, 0.0, -1.0, 5.0]]
    present = torch.tensor([[True] * 4, [True, True, True, False]])
    expected = (by_hand(scores[0]) + by_hand(scores[1][:3])) / 2
    assert float(first_token_ranknet(torch.tensor(scores), present)) == pytest.approx(expected, rel=1e-5)


def test_ranknet_falls_when_two_logits_are_put_in_the_order_of_their_ranks() -> None:
    here = torch.ones((1, 3), dtype=torch.bool)
    right, wrong = (first_token_ranknet(torch.tensor([s]), here) for s in ([2.0, 1.0, 0.0], [1.0, 2.0, 0.0]))
    assert right < wrong


def test_a_groups_loss_is_the_first_scores_and_groups_do_not_mix() -> None:
    scores = torch.tensor([1.0, 0.0, 2.0, 3.0, 3.0])
    expected = (-math.log(math.e / (math.e + 1 + math.e**2)) + math.log(2)) / 2
    assert float(group_cross_entropy(scores, [3, 2])) == pytest.approx(expected, rel=1e-5)
    moved = torch.tensor([1.0, 0.0, 2.0, 13.0, 13.0])
    assert float(group_cross_entropy(moved, [3, 2])) == pytest.approx(expected, rel=1e-5)


LORA = {"tuning": "lora", "rank": 4}


@pytest.mark.parametrize(
    ("student", "limit", "window"), [({}, 400, None), (LORA, 400, None), ({}, 45, None), ({}, 400, 12)]
)
def test_groups_learn_what_their_texts_teach_one_by_one(
    student: dict[str, Any], limit: int, window: int | None, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    start = words if window is None else _windowed(words, tmp_path / "windowed", window)
    job = sft_job(start, rows, tmp_path, "direct-point", student={"bf16": False, **student})
    tokenizer = load_tokenizer(words.path)
    groups, left_out = pair_groups(read_rows(rows, "sft"), job.recipe, tokenizer, 1)
    assert not left_out
    bench = Bench(Path(start.path), tokenizer, job.recipe.model, tmp_path, Tally())
    trainer = sft._group_trainer(job, groups, bench)
    trainer.limit = limit
    # Groups of three lengths; of one group a text goes on where another ends, and one text stands alone.
    batch = [trainer.train_dataset[number] for number in range(3)]
    first = batch[0]["tokens"][0]
    batch[1] = {**batch[1], "tokens": [*batch[1]["tokens"], batch[1]["tokens"][0] + [5, 6, 7]]}
    batch[2] = {**batch[2], "tokens": [first]}
    loss = trainer.loss(trainer.model, batch)
    loss.backward()
    learned = _gradients(trainer.model)
    trainer.model.zero_grad()
    scores = [_alone(trainer, text) for row in batch for text in row["tokens"]]
    expected = group_cross_entropy(torch.stack(scores), [len(row["tokens"]) for row in batch])
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    one_by_one = _gradients(trainer.model)
    assert learned.keys() == one_by_one.keys() and any(float(g.abs().max()) > 1e-3 for g in learned.values())
    for name, gradient in one_by_one.items():
        assert torch.allclose(gradient, learned[name], atol=1e-6), name
    told, read = sum(len(text) for row in batch for text in row["tokens"]), bench.tally.tokens
    assert read == told if window else len(first) < read < (0.7 if limit == 400 else 1.0) * told


def _windowed(words: ModelRef, folder: Path, window: int) -> ModelRef:
    """The word model's weights in an architecture whose layers look back over a window alone."""
    from transformers import LlamaConfig, MistralConfig, MistralForCausalLM

    from training.student import load_student, save_student

    sizes = LlamaConfig.from_pretrained(words.path).to_dict()
    kept = {name: sizes[name] for name in SIZES}
    model = MistralForCausalLM(MistralConfig(**kept, sliding_window=window, rope_parameters=sizes["rope_parameters"]))
    model.load_state_dict(load_student(words.path).state_dict())
    return ModelRef(path=str(folder), sha256=save_student(model, load_tokenizer(words.path), folder))


def _alone(trainer: Any, text: list[int]) -> Any:
    """yes - no of a text that nothing stands beside."""
    logits = trainer.model(input_ids=torch.tensor([text])).logits[0, -1]
    return logits[trainer.yes] - logits[trainer.no]


def _gradients(model: Any) -> dict[str, Any]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_first_reads_logits_where_the_response_is_said_alone_and_its_loss_is_that_over_all_places(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job, tokenizer = sft_job(words, rows, tmp_path, "first"), load_tokenizer(words.path)
    examples, _ = sft_examples(read_rows(rows, "sft"), job.recipe, tokenizer, 1)
    bench = Bench(Path(words.path), tokenizer, job.recipe.model, tmp_path, Tally())
    trainer = sft._first_token_trainer(job, examples, bench)
    # Prompts of three lengths, and one answer of two passages.
    batch = [_longer(trainer.train_dataset[number], 7 * number) for number in range(3)]
    batch[1] = {**batch[1], "order": batch[1]["order"][:2], "tokens": [batch[1]["tokens"][0][:-2]]}
    shapes: list[int] = []

    def asked(**inputs: Any) -> Any:
        said = trainer.model(**inputs)
        shapes.append(said.logits.shape[1])
        return said

    loss = trainer.loss(asked, batch)
    loss.backward()
    gradient = trainer.model.lm_head.weight.grad.clone()
    trainer.model.zero_grad()
    expected = _over_all_places(trainer, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(gradient, trainer.model.lm_head.weight.grad, atol=1e-6)
    assert shapes[0] <= sum(len(one["tokens"][0]) - one["prompt"] for one in batch) < len(batch[0]["tokens"][0])


def _longer(row: dict[str, Any], more: int) -> dict[str, Any]:
    return {**row, "tokens": [[5] * more + row["tokens"][0]], "prompt": row["prompt"] + more}


def _over_all_places(trainer: Any, batch: list[dict[str, Any]]) -> Any:
    """The loss row by row, without padding, with the logits of every place."""
    entropies, rank_terms = [], []
    for row in batch:
        ids, start = torch.tensor(row["tokens"]), row["prompt"]
        logits = trainer.model(input_ids=ids).logits[0]
        entropies.append(torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none"))
        scores = logits[start - 1][[trainer.letters[place] for place in row["order"]]][None]
        rank_terms.append(first_token_ranknet(scores, torch.ones_like(scores, dtype=torch.bool)))
    return torch.cat(entropies).mean() + trainer.weight * torch.stack(rank_terms).mean()
