"""What a writer of a format is given: the rows of a release in chunks, and texts each handed on once.

    rows = release_rows(lake, "a316c9").of(["sft", "rl"])
    for frame in rows.chunks(): ...                     # in row_id order
    for split, frame in rows.by("split"): ...           # the same, each chunk taken apart

A release is read once, by ranges of row ids, so that a million rows never stand in memory as a whole; a writer keeps a
file open for each domain or split. Positions become ids in `with_lists`. Deliberately absent: any format.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from warehouse.curation.releases import UnknownRelease, known_release
from warehouse.formats.whole_folder import ExportRefused
from warehouse.lake import Lake

CHUNK = 5_000
SPLITS = ("sft", "rl", "dev")
COLUMNS = (
    "row_id", "domain", "qid", "split", "query", "docids", "passages", "final_order", "relevant", "reasoning",
    "ranking_id", "exchange_key", "prompt_sha256", "judge", "consistency", "source", "license", "passage_licenses",
    "url", "agreement",
)  # fmt: skip


@dataclass(frozen=True)
class Outgoing:
    """A release on its way out: rows by (domain, split), and a function that gives all of them in chunks."""

    release: str
    sizes: Mapping[tuple[str, str], int]
    chunks: Callable[[], Iterator[pl.DataFrame]]

    def of(self, splits: Sequence[str]) -> "Outgoing":
        """Its rows in these splits alone."""

        def chunks() -> Iterator[pl.DataFrame]:
            for frame in self.chunks():
                chosen = frame.filter(pl.col("split").is_in(list(splits)))
                if chosen.height:
                    yield chosen

        return Outgoing(self.release, {key: rows for key, rows in self.sizes.items() if key[1] in splits}, chunks)

    def by(self, column: Literal["domain", "split"]) -> Iterator[tuple[str, pl.DataFrame]]:
        """The chunks, each taken apart by domain or by split."""
        for frame in self.chunks():
            for part in frame.partition_by(column, maintain_order=True):
                yield str(part[column][0]), part

    @property
    def domains(self) -> list[str]:
        """Domains that have rows."""
        return sorted({domain for domain, _ in self.sizes})

    @property
    def splits(self) -> list[str]:
        """Splits that have rows, sft first."""
        return [split for split in SPLITS if any(split == held for _, held in self.sizes)]

    def rows_of(self, split: str) -> int:
        """Rows of a split."""
        return sum(rows for (_, held), rows in self.sizes.items() if held == split)


def release_rows(lake: Lake, release: str) -> Outgoing:
    """A release by its hash, by a unique beginning of it, or as `newest`. Raises UnknownRelease."""
    name = newest_release(lake) if release == "newest" else known_release(lake, release)
    sizes = lake.read("training_rows", {"release": name}, ["domain", "split"]).group_by("domain", "split").len()
    counted = {(domain, split): rows for domain, split, rows in sizes.iter_rows()}
    return Outgoing(name, counted, lambda: lake.pieces("training_rows", "row_id", CHUNK, {"release": name}, COLUMNS))


def with_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with `initial_list`, `final_list` and `relevant_docids`: ids in place of positions."""
    return frame.with_columns(
        initial_list="docids",
        final_list=pl.col("docids").list.gather(pl.col("final_order")),
        relevant_docids=pl.col("docids").list.gather(pl.col("relevant")),
    )


class Texts:
    """Texts by their ids, each handed on once; an id with two texts is refused, for no format can hold both."""

    def __init__(self, noun: str, domain: str) -> None:
        self._noun = noun
        self._domain = domain
        self._known: dict[str, int] = {}

    def fresh(self, ids: pl.Series, texts: pl.Series) -> pl.DataFrame:
        """(id, text) of those that did not come before, in the order they come. Raises ExportRefused."""
        frame = pl.DataFrame({"id": ids, "text": texts}).unique(maintain_order=True)
        frame = frame.with_columns(hash=pl.col("text").hash(seed=0))
        fresh = []
        for name, digest in frame.select("id", "hash").iter_rows():
            known = self._known.get(name)
            if known is not None and known != digest:
                raise ExportRefused(
                    f"{self._noun} {name!r} of {self._domain} stands in the release with two texts, and this format "
                    "holds one text an id. Nothing was written. Export with --format hub, which keeps each row whole."
                )
            fresh.append(known is None)
            self._known[name] = digest
        return frame.select("id", "text").filter(pl.Series(fresh, dtype=pl.Boolean))


def newest_release(lake: Lake) -> str:
    known = lake.read("releases", columns=["created_at", "release"]).sort("created_at", "release")
    if known.is_empty():
        raise UnknownRelease("there is no release yet. Make one with `rankmill run`.")
    return str(known["release"][-1])
