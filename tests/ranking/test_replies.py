"""What a model's words and logits mean to a decoder: right, half right, and nothing at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.decoding.calls import Call, Reply, Task
from ranking.decoding.replies import (
    by_word,
    expected,
    number_places,
    read_first_token,
    read_grade,
    read_list,
    read_order,
    read_pick,
    read_said_score,
)
from ranking.parsing import format_order

SHOWN = (40, 7, 12)
BEST, WORST = Call(SHOWN, Task.BEST), Call(SHOWN, Task.WORST)
GRADES = {str(grade): float(grade) for grade in range(5)}


@given(st.permutations(range(8)))
def test_a_permutation_in_its_tags_is_read_as_those_positions(order: list[int]) -> None:
    call = Call(tuple(range(100, 108)))
    text = f"<think> why </think> <answer> {format_order(order)} </answer>"
    assert read_order(call, text) == Reply(tuple(100 + place for place in order))


@pytest.mark.parametrize(
    ("text", "order", "fault"),
    [
        ("<think> a </think> <answer> [3] </answer>", (12, 40, 7), "list"),
        ("<think> a </think> <answer> [3] > [9] > [0] > [2] </answer>", (12, 7, 40), "list"),
        ("[2] > [3] > [1]", (7, 12, 40), "tags"),
        ("<think> [3] is best, then [2]", (40, 7, 12), "tags"),
        ("", (40, 7, 12), "tags"),
    ],
)
def test_of_a_malformed_order_what_was_named_comes_first_and_the_rest_as_shown(
    text: str, order: tuple[int, ...], fault: str
) -> None:
    assert read_order(Call(SHOWN), text) == Reply(order, fault=fault)


def test_a_bare_list_is_read_without_tags() -> None:
    assert read_list(Call(SHOWN), "[2] > [1] > [3]") == Reply((7, 40, 12))
    assert read_list(Call(SHOWN), "I say [3] > [1]") == Reply((12, 40, 7), fault="list")
    assert read_list(Call(SHOWN), "") == Reply(SHOWN, fault="list")


@pytest.mark.parametrize(
    ("text", "best", "worst", "fault"),
    [
        ("<think> a </think> <answer> [2] </answer>", (7, 40, 12), (40, 12, 7), None),
        ("<think> a </think> <answer> [1] </answer>", (40, 7, 12), (7, 12, 40), None),
        ("<think> a </think> <answer> [3] > [2] </answer>", (12, 40, 7), (40, 7, 12), "list"),
        ("<think> a </think> <answer> [3] [2] </answer>", (12, 40, 7), (40, 7, 12), "list"),
        ("<answer> [3] </answer>", (12, 40, 7), (40, 7, 12), "tags"),
        ("<think> a </think> it is [1]", (40, 7, 12), (7, 12, 40), "tags"),
        ("<think> a </think> <answer> [4] </answer>", SHOWN, SHOWN, "list"),
        ("<think> a </think> <answer> None </answer>", SHOWN, SHOWN, "list"),
        ("<think> [2] is good", SHOWN, SHOWN, "tags"),
        ("", SHOWN, SHOWN, "tags"),
    ],
)
def test_one_name_is_the_first_of_best_and_the_last_of_worst_and_no_name_changes_nothing(
    text: str, best: tuple[int, ...], worst: tuple[int, ...], fault: str | None
) -> None:
    assert read_pick(BEST, text) == Reply(best, fault=fault)
    assert read_pick(WORST, text) == Reply(worst, fault=fault)


def test_without_a_chain_the_tags_of_one_are_a_fault() -> None:
    assert read_pick(BEST, "<answer> [2] </answer>", think=False) == Reply((7, 40, 12))
    assert read_pick(BEST, "<think> a </think> <answer> [2] </answer>", think=False).fault == "tags"


@given(st.text(max_size=60), st.booleans())
def test_no_words_whatever_lose_a_position(text: str, think: bool) -> None:
    replies = [read_order(Call(SHOWN), text, think), read_pick(BEST, text, think), read_pick(WORST, text, think)]
    assert all(sorted(reply.order) == sorted(SHOWN) for reply in replies)
    assert all(reply.fault is not None or "<answer>" in text for reply in replies)


def test_the_first_tokens_logits_order_the_window_and_unlisted_letters_stand_behind() -> None:
    call = Call(SHOWN, Task.FIRST_TOKEN)
    assert read_first_token(call, {"B": -0.1, "C": -3.0, "A": -2.0, "the": -0.01}) == Reply((7, 40, 12))
    assert read_first_token(call, {"C": -0.1}) == Reply((12, 40, 7), fault="unlisted")
    assert read_first_token(call, {"C": math.nan}) == Reply(SHOWN, fault="unlisted")
    with pytest.raises(ValueError, match="27 passages want as many identifiers; there are 26"):
        read_first_token(Call(tuple(range(27)), Task.FIRST_TOKEN), {})


@given(st.lists(st.floats(-20, 0), min_size=5, max_size=5))
def test_the_expected_grade_is_the_mean_under_the_renormalised_probabilities(logits: list[float]) -> None:
    reply = read_grade(Call((9,), Task.SCORE), dict(zip(GRADES, logits, strict=True)), GRADES)
    weights = [math.exp(logit) for logit in logits]
    assert reply.score == pytest.approx(sum(g * w for g, w in enumerate(weights)) / sum(weights))
    assert reply.order == (9,) and reply.fault is None


def test_yes_against_no_is_a_probability_and_the_rest_of_the_vocabulary_is_left_out() -> None:
    logprobs = {"yes": math.log(0.3), "no": math.log(0.1), "Well": math.log(0.6)}
    mass = expected(logprobs, {"yes": 1.0, "no": 0.0})
    assert mass is not None and (mass.value, mass.covered) == (pytest.approx(0.75), pytest.approx(0.4))
    assert expected({"Well": 0.0}, {"yes": 1.0, "no": 0.0}) is None
    assert read_grade(Call((1,), Task.SCORE), {"Well": 0.0}, GRADES) == Reply((1,), fault="unlisted")


@pytest.mark.parametrize(
    ("text", "score", "fault"),
    [
        ("<think> a </think> <answer> 8 </answer>", 4.0, None),
        ("<think> a </think> <answer>0</answer>", 0.0, None),
        ("<think> a </think> <answer> 7.5 </answer>", 3.75, None),
        ("<think> a </think> <answer> 11 </answer>", None, "no_score"),
        ("<think> a </think> <answer> -1 </answer>", None, "no_score"),
        ("<think> a </think> <answer> nan </answer>", None, "no_score"),
        ("<think> a </think> <answer> eight </answer>", None, "no_score"),
        ("8", None, "tags"),
    ],
)
def test_a_score_that_is_said_counts_with_its_probability(text: str, score: float | None, fault: str | None) -> None:
    assert read_said_score(Call((3,), Task.SCORE), text, 0.5, 10) == Reply((3,), score, fault)


# The words that count, and twenty that do not, with probabilities of a whole vocabulary.
vocabularies = (
    st.lists(st.floats(1e-9, 1), min_size=26, max_size=26)
    .map(lambda parts: dict(zip([*"ABCD", "yes", "no", *(f"w{n}" for n in range(20))], parts, strict=True)))
    .map(lambda parts: {token: part / math.fsum(parts.values()) for token, part in parts.items()})
)


def cut(vocabulary: dict[str, float], most: int) -> tuple[dict[str, float], float]:
    """The log probabilities that an endpoint lists, and the most that another token can have."""
    listed = dict(sorted(vocabulary.items(), key=lambda token: -token[1])[:most])
    left = 1 - math.fsum(listed.values())
    return {token: math.log(part) for token, part in listed.items()}, math.log(max(min(left, *listed.values()), 1e-300))


@given(vocabularies, st.integers(2, 26))
def test_of_a_list_that_is_cut_off_no_letter_stands_before_a_likelier_one(
    vocabulary: dict[str, float], most: int
) -> None:
    call = Call((3, 8, 1, 6), Task.FIRST_TOKEN)
    logprobs, _ = cut(vocabulary, most)
    reply = read_first_token(call, logprobs)
    letter = dict(zip(call.positions, "ABCD", strict=True))
    known = [position for position in reply.order if letter[position] in logprobs]
    chances = [vocabulary[letter[position]] for position in known]
    assert reply.order[: len(known)] == tuple(known) and chances == sorted(chances, reverse=True)
    unknown = [position for position in call.positions if position not in known]
    assert reply.order[len(known) :] == tuple(unknown) and (reply.fault == "unlisted") is bool(unknown)
    assert all(vocabulary[letter[position]] <= min(chances, default=1) for position in unknown)


@given(vocabularies, st.integers(2, 26))
def test_a_score_of_a_list_that_is_cut_off_errs_towards_the_middle_and_not_beyond_what_is_known(
    vocabulary: dict[str, float], most: int
) -> None:
    logprobs, absent = cut(vocabulary, most)
    reply = read_grade(Call((1,), Task.SCORE), logprobs, {"yes": 1.0, "no": 0.0}, absent)
    true = vocabulary["yes"] / (vocabulary["yes"] + vocabulary["no"])
    if {"yes", "no"} <= logprobs.keys():
        assert reply.score == pytest.approx(true)
    elif "yes" in logprobs:
        assert reply.score is not None and 0.5 <= reply.score <= true + 1e-9
    elif "no" in logprobs:
        assert reply.score is not None and true - 1e-9 <= reply.score <= 0.5
    else:
        assert reply == Reply((1,), fault="unlisted")


def test_of_two_passages_of_which_only_yes_is_listed_the_surer_one_has_the_higher_score() -> None:
    def score(yes: float, least: float) -> float | None:
        logprobs = {"yes": math.log(yes), "sure": math.log(least)}
        return read_grade(Call((1,), Task.SCORE), logprobs, {"yes": 1.0, "no": 0.0}, math.log(least)).score

    assert score(0.9, 1e-3) > score(0.6, 1e-3) > score(0.6, 1e-2)  # type: ignore[operator]


def test_tokens_that_differ_in_blanks_are_one_word() -> None:
    words = by_word([(" A", math.log(0.2)), ("A", math.log(0.3)), ("A\n", math.log(0.1)), ("a", math.log(0.05))])
    assert {word: math.exp(logprob) for word, logprob in words.items()} == pytest.approx({"A": 0.6, "a": 0.05})


@pytest.mark.parametrize(
    ("tokens", "places"),
    [
        (["<think>", " 3 ", "</think>", "<answer>", " 7", " ", "</answer>"], [4]),
        (["<answer", "> ", "1", "0", ".5", " </answer>", "9"], [2, 3, 4]),
        (["<think> none", "</think>", "7"], []),
        ([], []),
    ],
)
def test_the_tokens_that_say_a_score_are_those_with_digits_in_the_answer(tokens: list[str], places: list[int]) -> None:
    assert number_places(["".join(tokens[: end + 1]) for end in range(len(tokens))]) == places
