"""What comparison sees of a text: its words, without case, punctuation, LaTeX markup or the white space of code.

    normalised(texts)    # "Prove \\frac{a}{b} > 1." -> "prove a b 1"
    words_of(text)       # the same, of one text, as a list

A word is a run of letters and digits after NFKC, with case folded through capitals (so that sharp s and the two small
sigmas meet). LaTeX commands that only lay out (`\\left`, `\\mathrm`, `\\begin{align}`) are no words; those that name
something (`\\alpha`, `\\sum`) are. `squeezed` leaves out the spaces too: two texts with the same letters and digits
in the same order are one text to the exact test, wherever somebody put blanks.

Deliberately absent: comparing (fingerprints.py, sketches.py).
"""

import polars as pl

LAYOUT = (
    "left", "right", "middle", "big", "bigl", "bigr", "bigg", "biggl", "biggr", "text", "textbf", "textit", "textrm",
    "texttt", "textsf", "textup", "emph", "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathbb", "mathcal",
    "mathfrak", "boldsymbol", "bm", "operatorname", "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits",
    "nonumber", "notag", "label", "quad", "qquad", "hspace", "vspace", "hfill", "hline", "frac", "dfrac", "tfrac",
    "cfrac", "begin", "end", "item", "noindent", "par", "rm", "bf", "it", "cal",
)  # fmt: skip
_ENVIRONMENT = r"\\(?:begin|end)\s*\{[a-z]+\*?\}"
_MARKED = " \ue000(?:" + "|".join(LAYOUT) + ") "


def normalised(texts: pl.Series) -> pl.Series:
    """The words of each text, with one space between them."""
    separated = _folded(texts).to_frame("text").select(pl.col("text").str.replace_all(r"[^\p{L}\p{N}]+", " "))
    return separated.select(pl.col("text").str.strip_chars(" "))["text"]


def squeezed(texts: pl.Series) -> pl.Series:
    """The letters and digits of each text, without a space: equal for exact copies."""
    return normalised(texts).to_frame("text").select(pl.col("text").str.replace_all(" ", "", literal=True))["text"]


def words_of(text: str) -> list[str]:
    """The words that comparison sees."""
    return str(normalised(pl.Series([text]))[0]).split()


def prepared(texts: pl.Series) -> pl.Series:
    """Texts whose bytes alone tell the words: ASCII as it stands, or letters and digits of any script and spaces.

    Most texts are ASCII without a backslash, and pass untouched: that is what makes a million of them cheap.
    """
    named = texts.fill_null("").to_frame("text").with_row_index("place")
    plain = (pl.col("text").str.len_bytes() == pl.col("text").str.len_chars()) & ~_has_command()
    easy, hard = named.filter(plain), named.filter(~plain)
    if hard.is_empty():
        return named["text"]
    mended = hard.with_columns(text=normalised(hard["text"]))
    return pl.concat([easy, mended]).sort("place")["text"]


def _folded(texts: pl.Series) -> pl.Series:
    """Small letters, LaTeX layout gone; punctuation still there."""
    named = texts.fill_null("").to_frame("text").with_row_index("place")
    ascii_only = pl.col("text").str.len_bytes() == pl.col("text").str.len_chars()
    # Upper case first: it alone takes one letter apart into the two that its other form is written with.
    wide = pl.col("text").str.normalize("NFKC").str.to_uppercase().str.to_lowercase().str.replace_all("ς", "σ")
    parts = [
        named.filter(ascii_only).with_columns(pl.col("text").str.to_lowercase()),
        named.filter(~ascii_only).with_columns(wide.str.normalize("NFKC")),
    ]
    folded = pl.concat(parts).sort("place")
    formulas = pl.col("text")
    formulas = formulas.str.replace_all(_ENVIRONMENT, " ").str.replace_all(r"\\([a-z]+)", " \ue000${1} ")
    formulas = formulas.str.replace_all(_MARKED, " ")
    return folded.select(pl.when(_has_command()).then(formulas).otherwise("text").alias("text"))["text"]


def _has_command() -> pl.Expr:
    return pl.col("text").str.contains("\\", literal=True)
