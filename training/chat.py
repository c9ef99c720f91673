"""The tokens of a chat, the same for whoever learns from them, counts them or answers to them.

    prompt_ids(tokenizer, messages, recipe.contract.think)      # with the opening of the answer behind them

Templates of hybrid models (Qwen3) read `enable_thinking`: off, they open the answer with an empty chain, which a
student that is to write its own chain must not find there, and one without a chain must. Templates that know no such
variable ignore it. Deliberately absent: endpoints, whose server has the template.
"""

from collections.abc import Sequence
from typing import Any

Messages = Sequence[dict[str, str]]


def switches(think: bool) -> dict[str, bool]:
    """What a chat template is told beside the messages."""
    return {"enable_thinking": think}


def prompt_ids(tokenizer: Any, prompt: Messages, think: bool) -> list[int]:
    """Tokens of a prompt, up to where the answer begins."""
    return _ids(tokenizer, prompt, think, add_generation_prompt=True)


def whole_ids(tokenizer: Any, messages: Messages, think: bool) -> list[int]:
    """Tokens of a prompt and its answer."""
    return _ids(tokenizer, messages, think)


def _ids(tokenizer: Any, messages: Messages, think: bool, **how: bool) -> list[int]:
    said = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **how, **switches(think))
    return list(said)
