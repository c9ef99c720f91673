"""Texts that share a beginning: nothing is lost, each is read back whole, and no token sees another text's."""

from hypothesis import given
from hypothesis import strategies as st

from training import host
from training.prefix_sharing import PADDED, SHARED, padded, shared, sight

host.settle()

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8)
TEXTS = st.lists(TOKENS, min_size=1, max_size=4)


@given(st.lists(st.integers(0, 3), max_size=6), TEXTS)
def test_each_text_can_be_read_off_its_line_in_order_and_its_end_is_its_own(
    begin: list[int], rests: list[list[int]]
) -> None:
    texts = [begin + rest for rest in rests]
    line = shared(texts)
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

    lines = [shared(texts) for texts in groups]
    ids, owners, places = padded(lines, pad=9)
    assert ids.shape == owners.shape == places.shape == (len(lines), max(map(len, lines)))
    assert int((owners != PADDED).sum()) == sum(map(len, lines))
    added = sight(owners, torch.float32)[:, 0]
    for number, line in enumerate(lines):
        for here, owner in enumerate(line.owners):
            seen = (added[number, here] == 0).nonzero()[:, 0].tolist()
            assert seen == [j for j in range(here + 1) if line.owners[j] in (SHARED, owner)]
    # Padding sees something, too: a softmax over nothing would be no number.
    assert bool((added == 0).any(dim=2).all())
