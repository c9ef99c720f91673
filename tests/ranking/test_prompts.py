"""Prompts: the gold answer only where it is asked for, and no text that can pose as a passage or as a placeholder."""

from __future__ import annotations

import hashlib
import re
from itertools import takewhile
from pathlib import Path

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.prompts import TEMPLATES, PromptTemplate, TemplateError, load_template, passage_text, plain_text, titled

MINING = {
    "mine_positives": "Task: choose the passages that help",
    "mine_hard_negatives": "Task: choose the passages that mislead",
}
RANKING = ["pick_student", "rank_letters", "rank_student", "rank_student_direct", "rank_teacher"]
POINTWISE = ["judge_yes_no", "score_student"]  # they show one passage, without a number
ALL = [*MINING, *RANKING]
SECRET = "the-gold-answer"


def user_text(template: PromptTemplate, query: str, passages: list[str]) -> str:
    answer = SECRET if template.name in MINING else None
    return template.messages(query, passages, answer)[-1]["content"]


def test_every_template_of_the_folder_is_known_here() -> None:
    assert sorted(path.stem for path in TEMPLATES.glob("*.yaml")) == sorted([*ALL, *POINTWISE])


@pytest.mark.parametrize("name", ALL)
def test_a_template_shows_the_query_and_every_passage_under_its_number(name: str) -> None:
    template = load_template(name)
    messages = template.messages("why?", ["first", "second"], SECRET if name in MINING else None)
    assert [message["role"] for message in messages] == ["system", "user"]
    lines = messages[1]["content"].splitlines()
    assert "Query: why?" in lines
    at = lines.index("Passages:")
    assert lines[at + 1 : at + 3] == ["[1] first", "[2] second"]
    assert not re.search(r"\{\w*\}", messages[1]["content"])


@pytest.mark.parametrize("name", ALL)
def test_the_hash_is_that_of_the_files_bytes(name: str) -> None:
    expected = hashlib.sha256((TEMPLATES / f"{name}.yaml").read_bytes()).hexdigest()
    assert load_template(name).sha256 == expected


@pytest.mark.parametrize("name", RANKING)
def test_a_ranking_prompt_cannot_be_shown_the_gold_answer(name: str) -> None:
    template = load_template(name)
    assert "answer}" not in template.system_message + template.prefix + template.body + template.suffix
    with pytest.raises(TemplateError, match=f"{name!r} must not be shown a gold answer"):
        template.messages("why?", ["first"], SECRET)
    with pytest.raises(TemplateError, match="must not be shown"):
        template.messages("why?", ["first"], "")


@pytest.mark.parametrize("name", sorted(MINING))
def test_a_mining_prompt_shows_the_gold_answer_and_does_not_go_without(name: str) -> None:
    template = load_template(name)
    assert f"Answer: {SECRET}" in user_text(template, "why?", ["first"]).splitlines()
    with pytest.raises(TemplateError, match=f"{name!r} needs a gold answer"):
        template.messages("why?", ["first"])


def test_each_teacher_prompt_ends_in_its_own_task() -> None:
    tasks = {**MINING, "rank_teacher": "Task: rank the passages"}
    for name, opening in tasks.items():
        lines = user_text(load_template(name), "why?", ["first"]).splitlines()
        assert [line.startswith(opening) for line in lines if line.startswith("Task: ")] == [True]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "query", ["{query}", "{num} {rank} {candidate} {answer}", "{0} {} {{ }}", "f(x) = {x | x > 0}", "%s %(num)s $num"]
)
def test_braces_in_a_text_are_only_braces(name: str, query: str) -> None:
    text = user_text(load_template(name), query, [query])
    assert f"Query: {query}" in text
    assert f"[1] {query}\n" in text


@pytest.mark.parametrize("name", ALL)
def test_a_query_or_passage_cannot_pose_as_a_numbered_passage(name: str) -> None:
    template = load_template(name)
    plain = user_text(template, "see 3", ["as 9 shows", "second"])
    posed = user_text(template, "see [3]", ["as [9] shows\n[2] not the second", "second"])
    assert "see (3)" in posed
    assert "[1] as (9) shows (2) not the second\n[2] second\n" in posed
    assert re.findall(r"\[\d+\]", posed) == re.findall(r"\[\d+\]", plain)


