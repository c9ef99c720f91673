"""What a writer of a format is given: the rows of a release in chunks, and texts each handed on once.

    rows = release_rows(lake, "a316c9")
    for part in rows.parts(["sft", "rl"]):              # by domain and split, in row_id order
        for frame in part.chunks(): ...

A chunk is read by a range of row ids, so a release of a million rows never stands in memory as a whole. Positions
become ids in `with_lists`. Deliberately absent: any format.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from warehouse.curation.releases import UnknownRelease
from warehouse.formats.whole_folder import ExportRefused
from warehouse.lake import Lake

CHUNK = 5_000
SPLITS = ("sft", "rl", "dev")
COLUMNS = (
    "row_id", "domain", "qid", "split", "query", "docids", "passages", "final_order", "relevant", "reasoning",
    "ranking_id", "exchange_key", "prompt_sha256", "judge", "consistency", "source", "license", "passage_licenses",
    "url", "agreement",
)  # fmt: skip
_SIZES = "SELECT domain, split, count(*) FROM training_rows WHERE release = ? GROUP BY ALL ORDER BY ALL"
_IDS = "SELECT row_id FROM training_rows WHERE release = ? AND domain = ? AND split = ? ORDER BY row_id"
_ROWS = (
    f"SELECT {', '.join(COLUMNS)} FROM training_rows "
    "WHERE release = ? AND domain = ? AND split = ? AND row_id BETWEEN ? AND ? ORDER BY row_id"
)


@dataclass(frozen=True)
class Part:
    """The rows of one domain and split, `rows` in number, in chunks by row_id."""

    domain: str
    split: str
    rows: int
    chunks: Callable[[], Iterator[pl.DataFrame]]


@dataclass(frozen=True)
class Outgoing:
    """A release on its way out, part by part."""

    release: str
    every_part: tuple[Part, ...]

    def parts(self, splits: Sequence[str] = SPLITS) -> list[Part]:
        """The parts of these splits, by domain and then split in the order given."""
        chosen = [part for part in self.every_part if part.split in splits]
        return sorted(chosen, key=lambda part: (part.domain, list(splits).index(part.split)))


def release_rows(lake: Lake, release: str) -> Outgoing:
    """A release by its hash, by a unique beginning of it, or as `newest`. Raises UnknownRelease."""
    name = _named(lake, release)

    def chunks(domain: str, split: str) -> Iterator[pl.DataFrame]:
        ids = lake.query(_IDS, [name, domain, split])["row_id"]
        for start in range(0, ids.len(), CHUNK):
            some = ids.slice(start, CHUNK)
            yield lake.query(_ROWS, [name, domain, split, some[0], some[-1]])

    sizes = lake.query(_SIZES, [name]).iter_rows()
    return Outgoing(name, tuple(Part(d, split, rows, partial(chunks, d, split)) for d, split, rows in sizes))


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


def _named(lake: Lake, release: str) -> str:
    known = lake.query("SELECT release FROM releases ORDER BY created_at DESC, release")["release"].to_list()
    if release == "newest" and known:
        return known[0]
    matches = [name for name in known if name.startswith(release)]
    if len(matches) != 1:
        listing = ", ".join(name[:12] for name in known) or "none yet: run `rankmill run`"
        raise UnknownRelease(f"release {release!r} names {len(matches)} releases. Releases: {listing}.")
    return matches[0]
