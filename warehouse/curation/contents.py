"""What the texts of a list say that they should not: every content check, by one policy.

    judged = contents(ContentsPolicy())(lists)    # masked texts go on, and every fault is a decision with its reason

Each passage is read once however many lists hold it. Bounds are fixed and not relative to the other rows, so that a
row's decision is the same whatever else is released beside it.

Deliberately absent: the checks (markup, language, injection, pii, chains), and copies and benchmarks, which are
filters of their own.
"""

from collections.abc import Callable
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from warehouse.curation import chains, injection, language, markup, pii
from warehouse.curation.filters import MASKED, REJECTED, WARNED, Filter, Judged, Lists, decide
from warehouse.curation.findings import FAULTS, finding, on_lists

CONTENTS = "contents"
Action = Literal["reject", "warn", "off"]
MaskAction = Literal["mask", "reject", "warn", "off"]
OUTCOME = {"reject": REJECTED, "warn": WARNED, "mask": MASKED}
REASONS = {
    "text_too_short": "A text is shorter than the policy's least. Look whether the source was cut, or lower the bound.",
    "text_too_long": "A text is longer than the policy's most. Split it at the source, or raise the bound.",
    **markup.REASONS,
    **language.REASONS,
    **injection.REASONS,
    **pii.REASONS,
    **chains.REASONS,
}


