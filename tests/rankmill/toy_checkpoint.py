"""A reranker of a few thousand weights that answers in the grammar, made in seconds; what it reads decides its order.

    folder = make_checkpoint(tmp_path / "toy"); profile = write_profile(tmp_path / "toy.yaml")

Words are its tokens. It has learned one of six orders of three passages for each of a few query words, and guesses for
others, so that near ties are common.
"""

import random
from itertools import permutations
from pathlib import Path

import yaml

KEYS = [f"key{number}" for number in range(48)]
LEARNED = 12
PROFILE = {
    "extends": "offline",
    "description": "A toy.",
    "recipe": {
        "units": {"max_passages": 3, "passage_tokens": 8, "query_tokens": 8},
        "contract": {"name": "listwise_direct"},
        "decoding": {"window": 3, "step": 2, "top": 5, "max_new_tokens": 10, "batch": 4},
    },
}
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}{% if add_generation_prompt %}<go>{% endif %}"


def write_profile(path: Path) -> Path:
    """The profile whose recipe fits the checkpoint."""
    path.write_text(yaml.safe_dump(PROFILE), "utf-8")
    return path


def make_checkpoint(folder: Path) -> Path:
    """Train it and save it."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ranking.parsing import format_order
    from training.examples import ranking_prompt
    from training.recipes import load_recipe
    from training.student import save_student

    torch.manual_seed(0)
    torch.set_num_threads(1)
    words = ["<pad>", "<eos>", "<unk>", "<go>", "<answer>", "</answer>", ">", "[1]", "[2]", "[3]", *KEYS]
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "reasonrank.yaml", PROFILE["recipe"])
    orders = list(permutations(range(3)))
    rows = []
    for number in range(LEARNED):
        prompt = ranking_prompt(tokenizer, recipe, f"what is {KEYS[number]} ?", ["a", "b", "c"])[0]
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
        answer = tokenizer(f"<answer> {format_order(orders[number % 6])} </answer> <eos>")["input_ids"]
        rows.append((ids, answer))
    width = max(len(ids) + len(answer) for ids, answer in rows)
    inputs = torch.tensor([[0] * (width - len(i) - len(a)) + i + a for i, a in rows])
    labels = torch.tensor([[-100] * (width - len(a)) + a for _, a in rows])
    mask = (inputs != 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(400):
        loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_student(model, tokenizer, folder)
    return folder


def write_lists(folder: Path, count: int) -> tuple[Path, Path, Path]:
    """run, queries and passages of `count` queries with six candidates each."""
    draw = random.Random(0)
    run, queries, passages = folder / "in.trec", folder / "queries.jsonl", folder / "passages.jsonl"
    with run.open("w") as ranked, queries.open("w") as asked, passages.open("w") as texts:
        for number in range(count):
            key = KEYS[number % len(KEYS)]
            asked.write(f'{{"qid": "q{number}", "text": "what is {key} ?"}}\n')
            for rank in range(1, 7):
                ranked.write(f"q{number} Q0 d{number}-{rank} {rank} {10 - rank} toy\n")
                words = " ".join(draw.choice(["a", "b", "c", *KEYS]) for _ in range(draw.randint(1, 8)))
                texts.write(f'{{"docid": "d{number}-{rank}", "text": "{words} {number}"}}\n')
    return run, queries, passages
