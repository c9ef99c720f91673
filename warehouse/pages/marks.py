"""The marks of a retraction on what people read of a release: its card and the quality report.

    marks_of(lake, release)                              # sentences, the oldest first
    mark_written(lake, release, home / "releases", home / "reports")

Card and report are written with the marks of their day, between two comments that name the release; a retraction that
comes later fills in what stands between them, so that nobody reads an old page and takes the release for a good one.

Deliberately absent: the marks themselves (audit/retraction.py), and Croissant and OpenLineage, which have no such word.
"""

import os
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from warehouse.lake import Lake

_END = "<!-- /marks -->"
_MARKS = """
    SELECT x.selector, x.value, x.reason, x.who, x.retracted_at, m.successor
    FROM retraction_marks m JOIN retractions x USING (retraction)
    WHERE m.unit = 'release' AND m.id = ? ORDER BY x.retracted_at, x.retraction
"""


def marks_of(lake: Lake, release: str) -> list[str]:
    """What was taken back of a release, by whom, when and why, and what stands in its place; a sentence each."""
    told = []
    for row in lake.query(_MARKS, [release]).iter_rows(named=True):
        place = f"release {row['successor'][:12]} stands" if row["successor"] else "no release stands"
        told.append(
            f"Retracted by {row['who']} on {row['retracted_at'][:10]} ({row['selector']} {row['value']}): "
            f"{row['reason']}; {place} in its place."
        )
    return told


def on_page(release: str, marks: Sequence[str]) -> str:
    """The marks as HTML."""
    return _between(release, "".join(f'<p class="fault bad"><b>{escape(mark)}</b></p>' for mark in marks))


def on_card(release: str, marks: Sequence[str]) -> str:
    """The marks as Markdown."""
    return _between(release, "\n" + "".join(f"\n> **{escape(' '.join(mark.split()))}**\n" for mark in marks) + "\n")


def mark_written(lake: Lake, release: str, releases: Path, reports: Path) -> list[Path]:
    """Put the marks of `release` on its card and on the report that shows it, where they were written; their paths."""
    marks = marks_of(lake, release)
    written: dict[Path, Callable[[str, Sequence[str]], str]] = {
        releases / release[:12] / "README.md": on_card,
        reports / "data_quality.html": on_page,
    }
    return [path for path, render in written.items() if _filled_in(path, release, render(release, marks))]


def _between(release: str, told: str) -> str:
    return f"{_begin(release)}{told}{_END}"


def _begin(release: str) -> str:
    return f"<!-- marks of {release} -->"


def _filled_in(path: Path, release: str, told: str) -> bool:
    """Whether `path` is of this release; then `told` stands in it in place of its marks."""
    if not path.is_file():
        return False
    text = path.read_text("utf-8")
    marked = re.sub(f"(?s){re.escape(_begin(release))}.*?{re.escape(_END)}", lambda _: told, text)
    if marked != text:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(marked, "utf-8")
        part.replace(path)
    return _begin(release) in text
