"""kill -9 in the middle of commits, fifty times, with four writers at work: nothing half-written, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from warehouse.audit.verify import verify
from warehouse.lake import Lake, opened

KILLS, WRITERS = 50, 4
# Writers are forked off a process that has imported everything, or the test would be one of imports. A writer makes
# commits of three tables, each row with the commit's number, and notes `>` before one and `=` behind it.
NURSERY = """
import os, pathlib, signal, sys, time
import polars as pl
import small_lake
from warehouse.lake import Append, Lake, Replace

def write(folder, notes, name, number, nursery):
    lake, told = Lake.at(pathlib.Path(folder)), os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    lake.snapshot()  # connected before the first note
    while os.getppid() == nursery:
        number += 1
        rows = small_lake.candidates(name, 400, score=float(number))
        kept = pl.DataFrame({"domain": [name], "alpha": [float(number)]})
        log = pl.DataFrame({"asset": [name], "key": [str(number)]})
        os.write(told, f">{number}\\n".encode())
        lake.commit([Replace("candidates", rows, {"domain": name}), Append("rejections", log),
                     Replace("consistent_rankings", kept, {"domain": name})], small_lake.message(name, f"run-{number}"))
        os.write(told, f"={number}\\n".encode())
        time.sleep(0.1)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    folder, notes, name, number = line.rstrip("\\n").split("\\t")
    nursery, child = os.getpid(), os.fork()
    if child == 0:
        write(folder, notes, name, int(number), nursery)
        os._exit(0)
    print(child, flush=True)
"""


class Writers:
    """Four writers of one lake, each with a file of notes; a writer that is killed is followed by another one."""

    def __init__(self, folder: Path, notes: Path) -> None:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{NURSERY}"
        self.nursery = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder, self.notes = folder, notes
        self.pids: dict[str, int] = {}

    def start(self, name: str, number: int) -> None:
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(f"{self.folder}\t{self.notes / name}\t{name}\t{number}\n")
        self.nursery.stdin.flush()
        self.pids[name] = int(self.nursery.stdout.readline())

    def noted(self, name: str) -> list[str]:
        path = self.notes / name
        return path.read_text("utf-8").split() if path.exists() else []

    def kill(self, name: str) -> None:
        os.kill(self.pids.pop(name), signal.SIGKILL)

    def end(self) -> None:
        for name in list(self.pids):
            self.kill(name)
        self.nursery.kill()
        self.nursery.communicate()


@pytest.fixture
def writers(tmp_path: Path, empty_lake: Path) -> Iterator[Writers]:
    shutil.copytree(empty_lake, tmp_path / "lake")
    (tmp_path / "notes").mkdir()
    made = Writers(tmp_path / "lake", tmp_path / "notes")
    yield made
    made.end()


def test_fifty_kills_among_four_writers_lose_no_commit_and_leave_the_lake_clean(writers: Writers) -> None:
    chance, names = random.Random(), [f"writer-{n}" for n in range(WRITERS)]
    for name in names:
        writers.start(name, 0)
    inside = 0
    for kill in range(KILLS):
        name = names[kill % (WRITERS - 1)]  # the last one is left in peace, and must lose nothing to the others
        time.sleep(chance.uniform(0, 0.3))
        waited = time.monotonic()
        while not _in_a_commit(writers.noted(name)) and time.monotonic() - waited < 60:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        inside += writers.noted(name)[-1].startswith(">")
        writers.kill(name)
        time.sleep(0.02)
        notes = writers.notes / name
        with notes.open("a", encoding="utf-8") as file:
            file.write("x\n")
        # The commit that was under way may stand; the next process begins behind it.
        begun = max(int(note[1:]) for note in writers.noted(name) if note[0] == ">")
        writers.start(name, begun)
    waited = time.monotonic()
    while not all(_told(writers.noted(name)) for name in names) and time.monotonic() - waited < 60:
        time.sleep(0.05)
    writers.end()
    told = {name: writers.noted(name) for name in names}
    assert inside > KILLS / 2, "most kills were to fall into a commit"
    assert len(told[names[-1]]) > 2 * WRITERS, "the writer that was left in peace went on"
    with opened(Lake.at(writers.folder)) as lake:
        rows, kept, log = lake.read("candidates"), lake.read("consistent_rankings"), lake.read("rejections")
        for name, notes in told.items():
            begun, done = ({int(note[1:]) for note in notes if note[0] == sign} for sign in ">=")
            logged = [int(key) for key in log.filter(pl.col("asset") == name)["key"]]
            assert len(set(logged)) == len(logged), f"{name}: a commit was made twice"
            assert done <= set(logged), f"{name}: commits {sorted(done - set(logged))} were told and are gone"
            assert set(logged) <= begun
            ours = pl.col("domain") == name
            assert rows.filter(ours).height == 400
            assert rows.filter(ours)["score"].unique().to_list() == [float(max(logged))]
            assert kept.filter(ours)["alpha"].to_list() == [float(max(logged))]
        checked = verify(lake)
        assert checked.errors == ()
        assert {note.kind for note in checked.notes} <= {"orphaned", "no_checksum"}
        messages = lake.snapshots()["commit_message"].drop_nulls()
        assert messages.str.starts_with("asset=writer").sum() == log.height


def _told(notes: list[str]) -> bool:
    """Whether any process of these notes has told a commit."""
    return any(note.startswith("=") for note in notes)


def _in_a_commit(notes: list[str]) -> bool:
    """Whether the newest process of these notes has begun a commit and not told it."""
    return bool(notes) and notes[-1].startswith(">")
