"""A home as one file, and a home out of such a file: lake, answers, models, releases, reports, run history, sources.

    made = back_up(home, settings.lake_place, Path("mill.tar.gz"))      # others may write meanwhile
    restored = restore(Path("mill.tar.gz"), Path("/new/home"))          # empty or absent; all of it or nothing

The lake is taken at one snapshot: a copy of its catalog first, then the Parquet files that the copy names, which are
never altered once they are named. What is copied later (answers, models) can only be newer, so nothing that the lake
names is missing. SQLite files are copied by SQLite itself, in one transaction each. The file's last member is a
manifest with the sha256 of every other one; without it, or with one wrong, nothing is restored.

Deliberately absent: what is made again for nothing (the untouched base model, logs, work files of runs under way),
increments, encryption, and what servers have backups of their own for: lakes that many machines share, and a run
history in PostgreSQL.
"""

import gzip
import hashlib
import json
import os
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from warehouse.audit.verify import Verified, verify
from warehouse.catalog import Place
from warehouse.files import CHECKSUMS, NamedFile, kept_checksums, named_files
from warehouse.lake import Lake, now, opened

FORMAT = 1
MANIFEST = "manifest.json"
FOLDERS = ("models", "releases", "reports")  # taken whole, but for the base model's cache and what is half-written
BASE_MODEL = Path("models", "base")
CATALOG = "lake/meta.sqlite"
BLOCK = 1 << 20
_FASTEST = 1  # Parquet and bf16 weights hardly shrink, and time goes into nothing else


class BackupRefused(RuntimeError):
    """A backup or a restore that cannot be made; the message says why and what to do. Nothing was written."""


class DamagedBackup(RuntimeError):
    """A file that is no whole, unaltered backup. Nothing was restored."""


@dataclass(frozen=True)
class Backup:
    """What was kept: files and their bytes, the lake's snapshot, and what is worth knowing."""

    files: int
    bytes: int
    packed: int
    snapshot: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    """What came out of a backup, when that was made, and what verify says of the lake."""

    files: int
    bytes: int
    made_at: str
    verified: Verified


@dataclass
class _Writer:
    """Files on their way into the archive, and the manifest that grows with them."""

    archive: tarfile.TarFile
    files: dict[str, dict[str, str | int]] = field(default_factory=dict)

    def add(self, path: Path, name: str) -> str:
        """Put a file in under a name; returns its sha256."""
        with path.open("rb") as file:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = os.fstat(file.fileno()).st_size, int(path.stat().st_mtime)
            read = _Hashed(file)
            self.archive.addfile(entry, read)
        self.files[name] = {"sha256": read.digest.hexdigest(), "bytes": entry.size}
        return read.digest.hexdigest()


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        block = self.file.read(size)
        self.digest.update(block)
        return block


def back_up(home: Path, place: Place, out: Path) -> Backup:
    """Write the backup of a home; `out` appears whole, at the end. Raises BackupRefused."""
    if place != Lake.place_in(home / "lake"):
        raise BackupRefused(_shared(home, place))
    if not (home / CATALOG).is_file():
        raise BackupRefused(f"there is no lake in {home}. Make one with `rankmill run`, or name another --home.")
    if out.exists():
        raise BackupRefused(f"{out} is there already, and a backup is never written over. Name another file.")
    if not out.absolute().parent.is_dir():
        raise BackupRefused(f"there is no folder {out.absolute().parent}. Make it, or name another file.")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as folder:
        part, catalog = Path(folder) / "part", Path(folder) / "catalog.sqlite"
        with tarfile.open(part, "w:gz", compresslevel=_FASTEST) as archive:
            writer = _Writer(archive)
            _copy_sqlite(home / CATALOG, catalog)
            writer.add(catalog, CATALOG)
            snapshot, named, models = _look_into(catalog, place)
            notes = [
                f"the files of model {model[:12]} are not in {home / path}"
                for model, path in models
                if not (home / path).is_dir()
            ]
            _add_lake(writer, home, place, named, snapshot)
            for path in _others(home):
                try:
                    writer.add(path, path.relative_to(home).as_posix())
                except FileNotFoundError:  # replaced while we were at work; what the lake names was there before
                    notes.append(f"{path} went while the backup was made")
            for n, path in enumerate(_databases(home)):
                copy = Path(folder) / f"{n}.sqlite"  # a name of its own: what SQLite leaves beside one is not another's
                _copy_sqlite(path, copy)
                writer.add(copy, path.relative_to(home).as_posix())
                copy.unlink()
            told = {"format": FORMAT, "made_at": now(), "snapshot": snapshot, "notes": notes, "files": writer.files}
            manifest = Path(folder) / MANIFEST
            manifest.write_text(json.dumps(told, indent=1), "utf-8")
            files = dict(writer.files)
            writer.add(manifest, MANIFEST)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        packed = part.stat().st_size
        part.replace(out)
    return Backup(len(files), sum(int(file["bytes"]) for file in files.values()), packed, snapshot, tuple(notes))


def restore(backup: Path, home: Path) -> Restored:
    """Make `home` out of a backup: every hash is compared and the lake verified before it appears.

    Raises BackupRefused where `home` holds anything, DamagedBackup.
    """
    if not backup.is_file():
        raise BackupRefused(f"there is no file {backup}.")
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BackupRefused(f"{home} is not empty, and nothing is restored over anything. Name a new --home.")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=home.parent) as folder:
        root = Path(folder) / "home"
        try:
            manifest, digests = _unpack(backup, root)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedBackup(
                f"{backup} cannot be read to its end ({error}): it was cut off or altered, or is no backup. Nothing "
                "was restored. Take another backup."
            ) from None
        files = _as_promised(backup, manifest, digests)
        with opened(Lake.at(root / "lake")) as lake:
            verified = verify(lake)
        if verified.errors:
            first = verified.errors[0]
            raise DamagedBackup(
                f"the lake in {backup} is not whole: {first.kind} {first.what}: {first.detail}. Nothing was restored. "
                "Take another backup."
            )
        root.replace(home)  # an empty folder gives way
    return Restored(len(files), sum(int(file["bytes"]) for file in files.values()), manifest["made_at"], verified)


