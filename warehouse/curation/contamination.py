"""Whether a training query also stands in a benchmark: exactly after normalisation, or by a shared 13-gram of words.

Words are runs of letters and digits after case folding and NFKC, so case, punctuation, white space and another way to
write the same letter do not hide a copy. A
benchmark query of 8 to 12 words is caught as a whole inside a longer training text, a shorter one by the exact test.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

import polars as pl

NGRAM = 13
WHOLE = 8  # a shorter benchmark query counts as found inside a longer text only from this many words on
_WORD = re.compile(r"[^\W_]+")
FINDING_SCHEMA = {"key": pl.String, "benchmark": pl.String, "item": pl.String, "test": pl.String, "shared": pl.String}


def words_of(text: str) -> list[str]:
    """The words that comparison sees."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised_sha256(text: str) -> str:
    """The hash under which two texts are exact copies after normalisation."""
    return hashlib.sha256(" ".join(words_of(text)).encode()).hexdigest()


def ngrams(words: list[str], length: int = NGRAM) -> Iterator[str]:
    """Word n-grams, each as one string."""
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


class BenchmarkIndex:
    """Benchmark queries, indexed once for both tests."""

    def __init__(self, items: Iterable[tuple[str, str, str]]) -> None:
        """`items` are (benchmark, qid, text)."""
        self._exact: dict[str, tuple[str, str]] = {}
        self._grams: dict[str, tuple[str, str]] = {}
        self._lengths = {NGRAM}
        for benchmark, qid, text in items:
            words = words_of(text)
            if not words:
                continue
            self._exact.setdefault(" ".join(words), (benchmark, qid))
            if WHOLE <= len(words) < NGRAM:
                self._lengths.add(len(words))
                self._grams.setdefault(" ".join(words), (benchmark, qid))
            for gram in ngrams(words):
                self._grams.setdefault(gram, (benchmark, qid))

    def find(self, key: str, text: str) -> tuple[str, str, str, str, str] | None:
        """(key, benchmark, item, test, shared words) of the first match, or None where `text` is clean."""
        words = words_of(text)
        whole = " ".join(words)
        if whole in self._exact:
            return (key, *self._exact[whole], "exact", whole[:200])
        for length in sorted(self._lengths, reverse=True):
            for gram in ngrams(words, length):
                if gram in self._grams:
                    return (key, *self._grams[gram], f"{length}-gram", gram)
        return None


def contaminated(texts: pl.DataFrame, benchmarks: pl.DataFrame) -> pl.DataFrame:
    """Findings (FINDING_SCHEMA) for `texts` (key, text) against `benchmarks` (benchmark, qid, text)."""
    index = BenchmarkIndex(benchmarks.select("benchmark", "qid", "text").iter_rows())
    findings = (index.find(key, text) for key, text in texts.select("key", "text").iter_rows())
    return pl.DataFrame([found for found in findings if found], schema=FINDING_SCHEMA, orient="row")
