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
from training.prefix_sharing import PADDING, SHARED, attends_fully, attention_bias, one_sequence, packed, padded

host.settle()

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8)
TEXTS = st.lists(TOKENS, min_size=1, max_size=4)


@given(st.lists(st.integers(0, 3), max_size=6), TEXTS)
def test_each_text_can_be_read_off_its_line_in_order_and_its_end_is_its_own(
    begin: list[int], rests: list[list[int]]
) -> None:
    texts = [begin + rest for rest in rests]
    sequence = one_sequence(texts)
    assert sequence.segments.count(SHARED) >= len(begin)
    for number, (text, end) in enumerate(zip(texts, sequence.ends, strict=True), start=1):
        mine = [place for place, segment in enumerate(sequence.segments) if segment in (SHARED, number)]
        assert [sequence.ids[place] for place in mine] == text
        assert [sequence.positions[place] for place in mine] == list(range(len(text)))
        assert sequence.segments[end] == number and end == mine[-1]
    assert len(sequence) == sum(map(len, texts)) - (len(texts) - 1) * sequence.segments.count(SHARED)


@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_a_token_sees_what_stands_before_it_in_its_own_text_and_nothing_else(groups: list[list[list[int]]]) -> None:
    import torch

    sequences = [one_sequence(texts) for texts in groups]
    ids, segments, positions = padded(sequences, pad=9)
    assert ids.shape == segments.shape == positions.shape == (len(sequences), max(map(len, sequences)))
    for number, sequence in enumerate(sequences):
        behind = ids.shape[1] - len(sequence)
        assert ids[number].tolist() == [*sequence.ids, *[9] * behind]
        assert segments[number].tolist() == [*sequence.segments, *[PADDING] * behind]
        assert positions[number].tolist() == [*sequence.positions, *[0] * behind]
    added = attention_bias(segments, torch.float32)[:, 0]
    for number, sequence in enumerate(sequences):
        for here, segment in enumerate(sequence.segments):
            seen = (added[number, here] == 0).nonzero()[:, 0].tolist()
            assert seen == [j for j in range(here + 1) if sequence.segments[j] in (SHARED, segment)]
    # Padding sees something, too: a softmax over nothing would be no number.
    assert bool((added == 0).any(dim=2).all())


@given(st.lists(st.integers(0, 3), max_size=6), TEXTS, st.integers(14, 40))
def test_texts_are_packed_in_order_into_sequences_that_fit(
    begin: list[int], rests: list[list[int]], limit: int
) -> None:
    texts = [begin + rest for rest in rests]
    sequences = packed(texts, limit)
    assert max(map(len, sequences)) <= limit
    assert [_read(sequence, number) for sequence in sequences for number in range(1, len(sequence.ends) + 1)] == texts
    if len(one_sequence(texts)) <= limit:
        assert sequences == [one_sequence(texts)]


def _read(sequence: Any, number: int) -> list[int]:
    """The text of that number."""
    return [
        token for token, segment in zip(sequence.ids, sequence.segments, strict=True) if segment in (SHARED, number)
    ]


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
