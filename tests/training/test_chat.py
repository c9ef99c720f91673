"""A template with a switch for thinking is told what the recipe's contract says, wherever a prompt becomes tokens."""

from pathlib import Path
from typing import Any

import pytest
from test_systems import system
from word_model import CHAT
from word_stages import rl_job, sft_job

from training import rl, sft
from training.checkpoints import read_rows
from training.curves import Tally
from training.examples import prompt_length
from training.generate import Decoding
from training.jobs import ModelRef
from training.rankers import Logits, Words, ranker_for
from training.stages import Bench
from training.student import load_student, load_tokenizer

EMPTY = "<think></think>"
# As Qwen3 has it: without thinking the answer opens with an empty chain, and so does one that is shown without a chain.
OPENED = f"{{% if enable_thinking is defined and not enable_thinking %}} {EMPTY}{{% endif %}}"
SHOWN = f"<go> {{% if '<think>' not in message['content'] %}}{EMPTY} {{% endif %}}{{{{"
HYBRID = CHAT.replace("<go>{% endif %}", f"<go>{OPENED}{{% endif %}}").replace("<go> {{", SHOWN)
NAMES = ("reasonrank", "reasonrank-direct", "first", "direct-point", "erank")


@pytest.fixture
def hybrid(words: ModelRef) -> Any:
    tokenizer = load_tokenizer(words.path)
    tokenizer.chat_template = HYBRID
    return tokenizer


def opened(tokenizer: Any, ids: Any) -> bool:
    """Whether an empty chain stands where the answer begins."""
    text = tokenizer.decode(ids)
    return EMPTY in text.split("<go>")[1].split("<answer>")[0]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_from_opens_as_the_contract_says(
    name: str, hybrid: Any, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = sft_job(words, rows, tmp_path, name)
    bench = Bench(Path(words.path), hybrid, job.recipe.model, tmp_path, Tally())
    _, make = sft._prepare(job, read_rows(rows, "sft"), hybrid)
    learned = make(bench).train_dataset[0]
    if "labels" in learned:
        prompt = [token for token, label in zip(learned["input_ids"], learned["labels"], strict=True) if label == -100]
    else:
        prompt = learned["tokens"][0][: learned.get("prompt")]
    assert opened(hybrid, prompt) is not job.recipe.contract.think


@pytest.mark.parametrize("name", [*NAMES, "rank-r1"])
def test_what_is_asked_and_counted_opens_as_the_contract_says(
    name: str, hybrid: Any, words: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, prompt = system(name), [{"role": "user", "content": "why"}]
    ranker = ranker_for(recipe, load_student(Path(words.path)), hybrid)
    if isinstance(ranker, Words):
        ((_, completion),) = ranker.writer.write([prompt], Decoding(max_new_tokens=1))
        ids = list(completion.prompt_ids)
    else:
        assert isinstance(ranker, Logits)
        asked: list[list[int]] = []
        monkeypatch.setattr(ranker.first, "_read_batch", lambda prompts: asked.extend(prompts) or [None])
        list(ranker.first.read([prompt]))
        (ids,) = asked
    assert opened(hybrid, ids) is not recipe.contract.think
    assert prompt_length(hybrid, recipe, prompt) == len(ids)


@pytest.mark.parametrize("name", ["reasonrank", "reasonrank-direct"])
def test_rollouts_that_trl_writes_open_as_the_contract_says(
    name: str, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    job = rl_job(words, rows, tmp_path, name)
    assert rl._config(job, tmp_path).chat_template_kwargs == {"enable_thinking": job.recipe.contract.think}
