"""Rows as prompts and responses, made by the same builder that training uses, and prompts read back.

    form = Form(template="rank_student", think=True)
    prompts, left_out = with_prompts(frame, form, response=True)

A whole list with whole texts makes a prompt: budgets of tokens belong to a tokenizer, and so to the trainer that reads
the export. A row without a chain (where the form wants one) or without a relevant passage makes no example, as in
training, and is counted by its reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ranking.parsing import parse_answer
from ranking.prompts import load_template
from ranking.responses import renumber_chain, response
from warehouse.formats.files import FormatError

MESSAGES = pl.List(pl.Struct({"role": pl.String(), "content": pl.String()}))


@dataclass(frozen=True)
class Form:
    """Which prompt is shown, by template name or path, and whether a response opens with a chain."""

    template: str = "rank_student"
    think: bool = True


def with_prompts(frame: pl.DataFrame, form: Form, responses: bool) -> tuple[pl.DataFrame, Counter[str]]:
    """Rows with `prompt` (messages) and, where asked for, `response`; and how many were left out, by reason."""
    template = load_template(form.template)
    kept, prompts, written = [], [], []
    left_out: Counter[str] = Counter()
    rows = frame.select("query", "passages", "final_order", "relevant", "reasoning").iter_rows()
    for query, passages, order, relevant, reasoning in rows:
        chain = renumber_chain(reasoning or "", range(len(passages))) if form.think else None
        fault = "the chain is empty" if responses and chain == "" else None
        fault = fault or (None if relevant else "no relevant passage in the list")
        kept.append(fault is None)
        if fault is not None:
            left_out[fault] += 1
            continue
        prompts.append(template.messages(query, passages))
        written.append(response(order, chain) if responses else None)
    made = frame.filter(pl.Series(kept, dtype=pl.Boolean)).with_columns(
        pl.Series("prompt", prompts, dtype=MESSAGES), pl.Series("response", written, dtype=pl.String)
    )
    return made, left_out


@dataclass(frozen=True)
class Shown:
    """What a prompt shows."""

    query: str
    passages: list[str]


def read_prompt(place: str, prompt: Sequence[Mapping[str, Any]], template: str) -> Shown:
    """Query and passages of a prompt. Raises FormatError where the template did not make it."""
    user = next((message["content"] for message in prompt if message["role"] == "user"), "")
    shown = load_template(template).shown(user)
    if shown is None:
        raise FormatError(
            f"{place}: the prompt was not made with the template {template!r}. Name the one that made it with "
            "--template (a name in ranking/templates, or a file in RankLLM's format)."
        )
    return Shown(*shown)


def read_response(place: str, text: str, count: int) -> tuple[tuple[int, ...], str | None]:
    """The 0-based order and the chain (None without one) of a response. Raises FormatError."""
    think = "<think>" in text
    answer = parse_answer(text, count, think)
    if answer.order is None:
        raise FormatError(
            f"{place}: the response is no ranking of its {count} passages (fault of its {answer.fault}). It should "
            "read `<think> chain </think> <answer> [2] > [1] </answer>`, or the answer alone."
        )
    return answer.order, answer.chain if think else None
