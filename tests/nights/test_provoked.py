"""A disk that is full, a catalog that is held, a clock that jumps: the error is clear, and the next run goes on."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("assets", "flows"))

from mills import mill, write_folder
from test_unattended_runs import CENTS, home_of, label

from assets.tags import NIGHT
from flows.nights import night_at
from flows.resynthesis import label_all, plan_all
from inference.standin.server import running_standin
from inference.store import ExchangeStore
from warehouse import lake as lakes
from warehouse.audit.verify import verify
from warehouse.catalog import LakeError
from warehouse.lake import Lake

HERE = Path(__file__).resolve().parent
IN_FLIGHT = 8  # of mills.mill
SILENT = print if "-s" in sys.argv else (lambda _: None)
# A disk of its own for one process; both end together.
ON_A_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=48m none "$0" && exec "$@"']
# What a process of its own does in a home: take its source into the lake, or label it.
PHASE = """
import json, sys
from pathlib import Path
folder, url, does = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split()
sys.path += sys.argv[4:]
from mills import mill
from flows.resynthesis import label_all, plan_all
from inference.clerk import StoreUnusable
from warehouse.audit.verify import verify
from warehouse.catalog import LakeError
from warehouse.intake.steps import source_step
from warehouse.production import perform


def silent(_):
    pass


told, factory = {"error": None}, mill(folder, {"land": int(does[1])}, url)
try:
    if does[0] == "read":
        perform(factory.lake, source_step(factory.active[0], 0), "a run")
    else:
        label_all(factory, plan_all(factory, False, silent), silent, silent)
    told["damage"], told["rankings"] = list(verify(factory.lake).errors), factory.lake.read("rankings").height
except (StoreUnusable, LakeError) as error:
    told["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
# On the disk: what is full, and when.
FULL = """
import json, os, sqlite3, subprocess, sys
from contextlib import closing
from pathlib import Path
disk, url, phase, *paths = Path(sys.argv[1]), *sys.argv[2:]
ballast = disk / "ballast"

def count(file, table):
    with closing(sqlite3.connect(disk / file)) as base:
        return base.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

def done(does, room=None):
    if room is not None:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(b"x" * (free - room))
    command = [sys.executable, "-c", phase, str(disk), url, does, *paths]
    told = subprocess.run(command, capture_output=True, text=True)
    ballast.unlink(missing_ok=True)
    assert told.returncode == 0, told.stderr[-3000:]
    answers = count("exchanges.sqlite", "exchanges") if (disk / "exchanges.sqlite").exists() else 0
    return {**json.loads(told.stdout), "answers": answers, "snapshots": count("lake/meta.sqlite", "ducklake_snapshot")}

print(json.dumps([
    done("read 40"), done("label 40", 500_000), done("label 40"), done("read 41", 20_000), done("label 41"),
]))
"""
HOLDER = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], isolation_level=None) as catalog:
    catalog.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(catalog: Path) -> Iterator[None]:
    """Another process is in a transaction: locks of SQLite do not keep a process from itself."""
    command = [sys.executable, "-c", HOLDER, str(catalog)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()


def test_a_full_disk_is_told_by_store_and_lake_and_when_there_is_room_the_next_run_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    tried = subprocess.run([*ON_A_DISK, str(disk), "true"], capture_output=True, text=True, check=False)
    if shutil.which("unshare") is None or tried.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {tried.stderr.strip()}")
    rooms = [str(HERE.parent / "flows"), str(HERE.parents[1])]
    with running_standin() as teacher:
        command = [sys.executable, "-c", FULL, str(disk), teacher.base_url, PHASE, *rooms]
        done = subprocess.run([*ON_A_DISK, str(disk), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        read, full, labelled, shut, last = json.loads(done.stdout)
    assert "StoreUnusable" in full["error"] and "full" in full["error"] and "disk has room" in full["error"]
    assert 0 < full["answers"] < labelled["answers"] < last["answers"]
    assert "LakeError" in shut["error"] and "disk is probably full: look with `df -h`" in shut["error"]
    assert shut["snapshots"] == labelled["snapshots"] < last["snapshots"]
    assert 0 < labelled["rankings"] < last["rankings"]
    assert [phase["error"] for phase in (read, labelled, last)] == [None] * 3
    assert [phase["damage"] for phase in (read, labelled, last)] == [[]] * 3
    # Nothing is bought twice but for what was on its way when there was no room to keep it.
    assert 0 <= teacher.counts["answered"] - last["answers"] <= 2 * IN_FLIGHT


def test_a_catalog_that_somebody_holds_is_told_and_when_it_is_free_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_standin() as teacher:
        factory = mill(tmp_path, {"land": 8}, teacher.base_url)
        planned = plan_all(factory, False, SILENT)
        snapshot = factory.lake.snapshot()
        monkeypatch.setattr(lakes, "RETRIES", 2)  # of twelve: the wait is not what is tested
        with held(tmp_path / "lake" / "meta.sqlite"):
            with pytest.raises(LakeError, match=r"(?s)nothing of it was written.*is locked.*`fuser -v` shows which"):
                label_all(factory, planned, SILENT, SILENT)
            assert factory.lake.snapshot() == snapshot
        bought = teacher.counts["answered"]
        assert bought > 0
        monkeypatch.undo()
        label_all(factory, planned, SILENT, SILENT)
        assert factory.lake.read("rankings").height > 0 and verify(factory.lake).errors == ()
        with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
            kept = store.clerk.submit(lambda con: con.execute("SELECT count(*) FROM exchanges").fetchone()[0], False)
            assert kept.result() == teacher.counts["answered"]


def test_a_clock_that_jumps_over_nights_and_back_buys_nothing_twice_and_passes_no_night_s_budget(
    tmp_path: Path,
) -> None:
    usd = 0.35
    factory = home_of(
        tmp_path, "land", queries=8, teacher={"price": CENTS, "max_tokens": 300}, budgets={"night_usd": usd}
    )
    days = (8, 13, 10, 13)  # forwards over four nights, back over three
    nights = set()
    for n, day in enumerate(days):
        # Something new before every jump, so that there always is something to buy.
        write_folder(tmp_path / "sources" / "land", 16 + 8 * n)
        with time_machine.travel(datetime(2031, 1, day, 3, 0, 5, tzinfo=UTC), tick=True):
            label(factory, "land", {NIGHT: f"2031-01-{day:02}"})
        nights.add(night_at(datetime(2031, 1, day, 4, tzinfo=UTC)))
        with ExchangeStore(factory.settings.store_path) as store:
            for night in nights:
                until = store.spent_before("all", night.began + timedelta(days=1)).usd
                assert until - store.spent_before("all", night.began).usd <= usd
            assert 0 < store.spent("all").usd <= usd * len(nights)
    with time_machine.travel(datetime(2031, 2, 1, 3, 0, 5, tzinfo=UTC), tick=True):
        assert label(factory, "land", {}).success  # a person's run buys the rest
    with closing(sqlite3.connect(factory.settings.store_path)) as store:
        times = store.execute("SELECT max(n) FROM (SELECT count(*) AS n FROM spend GROUP BY key)").fetchone()
        assert times == (1,)
    assert Lake.at(tmp_path / "home" / "lake").read("rankings").height > 0
