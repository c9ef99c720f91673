"""What a stage learns from and with: the response alone, weights in fp32, in which small steps are not lost, and bf16
arithmetic.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file
from test_objectives import by_hand
from test_systems import eight_rows, system
from torch.nn.modules.module import register_module_forward_hook
from word_stages import rl_job, run, sft_job

from training import sft
from training.curves import Tally
from training.examples import sft_examples
from training.jobs import ModelRef, SftJob
from training.stages import Bench
from training.student import load_student, load_tokenizer

# Steps of about 1e-5 on weights of about 0.02, which in bf16 stand 6e-5 to 1e-4 apart.
SMALL: dict[str, Any] = {"lr": 1e-5, "max_steps": 3, "scheduler": "constant"}


@pytest.mark.parametrize("name", ["reasonrank", "first", "direct-point", "erank"])
def test_steps_that_bf16_weights_would_lose_are_learned(name: str, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = sft_job(words, rows, tmp_path, name, SMALL)
    assert job.recipe.model.bf16  # in its arithmetic alone
    run(job)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (words.path, job.folder))
    moved = torch.cat([(after[layer] != before[layer]).flatten() for layer in before])
    rounded = torch.cat([(after[layer] == after[layer].bfloat16().float()).flatten() for layer in before])
    lost = torch.cat([(after[layer].bfloat16() == before[layer].bfloat16()).flatten() for layer in before])
    assert moved.float().mean() > 0.5 and rounded.float().mean() < 0.1
    assert lost[moved].float().mean() > 0.5


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("name", ["reasonrank", "first", "direct-point", "rank-r1"])
def test_every_layer_computes_in_bf16_where_the_recipe_says_so_and_else_in_fp32(
    name: str, bf16: bool, words: ModelRef, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.student.arithmetic", lambda dtype: dtype)  # be it only emulated here
    computed: set[torch.dtype] = set()

    def look(module: torch.nn.Module, _: Any, output: Any) -> None:
        if module.training and isinstance(module, torch.nn.Linear):
            computed.add(output.dtype)

    few: dict[str, Any] = {"max_steps": 2}
    hook = register_module_forward_hook(look)
    try:
        stage = rl_job if name == "rank-r1" else sft_job
        run(stage(words, rows, tmp_path, name, few, {"bf16": bf16}))
    finally:
        hook.remove()
    assert computed == {torch.bfloat16 if bf16 else torch.float32}


def test_first_learns_from_the_response_alone_whatever_else_stands_in_the_batch(
    words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    recipe = system("first", objective={"weight": 3.0}, model={"bf16": False})
    job = SftJob(recipe=recipe, release="toy", rows=rows, model=words, output=tmp_path, seed=1)
    tokenizer = load_tokenizer(Path(words.path))
    short, long = eight_rows()[:2]
    long = long | {"passages": [f"{text} {text}" for text in long["passages"]]}
    examples, left_out = sft_examples([short, long], recipe, tokenizer, 1)
    assert not left_out
    bench = Bench(Path(words.path), tokenizer, recipe.model, tmp_path, Tally())
    trainer = sft._first_token_trainer(job, examples, bench)
    made = trainer.train_dataset.rows
    model = load_student(Path(words.path))
    with torch.no_grad():
        loss = float(trainer.loss(model, made))
        said, ranknet, tokens = 0.0, 0.0, 0
        for row in made:
            (ids,), start = row["tokens"], row["prompt"]
            logits = model(input_ids=torch.tensor([ids])).logits[0].float()
            said += float(functional.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]), reduction="sum"))
            tokens += len(ids) - start
            first = logits[start - 1]
            ranknet += by_hand([float(first[trainer.letters[position]]) for position in row["order"]]) / len(made)
    assert len({len(row["tokens"][0]) for row in made}) == 2  # one of them is padded
    assert loss == pytest.approx(said / tokens + 3.0 * ranknet, rel=1e-4)