def _shared(home: Path, place: Place) -> str:
    """What keeps a factory whose lake many machines share, in the order in which it is kept."""
    told = (
        f"this lake is shared ({place.catalog.partition(':')[0]} catalog, files at {place.data_path}). Back it up "
        "where it is: first `pg_dump` of the catalog's database, then the files (versioning or replication of the "
        "bucket, or a copy of the folder), since a catalog names only files that are there. Of this home keep "
        f"{home / 'exchanges.sqlite'} (`sqlite3 exchanges.sqlite '.backup COPY'` while it is written to), "
        f"{home / 'models'} and {home / 'sources.yaml'}."
    )
    if (home / CATALOG).is_file():
        told += (
            f" The lake in {home} that was used before is kept without RANKMILL_LAKE_CATALOG and RANKMILL_LAKE_DATA."
        )
    return told


def _copy_sqlite(source: Path, target: Path) -> None:
    """A database as it is at one moment, whoever writes to it."""
    with closing(sqlite3.connect(source, timeout=60)) as ours, closing(sqlite3.connect(target)) as theirs:
        ours.backup(theirs)


def _look_into(catalog: Path, place: Place) -> tuple[int, list[NamedFile], list[tuple[str, str]]]:
    """The newest snapshot of a copied catalog, all files that it names, and every model's folder below the home."""
    with closing(Place(f"sqlite:{catalog}", place.data_path).attach(read_only=True)) as connection:
        newest = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
        models = connection.execute("SELECT model, path FROM lake.models").fetchall()
        return int(newest[0]) if newest else 0, named_files(connection), models


def _add_lake(writer: _Writer, home: Path, place: Place, named: list[NamedFile], snapshot: int) -> None:
    root, kept = Path(place.data_path), kept_checksums(place)
    lists = [path for path in (root / CHECKSUMS).glob("*.json") if path.stem.isdecimal()]
    for path in sorted(lists):
        if int(path.stem) <= snapshot:
            writer.add(path, path.relative_to(home).as_posix())
    for file in named:
        path = root / file.path
        name = path.relative_to(home).as_posix()
        digest = writer.add(path, name) if path.is_file() else None
        if digest is None or writer.files[name]["bytes"] != file.size or kept.get(file.path, digest) != digest:
            raise BackupRefused(
                f"the lake is not whole: {path} of {file.table} is {'gone' if digest is None else 'altered'}. Nothing "
                "was kept. `rankmill lake verify` names all that is wrong."
            )


def _others(home: Path) -> Iterator[Path]:
    """Files of models, releases, reports and sources; none that is half-written, and not the base model's cache."""
    if (home / "sources.yaml").is_file():
        yield home / "sources.yaml"
    for folder in FOLDERS:
        for path in sorted((home / folder).rglob("*")):
            below = path.relative_to(home)
            unfinished = any(part.startswith(".") or part.endswith(".part") for part in below.parts)
            if not unfinished and not below.is_relative_to(BASE_MODEL) and path.is_file():
                yield path


def _databases(home: Path) -> list[Path]:
    """The exchange store, and the run history as Dagster keeps it in SQLite."""
    store = home / "exchanges.sqlite"
    return [*([store] if store.is_file() else []), *sorted((home / "dagster").rglob("*.db"))]


def _unpack(backup: Path, root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Write out all files of a backup below `root`; its manifest, and the sha256 of each file as it came."""
    digests: dict[str, str] = {}
    with gzip.open(backup) as packed:
        with tarfile.open(fileobj=packed, mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isreg() or name.is_absolute() or ".." in name.parts or member.name in digests:
                    raise DamagedBackup(f"{backup} holds {member.name!r}, which no backup holds. Nothing was restored.")
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = _Hashed(archive.extractfile(member))  # type: ignore[arg-type]  # a regular file has one
                with target.open("xb") as file:
                    while block := source.read(BLOCK):
                        file.write(block)
                digests[member.name] = source.digest.hexdigest()
        while packed.read(BLOCK):  # to the very end, where gzip's own checksum stands
            pass
    manifest = root / MANIFEST
    if not manifest.is_file():
        raise DamagedBackup(f"{backup} holds no {MANIFEST}: it was cut off, or is no backup. Nothing was restored.")
    try:
        told = json.loads(manifest.read_bytes())
    except ValueError as error:
        raise DamagedBackup(f"the {MANIFEST} of {backup} is not JSON ({error}). Nothing was restored.") from None
    manifest.unlink()
    del digests[MANIFEST]
    return told, digests


def _as_promised(backup: Path, manifest: dict[str, Any], digests: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The files of the manifest, if they are those that came, byte for byte. Raises DamagedBackup."""
    if manifest.get("format") != FORMAT:
        raise DamagedBackup(
            f"{backup} is of format {manifest.get('format')!r}, and this version reads {FORMAT}. Nothing was restored. "
            "Use the version of rankmill that made it."
        )
    files: dict[str, dict[str, Any]] = manifest["files"]
    wrong = sorted(name for name in {*files, *digests} if files.get(name, {}).get("sha256") != digests.get(name))
    if wrong:
        raise DamagedBackup(
            f"{backup} was altered: {len(wrong)} files are not what its manifest says, the first {wrong[0]}. Nothing "
            "was restored. Take another backup."
        )
    return files
