"""Whether a lake is whole: every file there and unaltered, every release still what its name says.

    verified = verify(lake)
    verified.errors      # what is wrong, each with what to do; empty where all is well
    verified.notes       # what is worth knowing and harms nothing

Files are compared with the catalog (names, sizes) and with the checksums that commits wrote down; releases are read and
hashed again; materializations must have read a snapshot that exists. A file that the catalog does not name is a note:
a writer that was killed leaves one, and nothing reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from warehouse.catalog import LakeError
from warehouse.curation.releases import stored_digests
from warehouse.curation.rows import still_named
from warehouse.files import FoundFile, NamedFile, found_files, kept_checksums, named_files, sha256_of
from warehouse.lake import Lake

BACKUP = "Restore it from a backup of the lake's data folder; without one, name an intact lake with --home."
FRESH_S = 3600.0  # a file younger than this may belong to a commit that is under way


@dataclass(frozen=True)
class Finding:
    """Something that verify saw: its kind, what it concerns, what is the matter, and what to do."""

    kind: str
    what: str
    detail: str
    remedy: str


@dataclass(frozen=True)
class Verified:
    """What was looked at, what is wrong with it, and what is only worth knowing."""

    files: int
    bytes: int
    checksums: int
    releases: int
    errors: tuple[Finding, ...]
    notes: tuple[Finding, ...]


def verify(lake: Lake) -> Verified:
    """Look at every file and release of a lake; writes nothing."""
    connection, place = lake.connection(), lake.place
    # What lies there is listed before what is named: a commit between the two cannot look like a stray file.
    found = {file.path: file for file in found_files(connection, place)}
    named = named_files(connection)
    kept = kept_checksums(place)
    missing = [file for file in named if file.path not in found and not _appeared(place.data_path, file)]
    there = [file for file in named if file.path in found]
    altered = _altered(there, found, kept, Path(place.data_path))
    names = {file.path for file in named}
    stray = [file for path, file in sorted(found.items()) if path not in names]
    releases, wrong = _releases(lake)
    errors = [
        *(Finding("missing", file.path, f"a file of {file.table}, added by snapshot {file.snapshot}, is gone", BACKUP)
          for file in missing),
        *altered, *wrong, *_unread_snapshots(lake),
    ]  # fmt: skip
    return Verified(
        len(named),
        sum(file.size for file in named),
        sum(file.path in kept for file in there),
        releases,
        tuple(errors),
        (*_strays(stray), *_unrecorded(there, kept, place.remote)),
    )


def sweep(lake: Lake, least_age_s: float = FRESH_S) -> list[str]:
    """Delete files that no snapshot names and that no commit under way can be writing; returns their paths."""
    if lake.place.remote:
        raise LakeError("files in a bucket are swept by a rule of the bucket, not from here.")
    found = found_files(lake.connection(), lake.place)
    names = {file.path for file in named_files(lake.connection())}
    swept = [file.path for file in found if file.path not in names and (file.age or 0.0) >= least_age_s]
    for path in swept:
        (Path(lake.place.data_path) / path).unlink(missing_ok=True)
    return sorted(swept)


def _appeared(data_path: str, file: NamedFile) -> bool:
    """Whether a file that was not listed is there after all: its commit came between the two looks."""
    return not data_path.startswith("s3://") and (Path(data_path) / file.path).is_file()


def _altered(
    there: Sequence[NamedFile], found: dict[str, FoundFile], kept: dict[str, str], root: Path
) -> list[Finding]:
    told = []
    for file in there:
        if found[file.path].size != file.size:
            detail = f"a file of {file.table} has {found[file.path].size:,} bytes; the catalog says {file.size:,}"
        elif file.path in kept and sha256_of(root / file.path) != kept[file.path]:
            detail = f"a file of {file.table} holds other bytes than snapshot {file.snapshot} wrote"
        else:
            continue
        told.append(Finding("altered", file.path, detail, BACKUP))
    return told


def _releases(lake: Lake) -> tuple[int, list[Finding]]:
    entries = lake.read("releases", columns=["release", "rows"])
    told = []
    for release, rows in entries.iter_rows():
        name = f"release {release[:12]}"
        try:
            read = stored_digests(lake, release)
        except (duckdb.Error, LakeError) as error:
            first = str(error).splitlines()[0]
            told.append(Finding("unreadable", name, f"its rows cannot be read: {first}", "Mend the files named here."))
            continue
        if read.height != rows:
            detail = f"{read.height} rows are there; the release was made with {rows}"
            told.append(Finding("release", name, detail, "Do not train on it. " + BACKUP))
        elif not still_named(read, release):
            detail = f"its {rows} rows no longer hash to its name"
            told.append(Finding("release", name, detail, "Do not train on it. " + BACKUP))
    return entries.height, told


def _unread_snapshots(lake: Lake) -> list[Finding]:
    known = set(lake.snapshots()["snapshot_id"].to_list())
    made = lake.read("materializations", columns=["asset", "partition_key", "read_snapshot"])
    gone = made.filter(~pl.col("read_snapshot").is_in(list(known)))
    remedy = "Materialize it again; somebody expired snapshots of this lake."
    return [
        Finding("snapshot", f"{asset} {key}".strip(), f"it was made from snapshot {at}, which is not there", remedy)
        for asset, key, at in gone.iter_rows()
    ]


def _strays(stray: Sequence[FoundFile]) -> list[Finding]:
    remedy = (
        "Harmless: no table reads it. A writer that was killed leaves such files, and one at work has some too; "
        "`rankmill lake verify --sweep` deletes those older than an hour."
    )
    return [Finding("orphaned", file.path, f"{file.size:,} bytes that no snapshot names", remedy) for file in stray]


def _unrecorded(there: Sequence[NamedFile], kept: dict[str, str], remote: bool) -> list[Finding]:
    if remote:
        return []
    # The tables of the schema itself are written before there is a commit to keep checksums.
    without = [file.path for file in there if file.path not in kept and file.table != "schema_migrations"]
    if not without:
        return []
    detail = f"{len(without)} files have no checksum, the first {without[0]}; only their size was compared"
    remedy = "Harmless: their writer was stopped right after its commit, or the checksums folder was not copied."
    return [Finding("no_checksum", "files", detail, remedy)]
