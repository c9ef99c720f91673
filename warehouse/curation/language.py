"""In which language a text is, where that can be told: prose of another language than the policy allows.

    foreign_language(texts, ("en",), certainty=0.9)

Three sieves, cheap ones first. Code, formulas, numbers and addresses are taken out; what has too few words left is not
judged, for nobody can tell. English prose shows by its function words and needs no more. The rest, a small share, goes
to py3langid, one text at a time.

Deliberately absent: which languages a text mixes; one answer a text.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import polars as pl

from warehouse.curation.findings import finding, none_found

REASONS = {
    "foreign_language": "A text is in a language that the policy does not allow. Drop it, or add the language.",
}
LEAST_WORDS = 8  # prose with fewer words is not judged
LEAST_CHARACTERS = 20  # of a script that does not part its words by blanks
JUDGED_CHARACTERS = 1000  # more of a text tells the identifier nothing new
FUNCTION_SHARE = 0.08  # English prose has 0.2 to 0.3 of these words, other languages next to none
# Without those that other languages have too (in, is, was, of, on, we, so, will, an, do, …).
_FUNCTION = [
    "the",
    "and",
    "to",
    "that",
    "for",
    "it",
    "with",
    "are",
    "be",
    "by",
    "you",
    "not",
    "or",
    "from",
    "have",
    "has",
    "his",
    "they",
    "but",
    "what",
    "which",
    "when",
    "how",
    "if",
    "can",
    "does",
    "their",
    "would",
    "my",
    "your",
    "who",
    "where",
    "why",
    "than",
    "then",
    "these",
    "this",
    "there",
    "could",
    "should",
    "because",
    "into",
    "about",
    "its",
    "were",
    "been",
]
_NO_PROSE = (
    r"(?s)```.*?```|(?s)\$\$.*?\$\$|\$[^$\n]{1,200}\$|`[^`\n]*`|\\[a-zA-Z]+|https?://\S+|\S+@\S+|(?m)^(?: {4}|\t).*$|"
    r"[\p{L}\p{N}_]*[\p{N}_(){}\[\]=<>\\/|#^*&+~][^\s]*"
)
_WORD = r"[\p{L}'’]+"
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


def foreign_language(texts: pl.DataFrame, languages: Sequence[str], certainty: float) -> pl.DataFrame:
    """FINDINGS `foreign_language` for `texts` (findings.TEXTS) that are surely in none of `languages` (ISO 639-1)."""
    english = rf"(?i)(?-u:\b)(?:{'|'.join(_FUNCTION)})(?-u:\b)"
    prose = texts.with_columns(prose=pl.col("text").str.slice(0, 4000))
    if "en" in languages:  # on the whole text first: nearly all English prose ends here
        share = pl.col("prose").str.count_matches(english) / (pl.col("prose").str.count_matches(r"\s+") + 1)
        prose = prose.filter(share < 2 * FUNCTION_SHARE)
    prose = prose.with_columns(pl.col("prose").str.replace_all(_NO_PROSE, " ")).with_columns(
        words=pl.col("prose").str.count_matches(_WORD), unspaced=pl.col("prose").str.count_matches(_UNSPACED)
    )
    prose = prose.filter((pl.col("words") >= LEAST_WORDS) | (pl.col("unspaced") >= LEAST_CHARACTERS))
    if "en" in languages:
        prose = prose.filter(pl.col("prose").str.count_matches(english) < FUNCTION_SHARE * pl.col("words"))
    if prose.is_empty():
        return none_found()
    identifier = _identifier()
    told = [identifier.classify(text) for text in prose["prose"].str.slice(0, JUDGED_CHARACTERS)]
    judged = prose.with_columns(
        language=pl.Series([name for name, _ in told], dtype=pl.String),
        sure=pl.Series([float(share) for _, share in told], dtype=pl.Float64),
    )
    known = [*languages, "pcm"] if "en" in languages else list(languages)  # Nigerian Pidgin: short English queries
    foreign = (pl.col("sure") >= certainty) & ~pl.col("language").is_in(known)
    return finding(judged, foreign, "foreign_language", pl.col("sure"), certainty, pl.col("language"))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
