"""A student of a few thousand weights whose tokens are words: small enough to learn eight rows by heart in seconds."""

import re
from pathlib import Path

from ranking.decoding.replies import LETTERS
from ranking.prompts import TEMPLATES, load_template
from training.jobs import ModelRef

CHAT = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<go> {{ message['content'] }} <eos>"
    "{% else %}{{ message['content'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}<go>{% endif %}"
)


def make_word_model(folder: Path, texts: list[str]) -> ModelRef:
    """An untrained two-layer model that knows the words of the templates and of `texts`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from training.student import save_student

    said = [load_template(path.stem) for path in sorted(TEMPLATES.glob("*.yaml")) if "mine" not in path.stem]
    fixed = [f"{t.system_message} {t.prefix} {t.body} {t.suffix}" for t in said]
    answers = ["<think> </think> <think></think> <answer> </answer> > yes no this passage", " ".join(LETTERS)]
    numbers = [" ".join(f"[{n}] {n} ({n})" for n in range(21)), " ".join(f"[{letter}]" for letter in LETTERS)]
    known = re.sub(r"\{\w+\}", " ", " ".join([*fixed, *answers, *numbers, *texts])).split()
    words = dict.fromkeys(["<pad>", "<eos>", "<unk>", "<go>", *known])
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return ModelRef(path=str(folder), sha256=save_student(LlamaForCausalLM(config), tokenizer, folder))
