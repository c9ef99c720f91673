"""A folder that is written whole or not at all, with a manifest of what it holds.

    with whole_folder(out, overwrite=False) as folder:
        (folder / "rows.jsonl").write_text(...)
        write_manifest(folder, {"format": "trl", "release": name})

Everything is written beside `out` under a temporary name, flushed to disk and renamed at the end, so that a stop
half-way leaves `out` as it was. Only a folder with a manifest is ever replaced: nobody's own files are removed.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "export.json"


class ExportRefused(ValueError):
    """Nothing was written: the folder is taken, or the format cannot hold what the release holds."""


@contextlib.contextmanager
def whole_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends without an error. Raises ExportRefused."""
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link and replace what it points to
    _refuse_taken(out, overwrite)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for path in [*sorted(part.rglob("*")), part]:
            _flush(path)
        _put_in_place(part, out)
        _flush(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_manifest(folder: Path, told: Mapping[str, Any]) -> None:
    """What an export is, for whoever finds the folder later."""
    (folder / MANIFEST).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _refuse_taken(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / MANIFEST).is_file():
        raise ExportRefused(
            f"{out} exists and is no export of rankmill (it holds no {MANIFEST}), so it is not replaced. "
            "Nothing was written. Name another folder with --out."
        )
    if not overwrite:
        raise ExportRefused(
            f"{out} already holds an export. Nothing was written. Name another folder with --out, or replace this one "
            "with --overwrite."
        )


def _put_in_place(part: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
