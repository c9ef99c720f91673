"""Texts that share a beginning: nothing is lost, each is read back whole, and no token sees another text's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma3TextConfig,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from training import host
from training.prefix_sharing import PADDED, SHARED, attends_fully, attention_bias, one_line, packed, padded

host.settle()

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8)
TEXTS = st.lists(TOKENS, min_size=1, max_size=4)


@given(st.lists(st.integers(0, 3), max_size=6), TEXTS)
def test_each_text_can_be_read_off_its_line_in_order_and_its_end_is_its_own(
    begin: list[int], rests: list[list[int]]
) -> None:
    texts = [begin + rest for rest in rests]
    line = one_line(texts)
    assert line.owners.count(SHARED) >= len(begin)
    for number, (text, end) in enumerate(zip(texts, line.ends, strict=True), start=1):
        mine = [place for place, owner in enumerate(line.owners) if owner in (SHARED, number)]
        assert [line.ids[place] for place in mine] == text
        assert [line.places[place] for place in mine] == list(range(len(text)))
        assert line.owners[end] == number and end == mine[-1]
    assert len(line) == sum(map(len, texts)) - (len(texts) - 1) * line.owners.count(SHARED)


@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_a_token_sees_what_stands_before_it_in_its_own_text_and_nothing_else(groups: list[list[list[int]]]) -> None:
    import torch

    lines = [one_line(texts) for texts in groups]
    ids, owners, places = padded(lines, pad=9)
    assert ids.shape == owners.shape == places.shape == (len(lines), max(map(len, lines)))
    for number, line in enumerate(lines):
        behind = ids.shape[1] - len(line)
        assert ids[number].tolist() == [*line.ids, *[9] * behind]
        assert owners[number].tolist() == [*line.owners, *[PADDED] * behind]
        assert places[number].tolist() == [*line.places, *[0] * behind]
    added = attention_bias(owners, torch.float32)[:, 0]
    for number, line in enumerate(lines):
        for here, owner in enumerate(line.owners):
            seen = (added[number, here] == 0).nonzero()[:, 0].tolist()
            assert seen == [j for j in range(here + 1) if line.owners[j] in (SHARED, owner)]
    # Padding sees something, too: a softmax over nothing would be no number.
    assert bool((added == 0).any(dim=2).all())


@given(st.lists(st.integers(0, 3), max_size=6), TEXTS, st.integers(14, 40))
def test_texts_are_packed_in_order_into_lines_that_fit(begin: list[int], rests: list[list[int]], limit: int) -> None:
    texts = [begin + rest for rest in rests]
    lines = packed(texts, limit)
    assert max(map(len, lines)) <= limit
    assert [_read(line, number) for line in lines for number in range(1, len(line.ends) + 1)] == texts
    if len(one_line(texts)) <= limit:
        assert lines == [one_line(texts)]


def _read(line: Any, number: int) -> list[int]:
    """The text of that number."""
    return [token for token, owner in zip(line.ids, line.owners, strict=True) if owner in (SHARED, number)]


@pytest.mark.parametrize(
    ("config", "fully"),
    [
        (LlamaConfig(), True),
        (Qwen2Config(), True),
        (Qwen3Config(), True),
        (MistralConfig(sliding_window=512), True),
        (MistralConfig(sliding_window=511), False),
        (Gemma3TextConfig(sliding_window=512), True),
        (Gemma3TextConfig(sliding_window=256), False),
        (Qwen3NextConfig(), False),
        (JambaConfig(), False),
        (MambaConfig(), False),
    ],
    ids=lambda one: f"{one.model_type}-{getattr(one, 'sliding_window', None)}" if hasattr(one, "model_type") else one,
)
def test_models_that_see_all_that_stands_before_are_told_from_others(config: Any, fully: bool) -> None:
    assert attends_fully(config, 512) is fully
