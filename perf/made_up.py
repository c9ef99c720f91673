"""Texts by rule for benchmarks: words with Zipf's frequencies, the same for the same generator.

Absent on purpose: sense. What is measured on them is time, memory and size, never quality.
"""

import numpy as np
import polars as pl

VOCABULARY = 50_000
FREQUENT = ("the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on")
AT_ONCE = 3_000_000  # words that are drawn together: gigabytes otherwise, where texts are long


def texts(count: int, length: int, draw: np.random.Generator) -> pl.Series:
    """`count` texts of `length` words with Zipf's frequencies; a word is two syllables and sometimes a third."""
    parts = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    made_up = [parts[n % 70] + parts[n // 70 % 70] + (parts[n // 4900] if n >= 4900 else "") for n in range(VOCABULARY)]
    words = pl.Series([*FREQUENT, *made_up[: VOCABULARY - len(FREQUENT)]])
    made = []
    step = max(1, AT_ONCE // length)
    for first in range(0, count, step):
        some = min(step, count - first)
        places = (draw.zipf(1.15, some * length) - 1) % VOCABULARY
        made.append(words.gather(places).reshape((some, length)).arr.to_list().list.join(" "))
    return pl.concat(made)
