"""A folder of source folders that is looked at again and again: which of them are new, changed, or of no use.

    found = look(Path("/data/incoming"), known, registry.active(), seed)   # known: what the last look saw, by name
    found.arrived        # at most one source, read and passed at the door, whose content has changed
    found.known          # what the next look is given

A folder is read once its files have stood still from one look to the next, so that one that is still being copied is
left alone; one that the door refuses is read again only when a file of it has changed. One folder is read in a look: a
large one takes its time, and a look is expected to be short. What is hidden (.name) is passed over.

Deliberately absent: what becomes of an arrival, and folders that vanish: their rows stay, and their next run says so.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warehouse.intake.door import SourceError
from warehouse.intake.registry import Active
from warehouse.intake.sources import folder_sources, read_source

NEVER = ""


class NothingToWatch(LookupError):
    """The folder to watch is not there."""


@dataclass(frozen=True)
class Seen:
    """A folder as the last look found it.

    `files` and `read` are stamps of names, sizes and times: of the last look, and of the last time it was read;
    `content` is the sha256 of what last passed the door, `fault` why it did not when it was last read.
    """

    files: str
    read: str = NEVER
    content: str = NEVER
    fault: str | None = None


@dataclass(frozen=True)
class Arrival:
    """A source that may be labelled; `content` is its sha256, `files` the stamp under which it was read."""

    source: Active
    content: str
    files: str


@dataclass(frozen=True)
class Look:
    """What a look found."""

    arrived: Arrival | None
    known: Mapping[str, Seen]

    @property
    def faults(self) -> dict[str, str]:
        """Why the door refuses a folder, by its name."""
        return {name: seen.fault for name, seen in self.known.items() if seen.fault is not None}


def look(folder: Path, known: Mapping[str, Seen], active: Sequence[Active], seed: int) -> Look:
    """One look below `folder`; `active` are the sources there are. Raises NothingToWatch."""
    if not folder.is_dir():
        raise NothingToWatch(f"{folder} is not there. Make it, or name another one as `watch` in the profile.")
    arrived: Arrival | None = None
    has_read = False
    now: dict[str, Seen] = {}
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = _stamp(path)
        before = known.get(path.name, Seen(NEVER))
        if files != before.files:
            now[path.name] = Seen(files, before.read, before.content, before.fault)
        elif files == before.read or has_read:
            now[path.name] = before
        else:
            has_read = True
            now[path.name], arrived = _read(path, before, active, seed)
    return Look(arrived, now)


def _read(path: Path, before: Seen, active: Sequence[Active], seed: int) -> tuple[Seen, Arrival | None]:
    files = before.files
    try:
        (source,) = folder_sources([path])
        taken = next((other for other in active if other.domain == source.domain), None)
        if taken is not None and taken.location != str(source.path):
            where = f"{taken.kind} {taken.location}"
            return Seen(files, files, before.content, f"the domain {source.domain} is {where}; rename the folder"), None
        content = source.fingerprint()
        if content == before.content:
            return Seen(files, files, content), None
        limit = taken.limit if taken is not None else None
        read_source(source, limit, seed)
    except SourceError as error:
        return Seen(files, files, before.content, str(error)), None
    arrived = Arrival(Active(source.domain, "folder", str(source.path), limit), content, files)
    return Seen(files, files, content), arrived


def _stamp(path: Path) -> str:
    """A hash of the names, sizes and times of all files in a folder; it reads none of them."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        try:
            status = file.stat()
        except OSError:  # it has gone meanwhile, or may not be read: a change by itself
            digest.update(f"{file.name} -\n".encode())
            continue
        if not file.is_dir():
            digest.update(f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