class ContentsPolicy(BaseModel):
    """What is done about each fault of a text: reject the list, warn of it, mask the words, or do not look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = Field(("en",), min_length=1, description="Languages that texts may be in (ISO 639-1).")
    language: Action = Field("reject", description="Prose in another language.")
    certainty: float = Field(0.9, gt=0, le=1, description="How sure the language must be to count as another one.")
    length: Action = Field("reject", description="Texts outside the bounds below.")
    least_chars: int = Field(3, ge=0, description="Fewest characters of a query or a passage.")
    most_chars: int = Field(20_000, ge=1, description="Most characters of a query or a passage.")
    most_chain_chars: int = Field(100_000, ge=1, description="Most characters of a chain.")
    unicode: Action = Field(
        "warn", description="U+FFFD, control characters, mojibake. Prompts repair what can be repaired."
    )
    html: Action = Field("warn", description="HTML tags and entities outside code.")
    html_marks: int = Field(3, ge=1, description="Tags and entities from which a text counts as HTML.")
    empty_chain: Action = Field("reject", description="A chain without text.")
    phantom: Action = Field("reject", description="A chain that quotes a passage number that the list has not.")
    leak: Action = Field("reject", description="A chain that repeats the gold answer.")
    leak_words: int = Field(10, ge=5, description="Words in a row, shown to the teacher nowhere, that make a leak.")
    injection: Action = Field("reject", description="A query or passage that gives orders to the model.")
    email: MaskAction = Field("mask", description="E-mail addresses.")
    phone: MaskAction = Field("mask", description="Telephone numbers.")
    card: MaskAction = Field("mask", description="Payment card numbers.")
    iban: MaskAction = Field("mask", description="Bank account numbers.")
    key: MaskAction = Field("mask", description="Access keys and private keys.")


def contents(policy: ContentsPolicy) -> Filter:
    """A filter that does with each fault of a text (REASONS) what `policy` says."""

    def judge(lists: Lists) -> Judged:
        texts = _texts(lists)
        faults = [
            on_lists(lists.rows, unit, found, OUTCOME[action])
            for unit, action, check in _checks(policy)
            for found in [check(texts[unit])]
        ]
        faults += [
            on_lists(lists.rows, "chain", found, OUTCOME[action]) for action, found in _chain_faults(lists, policy)
        ]
        faults.append(_personal(lists, texts, policy))
        judged = decide(lists, CONTENTS, pl.concat([FAULTS.to_frame(), *faults]))
        return Judged(_masked(judged.lists, policy), judged.decisions)

    return judge


def _texts(lists: Lists) -> dict[str, pl.DataFrame]:
    """findings.TEXTS by unit."""
    rows = lists.rows
    return {
        "query": rows.select("domain", id="ranking_id", text="query"),
        "passage": lists.passages.select("domain", id="docid", text="text"),
        "chain": rows.select("domain", id="ranking_id", text="reasoning"),
    }


def _checks(policy: ContentsPolicy) -> list[tuple[str, Action, Callable[[pl.DataFrame], pl.DataFrame]]]:
    """The checks of single texts that are on: unit, action, check."""

    def foreign(texts: pl.DataFrame) -> pl.DataFrame:
        return language.foreign_language(texts, policy.languages, policy.certainty)

    def html(texts: pl.DataFrame) -> pl.DataFrame:
        return markup.leftover_html(texts, policy.html_marks)

    def length(texts: pl.DataFrame) -> pl.DataFrame:
        return _length(texts, policy.least_chars, policy.most_chars)

    def chain_length(texts: pl.DataFrame) -> pl.DataFrame:
        return _length(texts, 0, policy.most_chain_chars)

    every = ("query", "passage", "chain")
    planned: list[tuple[tuple[str, ...], Action, Callable[[pl.DataFrame], pl.DataFrame]]] = [
        (every, policy.language, foreign),
        (("query", "passage"), policy.length, length),
        (("chain",), policy.length, chain_length),
        (every, policy.unicode, markup.broken_unicode),
        (every, policy.html, html),
        (("query", "passage"), policy.injection, injection.prompt_injection),
    ]
    return [(unit, action, check) for units, action, check in planned if action != "off" for unit in units]


def _length(texts: pl.DataFrame, least: int, most: int) -> pl.DataFrame:
    measured = texts.with_columns(length=pl.col("text").str.len_chars().cast(pl.Int64))
    length = pl.col("length")
    said = pl.format("{} characters", "length")
    return pl.concat(
        [
            finding(measured, length < least, "text_too_short", length, float(least), said),
            finding(measured, length > most, "text_too_long", length, float(most), said),
        ]
    )


def _chain_faults(lists: Lists, policy: ContentsPolicy) -> list[tuple[Action, pl.DataFrame]]:
    """Faults of chains that take the list to see: action, FINDINGS."""
    found: list[tuple[Action, pl.DataFrame]] = []
    if policy.empty_chain != "off":
        found.append((policy.empty_chain, chains.empty_chains(lists.rows)))
    if policy.phantom != "off":
        found.append((policy.phantom, chains.phantom_passages(lists.rows)))
    if policy.leak != "off":
        found.append((policy.leak, chains.gold_answer_leaks(lists.rows, lists.passages, policy.leak_words)))
    return found


def _personal(lists: Lists, texts: dict[str, pl.DataFrame], policy: ContentsPolicy) -> pl.DataFrame:
    """A fault for each list and kind; its value counts the hits in all texts of the list."""
    parts = [FAULTS.to_frame()]
    for kind in pii.KINDS:
        action = getattr(policy, kind)
        if action != "off":
            parts += [
                on_lists(lists.rows, unit, pii.personal(some, (kind,)), OUTCOME[action], total=True)
                for unit, some in texts.items()
            ]
    return (
        pl.concat(parts)
        .group_by("ranking_id", "outcome", "reason", maintain_order=True)
        .agg(pl.col("value").sum(), pl.col("threshold").first(), pl.col("detail").str.join("; "))
        .select(list(FAULTS))
    )


def _masked(lists: Lists, policy: ContentsPolicy) -> Lists:
    kinds = tuple(kind for kind in pii.KINDS if getattr(policy, kind) == "mask")
    rows = lists.rows.with_columns(pii.masked(lists.rows[name], kinds) for name in ("query", "reasoning"))
    return Lists(rows, lists.passages.with_columns(pii.masked(lists.passages["text"], kinds)))
