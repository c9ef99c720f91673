"""Prompt templates in RankLLM's YAML format, and the messages made from them.

    template = load_template("rank_teacher")
    messages = template.messages(query, passages)

A template file holds `method`, `system_message`, `prefix`, `body`, `suffix`, `output_validation_regex` and
`output_extraction_regex`; its placeholders are RankLLM's ({num}, {query}, {rank}, {candidate}) and, in the two mining
templates alone, {answer}. A path to one of RankLLM's own files works as well as a name from ranking/templates.
No few-shot examples and no multi-turn methods: nothing here uses them.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from string import Formatter

import ftfy
import yaml

TEMPLATES = Path(__file__).parent / "templates"
KNOWN_PLACEHOLDERS = {
    "prefix": {"num", "query", "answer"},
    "body": {"rank", "candidate"},
    "suffix": {"num", "query", "answer"},
}
_BRACKETED_NUMBER = re.compile(r"\[(\d+)\]")
_WHITE_SPACE = re.compile(r"\s+")
_WHOLE = re.compile(r"[\t\n\x20-\x25\x27-\x7e]*")  # ASCII without `&` and control characters: nothing to repair
_BODY_HERE = "{body}"


class TemplateError(ValueError):
    """A prompt template that cannot be used; the message names the file and the section."""


@dataclass(frozen=True)
class PromptTemplate:
    """A listwise prompt. `sha256` is over the file's bytes and stands on every row that the prompt helped to make."""

    name: str
    method: str
    system_message: str
    prefix: str
    body: str
    suffix: str
    sha256: str

    @property
    def wants_answer(self) -> bool:
        """Whether the gold answer is shown, as in mining alone."""
        return "{answer}" in self.prefix + self.suffix

    def messages(
        self, query: str, passages: Sequence[str], answer: str | None = None, names: Sequence[str] | None = None
    ) -> list[dict[str, str]]:
        """Chat messages that show `query`, the gold `answer` where the template asks for one, and numbered passages.

        Passages are numbered from 1 in the order given, or called by `names` (letters, where a model was trained so).
        Raises TemplateError when the template wants an answer and none is given, or the reverse: a ranking prompt must
        never see the gold answer (METHOD: teacher labels).
        """
        if self.wants_answer != (answer is not None):
            raise TemplateError(
                f"template {self.name!r} {'needs' if self.wants_answer else 'must not be shown'} a gold answer. "
                f"Use a mining template to show one and a ranking template to hide it."
            )
        fields = {"num": len(passages), "query": plain_text(query), "answer": plain_text(answer or "")}
        body = "".join(
            self.body.format(rank=number if names is None else names[number - 1], candidate=passage_text(passage))
            for number, passage in enumerate(passages, start=1)
        )
        user = self.prefix.format(**fields) + body + self.suffix.format(**fields)
        system = [{"role": "system", "content": self.system_message}] if self.system_message else []
        return [*system, {"role": "user", "content": user}]

    def shown(self, user: str) -> tuple[str, list[str]] | None:
        """The query and the passages that a user message of this template shows; None where it is not one.

        The inverse of `messages`, up to what `plain_text` and `passage_text` do: those texts never hold `[n]`, and a
        passage is one line.
        """
        around = _pattern(self.prefix + _BODY_HERE + self.suffix)
        match = re.fullmatch(around, user, re.DOTALL)
        if match is None or "query" not in match.groupdict():
            return None
        before, between, after = (re.escape(part) for part in re.split(r"\{rank\}|\{candidate\}", self.body))
        one = re.compile(f"{before}(\\d+){between}([^\n]*){after}")
        passages: list[str] = []
        end = 0
        while found := one.match(match["body"], end):
            if int(found[1]) != len(passages) + 1:
                return None
            passages.append(found[2])
            end = found.end()
        return (match["query"], passages) if end == len(match["body"]) and passages else None


def _pattern(template: str) -> str:
    """A regular expression for what a template becomes: a group for each field, the same text wherever it repeats."""
    forms = {"query": ".*?", "body": ".*", "num": r"\d+", "answer": ".*?"}
    pattern, seen = "", set()
    for literal, field, _, _ in Formatter().parse(template):
        pattern += re.escape(literal)
        if field is not None:
            pattern += f"(?P={field})" if field in seen else f"(?P<{field}>{forms[field]})"
            seen.add(field)
    return pattern


def plain_text(text: str) -> str:
    """Text with broken unicode repaired and `[n]` written as `(n)`, so that no text can pose as a passage number."""
    repaired = text if _WHOLE.fullmatch(text) else ftfy.fix_text(text)  # ftfy takes milliseconds for a page of code
    return _BRACKETED_NUMBER.sub(r"(\1)", repaired).strip()


@lru_cache(maxsize=2**14)  # a passage stands in many prompts, most of them soon after another
def passage_text(text: str) -> str:
    """A passage as one line of plain text."""
    return _WHITE_SPACE.sub(" ", plain_text(text))


def titled(title: str | None, text: str) -> str:
    """What a model reads of a passage: its title, where it has one that its text does not already begin with."""
    return text if not title or text.startswith(title) else f"{title}. {text}"


@cache
def load_template(name: str) -> PromptTemplate:
    """The template `name` of ranking/templates, or the file at the path `name`. Raises TemplateError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else TEMPLATES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.yaml")))
        raise TemplateError(f"no prompt template at {path}. Give a path to a .yaml file or one of: {known}.")
    content = path.read_bytes()
    try:
        sections = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise TemplateError(
            f"{path}: not YAML ({error}). Quote text that holds a colon, or use a block (|)."
        ) from error
    if not isinstance(sections, dict) or not {"method", "body"} <= sections.keys():
        raise TemplateError(f"{path}: a prompt template needs at least the sections 'method' and 'body'.")
    for section, known_placeholders in KNOWN_PLACEHOLDERS.items():
        try:
            used = {field for _, field, _, _ in Formatter().parse(sections.get(section, "")) if field is not None}
        except (TypeError, ValueError) as error:
            raise TemplateError(
                f"{path}: section {section!r} is no text with placeholders ({error}). "
                f"Write a literal brace as {{{{ or }}}}."
            ) from error
        if used - known_placeholders:
            raise TemplateError(
                f"{path}: section {section!r} uses unknown placeholders {sorted(used - known_placeholders)}; "
                f"known there: {sorted(known_placeholders)}. Write a literal brace as {{{{ or }}}}."
            )
    return PromptTemplate(
        name=path.stem,
        method=sections["method"],
        system_message=sections.get("system_message", "").strip(),
        prefix=sections.get("prefix", ""),
        body=sections["body"],
        suffix=sections.get("suffix", ""),
        sha256=hashlib.sha256(content).hexdigest(),
    )
