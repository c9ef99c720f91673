"""Answers: what is written is what is read, nothing is guessed in a label, and a recovered order is always whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ranking.batch_parsing import parse_answers
from ranking.parsing import (
    Fault,
    describe_ids_fault,
    describe_list_fault,
    format_order,
    parse_answer,
    parse_ids,
    parse_ranking,
    recover_order,
)

orders = st.integers(1, 40).flatmap(lambda count: st.permutations(range(count))).map(tuple)
chains = st.text(max_size=60).filter(lambda text: not re.search("</?(think|answer)>", text))
# Pieces of answers put together anyhow: nearer to what models write than any random text.
scraps = st.lists(
    st.sampled_from(
        ["[1]", "[2]", "[3]", "[0]", "[4]", "[22]", "[1234567]", "[03]", "[²]", "[٣]", "[ 2 ]", "[-1]", "[]", "2",
         " > ", ">", ", ", "\n", ".", "\u2003", "\x1c", "\u200b", "<",
         "<think>", "</think>", "<answer>", "</answer>", "None", "passage "]
    ) | st.text(max_size=3),
    max_size=14,
).map("".join)  # fmt: skip


@given(orders)
def test_what_format_order_writes_parse_ranking_reads(order: tuple[int, ...]) -> None:
    answer = parse_ranking(format_order(order), len(order))
    assert (answer.order, answer.fault) == (order, None)


@given(orders, chains)
def test_a_whole_answer_gives_back_its_order_and_its_chain(order: tuple[int, ...], chain: str) -> None:
    thought = parse_answer(f"<think>{chain}</think> <answer>{format_order(order)}</answer>", len(order))
    assert (thought.order, thought.chain, thought.fault) == (order, chain.strip(), None)
    direct = parse_answer(f"<answer> {format_order(order)} </answer>\n", len(order), think=False)
    assert (direct.order, direct.chain, direct.fault) == (order, "", None)


@given(scraps, st.integers(1, 4))
@example("[1] > [1234567] > [2]", 2)
def test_a_ranking_is_accepted_exactly_when_it_is_a_permutation_in_the_grammar(text: str, count: int) -> None:
    answer = parse_ranking(text, count)
    # The same rule said another way: white space apart, the text is format_order of some permutation.
    pieces = [piece.strip() for piece in text.split(">")]
    right = sorted(pieces) == sorted(f"[{number}]" for number in range(1, count + 1))
    assert (answer.order is not None) == right
    assert answer.fault == (None if right else Fault.LIST)
    if answer.order is not None:
        assert format_order(answer.order) == " > ".join(pieces)


@pytest.mark.parametrize(
    "text",
    [
        "", "[1] > [2]", "[1] > [2] > [2]", "[1] > [2] > [0]", "[1] > [2] > [4]", "[1] > [2] > [3] > [4]", "1 > 2 > 3",
        "[1] [2] [3]", "[1], [2], [3]", "[1] >> [2] > [3]", "[1] > [2] > [3] >", "[1] > [2] > [3].",
        "Sure: [1] > [2] > [3]", "[01] > [2] > [3]", "[١] > [2] > [3]", "[1] > [2] > [12345678] > [3]",
        "[-1] > [2] > [3]", "[1] = [2] > [3]", "［1］ > [2] > [3]", "[1 ] > [2] > [3]",
    ],
)  # fmt: skip
def test_a_list_that_is_not_one_is_a_fault_and_can_be_described(text: str) -> None:
    assert parse_ranking(text, 3).fault is Fault.LIST
    assert describe_list_fault(text, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("the best is [1] > [2] > [3]", "identifiers alone"),
        ("[1] > [2] > [0]", r"there is no passage \[0\]; the identifiers run from \[1\] to \[3\]"),
        ("[1] > [9] > [8]", r"no passage \[8\] \[9\]"),
        ("[1] > [2] > [2]", r"^\[2\] stands more than once"),
        ("[3]", r"\[1\] \[2\] is missing"),
    ],
)
def test_a_list_fault_is_told_in_words_that_name_the_ids(text: str, words: str) -> None:
    described = describe_list_fault(text, 3)
    assert described is not None
    assert re.search(words, described)


@given(scraps, st.integers(1, 4))
def test_a_reply_has_a_described_fault_exactly_when_it_does_not_parse(text: str, count: int) -> None:
    assert (describe_list_fault(text, count) is None) == (parse_ranking(text, count).order is not None)
    assert (describe_ids_fault(text, count) is None) == (parse_ids(text, count) is not None)


@pytest.mark.parametrize(
    "text",
    [
        "", "[2] > [1]", "<answer>[2] > [1]</answer>", "<think>a</think>[2] > [1]", "<think>a</think><answer>[2] > [1]",
        "<think>a<answer>[2] > [1]</answer>", "<answer>[2] > [1]</answer><think>a</think>",
        "<think>a</think><answer>[2] > [1]</answer> and so on", "well <think>a</think><answer>[2] > [1]</answer>",
        "<think>a</think>so<answer>[2] > [1]</answer>", "<think><think>a</think><answer>[2] > [1]</answer>",
        "<think>a</think></think><answer>[2] > [1]</answer>", "<think>a</think><answer>[2] > [1]</answer></answer>",
        "<think>a</think><answer><answer>[2] > [1]</answer>", "<think>in <answer></think><answer>[2] > [1]</answer>",
        "<Think>a</Think><Answer>[2] > [1]</Answer>",
        "<think>a</think><answer>[2] > [1]</answer><think>b</think><answer>[2] > [1]</answer>",
    ],
)  # fmt: skip
def test_wrong_tags_are_a_fault_of_the_tags_even_around_a_right_list(text: str) -> None:
    answer = parse_answer(text, 2)
    assert (answer.order, answer.fault) == (None, Fault.TAGS)


# Whole answers, with scraps where they may stand and where they may not.
lists = st.integers(1, 4).flatmap(lambda count: st.permutations(range(count))).map(format_order) | scraps
answers = st.one_of(
    scraps,
    st.builds("<think>{}</think>{}<answer>{}</answer>{}".format, scraps | st.just("so"),
              st.sampled_from(["", " ", "\u2003", "so"]), lists, st.sampled_from(["", "\n", "\x1c", "."])),
    st.builds("{}<answer>{}</answer>".format, st.sampled_from(["", "\n", "so"]), lists),
)  # fmt: skip


@given(answers, st.integers(1, 4), st.booleans())
def test_tags_are_right_exactly_when_they_stand_in_their_order_and_nothing_stands_beside_them(
    text: str, count: int, think: bool
) -> None:
    # The same rule said another way.
    chain = r"<think>(?P<chain>.*?)</think>\s*" if think else "(?P<chain>)"
    match = re.fullmatch(rf"\s*{chain}<answer>(?P<answer>.*?)</answer>\s*", text, re.DOTALL)
    right = match is not None and len(re.findall("</?(?:think|answer)>", text)) == (4 if think else 2)
    answer = parse_answer(text, count, think)
    assert (answer.fault is Fault.TAGS) == (not right)
    assert answer.chain == (match["chain"].strip() if match and right else "")
    assert answer.order == (parse_ranking(match["answer"], count).order if match and right else None)


@settings(deadline=None)
@given(st.lists(st.tuples(answers, st.integers(0, 4)), max_size=6), st.booleans())
@example([("<answer>[1]> [2]</answer>", 2), ("<answer>[1] >[2]\u2003>[3]</answer>", 3), ("", 0)], False)
@example([("<think>1 < 2 <b></think>\n\n<answer>[1] > [2]</answer>", 2)], True)
@example([("<think>1 < 2 <think></think> <answer>[1] > [2]</answer>", 2)], True)
@example([("<think>so</think> \n\n<answer> [1] > [2]</answer>", 2)], True)
@example([("<answer>[1] > [3]</answer>", 2), ("<answer>[1] > [2] > [3]</answer>", 3)], False)
def test_a_batch_is_parsed_as_each_of_its_texts_is(batch: list[tuple[str, int]], think: bool) -> None:
    texts, counts = [text for text, _ in batch], [count for _, count in batch]
    found, faults = parse_answers(texts, counts, think)
    alone = [parse_answer(text, count, think) for text, count in batch]
    assert faults == tuple(answer.fault for answer in alone)
    assert found.shape == (len(batch), max(counts, default=0))
    for row, answer in zip(found.tolist(), alone, strict=True):
        order = list(answer.order or ())
        assert row == order + [-1] * (len(row) - len(order))


@pytest.mark.parametrize("think", [True, False])
def test_a_letter_that_is_wrong_missing_or_too_many_is_seen_in_a_batch_as_it_is_alone(think: bool) -> None:
    right = "<think>so</think> " * think + f"<answer> {format_order([19, *range(19)])}\n</answer>"
    odd = "[]<>/:019 \n\0x"
    texts = [right]
    for at in range(len(right) + 1):
        texts += [right[:at] + letter + right[at + 1 :] for letter in ["", *odd]]
        texts += [right[:at] + letter + right[at:] for letter in odd]
        texts += [right[:at] + tag + right[at:] for tag in ("<answer>", "</think>")]
    texts += [right.replace("[20]", f"[{one}{other}{end}") for one in odd for other in odd for end in ("]", "")]
    found, faults = parse_answers(texts, [20] * len(texts), think)
    alone = [parse_answer(text, 20, think) for text in texts]
    assert faults == tuple(answer.fault for answer in alone)
    assert [tuple(row) for row in found.tolist()] == [answer.order or (-1,) * 20 for answer in alone]


def test_a_chain_is_a_fault_where_the_answer_alone_is_asked_for() -> None:
    assert parse_answer("<think>a</think><answer>[2] > [1]</answer>", 2, think=False).fault is Fault.TAGS


def test_a_wrong_list_between_right_tags_is_a_fault_of_the_list_and_keeps_the_chain() -> None:
    answer = parse_answer("<think> because </think> <answer> [1] > [1] </answer>", 2)
    assert (answer.order, answer.chain, answer.fault) == (None, "because", Fault.LIST)


def test_ids_in_the_chain_are_no_part_of_the_ranking() -> None:
    answer = parse_answer("<think>[1] > [2] > [3]? No.</think><answer>[3] > [1] > [2]</answer>", 3)
    assert answer.order == (2, 0, 1)


@given(scraps, st.integers(0, 25))
def test_recover_order_always_gives_a_permutation(text: str, count: int) -> None:
    assert sorted(recover_order(text, count)) == list(range(count))


@given(orders, chains)
def test_recover_order_reads_a_right_answer_as_the_strict_parser_does(order: tuple[int, ...], chain: str) -> None:
    assert recover_order(f"<think>{chain}</think><answer>{format_order(order)}</answer>", len(order)) == order
    assert recover_order(format_order(order), len(order)) == order


@given(orders, st.data())
def test_recover_order_puts_what_is_named_first_and_keeps_the_windows_order_for_the_rest(
    order: tuple[int, ...], data: st.DataObject
) -> None:
    named = order[: data.draw(st.integers(0, len(order)))]
    rest = tuple(position for position in range(len(order)) if position not in named)
    assert recover_order(f"<think>hm</think><answer>{format_order(named)}", len(order)) == named + rest


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("<think>[3] looks better than [2]", (0, 1, 2)),  # cut off inside the chain
        ("<think>[3] over [2]</think>", (0, 1, 2)),
        ("<think>[3] over [2]</think> <answer>[2]", (1, 0, 2)),
        ("<think>[3] over [2]</think> [2] > [1]", (1, 0, 2)),
        ("<answer>[3] > [3] > [9] > [0] > [2]</answer>", (2, 1, 0)),
        ("2 > 1 > 3", (0, 1, 2)),
        ("", (0, 1, 2)),
    ],
)
def test_a_malformed_answer_gives_what_it_still_says(text: str, order: tuple[int, ...]) -> None:
    assert recover_order(text, 3) == order


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), unique=True))))
def test_mining_ids_come_back_in_the_order_written(case: tuple[int, list[int]]) -> None:
    count, positions = case
    assert parse_ids(" ".join(f"[{position + 1}]" for position in positions) or "None", count) == tuple(positions)


@pytest.mark.parametrize("text", ["None", "none", " None. ", "NONE"])
def test_a_mining_reply_of_none_is_an_empty_choice(text: str) -> None:
    assert parse_ids(text, 3) == ()


@pytest.mark.parametrize("text", ["[1], [3]", "[1][3]", "[1] [3].", "\n[1]\n[3]\n"])
def test_a_mining_reply_may_part_its_ids_by_space_or_comma(text: str) -> None:
    assert parse_ids(text, 3) == (0, 2)


@pytest.mark.parametrize(
    "text", ["", "[0]", "[4]", "[1] [1]", "1 3", "[1] and [3]", "None [1]", "[1] [1234567]", "[01]", "[1] > [3]"]
)
def test_a_mining_reply_that_is_neither_ids_nor_none_is_refused(text: str) -> None:
    assert parse_ids(text, 3) is None
    described = describe_ids_fault(text, 3)
    assert described is not None
    assert "from [1] to [3]" in described
