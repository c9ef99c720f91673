"""Verify: every kind of damage to a lake is found by name with what to do, and an intact lake is clean."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from later_releases import release_now
from small_lake import candidates, message

from warehouse.audit.verify import sweep, verify
from warehouse.files import CHECKSUMS, kept_checksums, named_files, sha256_of
from warehouse.lake import Append, Lake, Replace


@pytest.fixture
def released(factory_lake: Lake) -> Lake:
    release_now(factory_lake)
    return factory_lake


def file_of(lake: Lake, table: str) -> Path:
    named = [file for file in named_files(lake.connection()) if file.table == table]
    return Path(lake.place.data_path) / named[-1].path


def found(lake: Lake) -> list[tuple[str, str]]:
    return [(wrong.kind, wrong.what) for wrong in verify(lake).errors]


def test_an_intact_lake_is_clean_and_every_file_of_a_commit_has_a_checksum(released: Lake) -> None:
    told = verify(released)
    assert (told.errors, told.notes) == ((), ())
    written = [file for file in named_files(released.connection()) if file.table != "schema_migrations"]
    assert told.checksums == len(written) > 10
    assert told.releases == 1
    root = Path(released.place.data_path)
    assert all(kept_checksums(released.place)[file.path] == sha256_of(root / file.path) for file in written)


def test_a_missing_file_is_named_with_its_table_and_snapshot(released: Lake) -> None:
    gone = file_of(released, "rankings")
    gone.unlink()
    (wrong,) = verify(released).errors
    assert (wrong.kind, Path(wrong.what).name) == ("missing", gone.name)
    assert "rankings" in wrong.detail
    assert "backup" in wrong.remedy


def test_a_missing_file_of_a_release_makes_the_release_unreadable(released: Lake) -> None:
    file_of(released, "training_rows").unlink()
    assert [kind for kind, _ in found(released)] == ["missing", "unreadable"]


def test_a_changed_byte_is_found_although_the_size_is_right(released: Lake) -> None:
    path = file_of(released, "rankings")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    (wrong,) = verify(released).errors
    assert (wrong.kind, Path(wrong.what).name) == ("altered", path.name)
    assert "other bytes" in wrong.detail


def test_a_file_that_was_cut_off_is_found_without_its_checksum(released: Lake) -> None:
    for path in (Path(released.place.data_path) / CHECKSUMS).iterdir():
        path.unlink()
    path = file_of(released, "rankings")
    path.write_bytes(path.read_bytes()[:-7])
    told = verify(released)
    (wrong,) = told.errors
    assert wrong.kind == "altered"
    assert f"has {path.stat().st_size:,} bytes" in wrong.detail
    assert [note.kind for note in told.notes] == ["no_checksum"]


@pytest.mark.parametrize("damage", ["row", "value"])
def test_a_release_whose_rows_were_changed_through_the_lake_is_named(released: Lake, damage: str) -> None:
    rows = released.read("training_rows")
    changed = rows.head(rows.height - 1) if damage == "row" else rows.with_columns(query=rows["query"] + " ")
    released.commit([Replace("training_rows", changed)], message("somebody"))
    (wrong,) = verify(released).errors
    assert (wrong.kind, wrong.what) == ("release", f"release {rows['release'][0][:12]}")
    assert "Do not train on it" in wrong.remedy


def test_a_stray_file_is_a_note_and_is_swept_once_it_is_old(lake: Lake) -> None:
    lake.commit([Append("candidates", candidates("math", 3))], message())
    ours = file_of(lake, "candidates")
    stray, fresh = (ours.with_name(f"ducklake-{name}.parquet") for name in ("stray", "fresh"))
    for path in (stray, fresh):
        path.write_bytes(ours.read_bytes())
    os.utime(stray, (time.time() - 7200,) * 2)
    told = verify(lake)
    assert told.errors == ()
    assert [(note.kind, Path(note.what).name) for note in told.notes] == [
        ("orphaned", fresh.name), ("orphaned", stray.name),
    ]  # fmt: skip
    assert [Path(path).name for path in sweep(lake)] == [stray.name]
    assert (stray.exists(), fresh.exists(), ours.exists()) == (False, True, True)
    assert lake.read("candidates").height == 3


def test_what_was_made_from_a_snapshot_that_is_gone_is_named(released: Lake) -> None:
    made = released.read("materializations").with_columns(read_snapshot=999)
    released.commit([Replace("materializations", made)], message("somebody"))
    assert {kind for kind, _ in found(released)} == {"snapshot"}


def test_deletes_and_moved_lakes_verify_as_well(new_lake: Callable[[str], Lake], tmp_path: Path) -> None:
    lake = new_lake("first")
    lake.commit([Append("candidates", candidates("math", 9))], message())
    lake.commit([Append("candidates", candidates("coding", 9))], message())
    lake.connection().execute("DELETE FROM lake.candidates WHERE rank = 3")  # leaves a delete file
    assert any(file.path.endswith("-delete.parquet") for file in named_files(lake.connection()))
    lake.close()
    (tmp_path / "first").rename(tmp_path / "second")
    moved = Lake.at(tmp_path / "second")
    assert verify(moved).errors == ()
    moved.close()
