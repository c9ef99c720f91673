"""Backup and restore: the same home out of one file, whoever wrote meanwhile; and nothing out of a damaged file."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from later_releases import release_now
from small_lake import message

from warehouse.audit.verify import verify
from warehouse.backup import MANIFEST, Backup, BackupRefused, DamagedBackup, back_up, restore
from warehouse.catalog import Place
from warehouse.curation.releases import read_release
from warehouse.files import named_files
from warehouse.lake import Append, Lake, Replace, opened
from warehouse.ledger import Product
from warehouse.production import Made, Performed, Shop, Step, perform

# Commits of two tables that must agree, until its parent goes.
WRITER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import polars as pl
import small_lake
from warehouse.lake import Append, Lake, Replace

lake, parent, number = Lake.at(Path(sys.argv[1])), os.getppid(), 0
while os.getppid() == parent:
    number += 1
    rows = small_lake.candidates("writer", 50, score=float(number))
    log = pl.DataFrame({"asset": ["writer"], "key": [str(number)]})
    writes = [Replace("candidates", rows, {"domain": "writer"}), Append("rejections", log)]
    print(lake.commit(writes, small_lake.message()), flush=True)
    time.sleep(0.1)
"""


FILES = (
    "models/reasonrank/sft-1/model.safetensors",
    "models/reasonrank/.sft-2.7.part/model.safetensors",
    "models/base/smollm2/model.safetensors",
    "releases/abc/rows.parquet",
    "work/candidates.parquet",
    "sources.yaml",
    "dagster/storage/run/logs",
)


def place(home: Path) -> Place:
    return Lake.place_in(home / "lake")


def step(home: Path) -> Step:
    """A step that writes a page beside its rows, as reports and checkpoints are."""

    def work(_: Shop) -> Mapping[str, Made]:
        page = home / "reports" / "page.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text("<html></html>", "utf-8")
        return {"page": Made(Product((), "content", 0, 0), links={"report": str(page)})}

    return Step(("page",), "", {}, work, [("queries", ["math"])])


def made_again(lake: Lake, home: Path) -> Performed:
    return perform(lake, step(home), "run-2", home=home)