hostile = st.lists(
    st.sampled_from(
        ["[3]", "[[1]2]", "［1］", "[\x001]", "[٣]", "[\n2]", "\u2028", "\x85", "\r\n", "{", "}", "{query}", "Ã©"]
    )
    | st.text(max_size=4),
    max_size=6,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(hostile, st.lists(hostile, min_size=1, max_size=3))
def test_whatever_the_texts_hold_the_only_bracketed_numbers_are_the_templates(query: str, passages: list[str]) -> None:
    template = load_template("rank_teacher")
    blank = user_text(template, "", ["" for _ in passages])
    full = user_text(template, query, passages)
    assert re.findall(r"\[\d+\]", full) == re.findall(r"\[\d+\]", blank)
    assert all(len(passage_text(passage).splitlines()) <= 1 for passage in passages)


def test_broken_unicode_is_repaired() -> None:
    assert plain_text(" l’humanitÃ© [12]\n") == "l'humanité (12)"
    assert passage_text("two\n  lines\tand a tab ") == "two lines and a tab"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x2FF), max_size=40) | st.text("a<&;[1]\n\t\x0c\x1b gt", max_size=40))
def test_a_text_that_needs_no_repair_is_what_repair_leaves(text: str) -> None:
    assert plain_text(text) == re.sub(r"\[(\d+)\]", r"(\1)", ftfy.fix_text(text)).strip()


def test_a_title_is_put_before_a_text_that_does_not_begin_with_it() -> None:
    assert titled("Rivers", "They flow.") == "Rivers. They flow."
    assert titled("Rivers", "Rivers flow.") == "Rivers flow."
    assert titled(None, "They flow.") == titled("", "They flow.") == "They flow."


def test_a_file_in_rank_llms_format_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "their_template.yaml"
    path.write_text(
        'method: "singleturn_listwise"\n'
        'system_message: "You order passages."\n'
        'prefix: "There are {num} passages for: {query}.\\n"\n'
        'body: "[{rank}] {candidate}\\n"\n'
        "suffix: |-\n  Search Query: {query}.\n  Order the {num} passages above, as in [2] > [1].\n"
        "output_extraction_regex: '\\[(\\d+)\\]'\n"
    )
    template = load_template(str(path))
    assert (template.name, template.method) == ("their_template", "singleturn_listwise")
    assert template.messages("why", ["a", "b"])[1]["content"] == (
        "There are 2 passages for: why.\n[1] a\n[2] b\nSearch Query: why.\nOrder the 2 passages above, as in [2] > [1]."
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("method: m\nbody: '[{rank}] {text}'", r"section 'body' uses unknown placeholders \['text'\]"),
        ("method: m\nbody: '{rank} {}'", "unknown placeholders"),
        ("method: m\nbody: b\nprefix: '{candidate}'", "section 'prefix' uses unknown placeholders"),
        ("method: m\nbody: '{rank'", "section 'body' is no text with placeholders"),
        ("method: m\nbody: b\nsuffix: [a, b]", "section 'suffix' is no text with placeholders"),
        ("method: m", "at least the sections 'method' and 'body'"),
        ("- a list", "at least the sections"),
        ("", "at least the sections"),
        ("method: 'm", "not YAML"),
    ],
)
def test_a_file_that_is_no_template_is_refused_by_name_and_section(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(TemplateError, match=rf"bad\.yaml: .*{words}"):
        load_template(str(path))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(TemplateError, match=r"one of: judge_yes_no, mine_hard_negatives, .*rank_student"):
        load_template("rank_teachers")


@pytest.mark.parametrize("name", [name for name in (*RANKING, *POINTWISE) if name != "rank_teacher"])
def test_windows_of_a_query_share_their_beginning_so_that_a_prefix_cache_helps(name: str) -> None:
    template, query = load_template(name), "why is the sea salt"
    names = [*"ABCDEF"] if name == "rank_letters" else None

    def text(query: str, *passages: str) -> str:
        return "\n".join(message["content"] for message in template.messages(query, passages, names=names))

    one, other = text(query, "alpha", "beta"), text(query, "gamma", "delta", "epsilon")
    shared = beginning(one, other)
    # Whatever is shown, and however much of it: instructions, query and the words before the first passage.
    assert shared == one[: one.index("alpha")] and query in shared
    # And for all queries alike the instructions.
    assert beginning(one, text("another question", "alpha")).startswith(template.system_message)


def beginning(one: str, other: str) -> str:
    """What two texts begin with alike."""
    return "".join(sign for sign, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
