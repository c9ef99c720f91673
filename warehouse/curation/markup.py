"""Texts that were damaged on their way here: broken unicode, and HTML that nobody took out.

    broken_unicode(texts)      # U+FFFD, lone control characters, mojibake
    leftover_html(texts, 3)    # tags and entities outside code

`texts` is findings.TEXTS, each text once; ftfy looks at the few with signs of mojibake, one at a time. Code may hold
tags: what stands in a fence, in backticks or in an indented block is not looked at.

Deliberately absent: mending. Prompts repair what can be repaired when they are written (ranking/prompts.py).
"""

import polars as pl

from warehouse.curation.findings import finding

REASONS = {
    "broken_unicode": "The text holds characters that a wrong decoding left behind. Read the source as UTF-8 again.",
    "leftover_html": "The text holds HTML tags or entities outside code. Turn the source's HTML into text first.",
}
REPLACEMENT = "�"
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u{80}-\u{84}\u{86}-\u{9f}]"
# What UTF-8 read as Latin-1, Windows-1252 or the like begins with; a text without one is never bad, and most have none.
_MOJIBAKE = r"[ÃÂâÅÄËÎÐÑØÙàãðïäåæçèé][\u{80}-\u{bf}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_CODE = r"(?s)```.*?```|(?s)~~~.*?~~~|`[^`\n]*`|(?m)^(?: {4}|\t).*$"
_NAMES = (
    "p|div|span|br|hr|a|li|ul|ol|dl|dt|dd|table|tbody|thead|tr|td|th|img|h[1-6]|strong|em|script|style|blockquote|pre|"
    "code|font|center|sup|sub|iframe|section|article|nav|footer|header"
)
_TAG = rf"(?i)</?(?:{_NAMES})(?:\s+[a-z-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>]+))*\s*/?>"
_ENTITY = r"(?i)&(?:nbsp|amp|lt|gt|quot|apos|mdash|ndash|hellip|rsquo|lsquo|ldquo|rdquo|#[0-9]{2,5}|#x[0-9a-f]{2,4});"


def broken_unicode(texts: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS `broken_unicode`: how many characters tell of a wrong decoding, and which kind."""
    text = pl.col("text")
    counted = texts.with_columns(
        lost=text.str.count_matches(REPLACEMENT, literal=True),
        control=text.str.count_matches(_CONTROL),
        suspect=text.str.contains(_MOJIBAKE),
    ).filter((pl.col("lost") > 0) | (pl.col("control") > 0) | "suspect")
    badness = [_badness(text) if suspect else 0 for text, suspect in counted.select("text", "suspect").iter_rows()]
    judged = counted.with_columns(mojibake=pl.Series(badness, dtype=pl.UInt32))
    kinds = {"lost": "U+FFFD", "control": "control characters", "mojibake": "mojibake"}
    said = pl.concat_str(
        [pl.when(pl.col(name) > 0).then(pl.format("{} " + title, name)) for name, title in kinds.items()],
        separator=", ",
        ignore_nulls=True,
    )
    total = pl.sum_horizontal(*kinds)
    return finding(judged, total > 0, "broken_unicode", total, 0.0, said)


def leftover_html(texts: pl.DataFrame, least: int) -> pl.DataFrame:
    """FINDINGS `leftover_html` for texts with `least` tags and entities or more outside code."""
    outside = texts.filter(pl.col("text").str.contains("[<&]")).with_columns(
        outside=pl.col("text").str.replace_all(_CODE, "")
    )
    counted = outside.with_columns(
        marks=pl.col("outside").str.count_matches(_TAG) + pl.col("outside").str.count_matches(_ENTITY),
        first=pl.coalesce(pl.col("outside").str.extract(f"({_TAG})"), pl.col("outside").str.extract(f"({_ENTITY})")),
    )
    marks = pl.col("marks")
    return finding(counted, marks >= least, "leftover_html", marks, float(least), pl.format("{} and the like", "first"))


def _badness(text: str) -> int:
    from ftfy.badness import badness

    return badness(text)