@pytest.fixture(scope="module")
def mill(filled_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a release, a model, answers, a page and a run."""
    home = tmp_path_factory.mktemp("mill") / "home"
    shutil.copytree(filled_lake, home / "lake")
    with opened(Lake.at(home / "lake")) as lake:
        release_now(lake)
        row = {"model": "model-1", "recipe": "reasonrank", "stage": "sft", "path": "models/reasonrank/sft-1"}
        lake.commit([Append("models", pl.DataFrame([row]))], message("models"))
        perform(lake, step(home), "run-1", home=home)
    for name in FILES:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(name.encode() * 1000)
    with closing(sqlite3.connect(home / "exchanges.sqlite")) as store:
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("CREATE TABLE exchanges (key TEXT)")
        store.execute("INSERT INTO exchanges VALUES ('paid')")
        store.commit()
    with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
        instance.add_dynamic_partitions("domain", ["math"])

        @dg.job
        def nothing() -> None:
            """A job without ops."""

        instance.create_run_for_job(nothing, run_id="11111111-1111-1111-1111-111111111111")
    return home


@pytest.fixture
def home(mill: Path, tmp_path: Path) -> Path:
    shutil.copytree(mill, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def kept(mill: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the home."""
    out = tmp_path_factory.mktemp("kept") / "mill.tar.gz"
    back_up(mill, place(mill), out)
    return out


def test_a_restored_home_is_the_same_home_without_the_old_one(home: Path, tmp_path: Path) -> None:
    out, new = tmp_path / "mill.tar.gz", tmp_path / "new"
    with opened(Lake.at(home / "lake")) as lake:
        before, snapshot = lake.read("training_rows").sort("row_id"), lake.snapshot()
    writing = sqlite3.connect(home / "exchanges.sqlite")  # open, and in the middle of a transaction
    writing.execute("INSERT INTO exchanges VALUES ('not committed')")
    made = back_up(home, place(home), out)
    writing.close()
    assert (made.snapshot, made.notes, made.packed) == (snapshot, (), out.stat().st_size)
    shutil.rmtree(home)
    new.mkdir()
    restored = restore(out, new)
    assert (restored.files, restored.bytes) == (made.files, made.bytes)
    assert (restored.verified.errors, restored.verified.notes) == ((), ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mill.tar.gz", "new"]
    for name in ("models/reasonrank/sft-1/model.safetensors", "releases/abc/rows.parquet", "sources.yaml"):
        assert (new / name).read_bytes() == name.encode() * 1000
    assert not (new / "models/base").exists()
    assert not (new / "work").exists()
    assert [path.name for path in (new / "models/reasonrank").iterdir()] == ["sft-1"]
    with closing(sqlite3.connect(new / "exchanges.sqlite")) as store:
        assert store.execute("SELECT key FROM exchanges").fetchall() == [("paid",)]
    with dg.DagsterInstance.local_temp(str(new / "dagster")) as instance:
        assert [run.job_name for run in instance.get_runs()] == ["nothing"]
        assert instance.get_dynamic_partitions("domain") == ["math"]
    with opened(Lake.at(new / "lake")) as lake:
        assert lake.snapshot() == snapshot
        assert lake.read("training_rows").sort("row_id").equals(before)
        assert read_release(lake, before["release"][0]).height == before.height
        # The page lies in the new home, and nothing is made again for it.
        assert made_again(lake, new).committed is None
        (new / "reports/page.html").unlink()
        assert made_again(lake, new).committed is not None


def test_a_backup_beside_a_writer_is_the_lake_at_one_commit(empty_lake: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(empty_lake, home / "lake")
    words = [sys.executable, "-c", WRITER, str(home / "lake"), str(Path(__file__).parent)]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        made: list[Backup] = []
        for n in range(2):
            held = made[-1].snapshot if made else 0
            next(line for line in writer.stdout if int(line) > held)  # a commit that the last backup does not hold
            made.append(back_up(home, place(home), tmp_path / f"{n}.tar.gz"))
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    numbers = []
    for n in range(2):
        restored = restore(tmp_path / f"{n}.tar.gz", tmp_path / f"home-{n}")
        assert restored.verified.errors == ()
        with opened(Lake.at(tmp_path / f"home-{n}" / "lake")) as lake:
            assert lake.snapshot() == made[n].snapshot
            log = lake.read("rejections", {"asset": "writer"})["key"].cast(pl.Int64).sort().to_list()
            assert log == list(range(1, len(log) + 1))
            rows = lake.read("candidates", {"domain": "writer"})
            assert rows["score"].to_list() == [float(log[-1])] * 50
            # It can be written to as the old one could.
            lake.commit([Replace("candidates", rows, {"domain": "writer"})], message())
            assert verify(lake).errors == ()
            numbers.append(log[-1])
    assert numbers[1] > numbers[0]


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:size]


def flipped(share: float) -> Callable[[bytes], bytes]:
    def flip(whole: bytes) -> bytes:
        at = int(share * (len(whole) - 1))
        return whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]

    return flip


@pytest.mark.parametrize(
    "damage",
    [cut(0), cut(9), cut(50_000), cut(-1), cut(-8), cut(-2000), *(flipped(s) for s in (0, 0.001, 0.3, 0.7, 0.99, 1.0)),
     lambda whole: whole + b"more", lambda _: b"no archive at all", lambda _: gzip.compress(b"no tar file" * 100)],
)  # fmt: skip
def test_a_cut_or_altered_backup_is_refused_and_leaves_nothing(
    kept: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "bad.tar.gz").write_bytes(damage(kept.read_bytes()))
    with pytest.raises(DamagedBackup, match=r"[Nn]othing was restored"):
        restore(tmp_path / "bad.tar.gz", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar.gz"]


def repacked(backup: Path, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """A backup whose members somebody changed, and packed in good order."""
    with tarfile.open(backup) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    change(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def other_format(members: dict[str, bytes]) -> None:
    members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), "format": 2}).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda members: members.pop("sources.yaml"), "1 files are not what its manifest says, the first sources.yaml"),
        (lambda members: members.update({"sources.yaml": b"other"}), "the first sources.yaml"),
        (lambda members: members.update({"stray": b""}), "the first stray"),
        (lambda members: members.update({"../stray": b""}), "holds '../stray'"),
        (lambda members: members.update({"/stray": b""}), "holds '/stray'"),
        (lambda members: members.pop(MANIFEST), "holds no manifest.json"),
        (lambda members: members.update({MANIFEST: b"{"}), "is not JSON"),
        (other_format, "of format 2, and this version reads 1"),
    ],
)
def test_a_repacked_backup_is_refused_and_leaves_nothing(
    kept: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    (tmp_path / "bad.tar.gz").write_bytes(repacked(kept, change))
    with pytest.raises(DamagedBackup, match=said):
        restore(tmp_path / "bad.tar.gz", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar.gz"]


@pytest.fixture
def untouched(home: Path, tmp_path: Path) -> Iterator[Path]:
    """The home; whatever is refused leaves it and its folder as they were."""
    before = sorted(path.name for path in tmp_path.iterdir())
    yield home
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "there.tar.gz") == before


def test_nothing_is_written_over_and_a_shared_lake_names_what_to_use(
    untouched: Path, kept: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.tar.gz"
    there.write_bytes(b"older")
    with pytest.raises(BackupRefused, match="never written over"):
        back_up(untouched, place(untouched), there)
    assert there.read_bytes() == b"older"
    with pytest.raises(BackupRefused, match="not empty"):
        restore(kept, untouched)
    shared = Place("postgres:dbname=lake", "s3://bucket/lake/")
    with pytest.raises(BackupRefused, match=r"pg_dump.*bucket"):
        back_up(untouched, shared, tmp_path / "new.tar.gz")
    with pytest.raises(BackupRefused, match="rankmill run"):
        back_up(tmp_path / "nowhere", place(tmp_path / "nowhere"), tmp_path / "new.tar.gz")


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_lake_that_is_not_whole_is_not_kept_as_if_it_were(untouched: Path, tmp_path: Path, damage: str) -> None:
    with opened(Lake.at(untouched / "lake")) as lake:
        root = Path(lake.place.data_path)
        path = next(root / file.path for file in named_files(lake.connection()) if file.table == "rankings")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(content)
    with pytest.raises(BackupRefused, match=f"of rankings is {damage}"):
        back_up(untouched, place(untouched), tmp_path / "new.tar.gz")


def test_a_model_whose_files_are_gone_is_noted(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "models/reasonrank/sft-1")
    made = back_up(home, place(home), tmp_path / "new.tar.gz")
    assert [note.partition(" are not")[0] for note in made.notes] == ["the files of model model-1"]
