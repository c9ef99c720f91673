"""One thread that owns one SQLite connection and commits in groups.

Jobs that arrive while a commit is under way wait for the next one and share it, so durability costs one fsync per
group and not one per answer, and the event loop never waits for the disk. A job is a function of the connection;
its future resolves after the commit, so a resolved future means durable. A job that raises undoes only itself.

Absent on purpose: a pool, read replicas, and any knowledge of what is stored.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
GROUP = 512
BUSY_TIMEOUT_S = 60.0


class StoreUnusable(Exception):
    """The file cannot be opened or written as an exchange store."""


@dataclass(frozen=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    future: Future[Any]


class Clerk:
    """Runs jobs on its own thread; `beat` runs there too, every `beat_s` seconds, and at no other time."""

    def __init__(
        self, path: Path, schema: str, version: int, beat: Callable[[sqlite3.Connection], None], beat_s: float
    ) -> None:
        self._path = path
        self._beat = beat
        self._beat_s = beat_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self.closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(schema, version, opened), name=f"clerk:{path.name}", daemon=True
        )
        self._thread.start()
        opened.result()

    def submit(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> Future[T]:
        """Queue a job; the future resolves once its group is committed."""
        future: Future[T] = Future()
        # From here on it cannot be cancelled: a caller that goes away must not take a bought answer with it.
        future.set_running_or_notify_cancel()
        with self._gate:
            if self.closed:
                raise StoreUnusable(f"The store {self._path} is closed; open it again.")
            self._jobs.put(_Job(work, writes, future))
        return future

    def close(self) -> None:
        """Finish every queued job, then close the file."""
        with self._gate:
            if not self.closed:
                self.closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self, schema: str, version: int, opened: Future[None]) -> None:
        try:
            connection = _open(self._path, schema, version)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            opened.set_exception(error)
            return
        opened.set_result(None)
        last_beat = time.monotonic()
        open_for_jobs = True
        while open_for_jobs:
            batch: list[_Job] = []
            try:
                job = self._jobs.get(timeout=max(0.0, last_beat + self._beat_s - time.monotonic()))
                while True:
                    if job is None:
                        open_for_jobs = False
                        break
                    batch.append(job)
                    if len(batch) == GROUP:
                        break
                    job = self._jobs.get_nowait()
            except queue.Empty:
                pass
            if time.monotonic() - last_beat >= self._beat_s:
                batch.append(_Job(self._beat, True, Future()))
                last_beat = time.monotonic()
            if batch:
                _commit_group(connection, batch)
        connection.close()


def _open(path: Path, schema: str, version: int) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        _switch_to_wal(connection)
        # FULL: an answer that counts survives a power cut, not only a killed process.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, version):
            raise StoreUnusable(
                f"The store {path} has schema {found}, this program reads {version}. Use the program that wrote it, "
                "or point the profile to another store."
            )
        for statement in filter(str.strip, schema.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version:d}")
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise StoreUnusable(
            f"The store {path} cannot be opened: {error}. Check that the folder is writable and that the file is an "
            "exchange store; move it away to start an empty one (its answers would be bought again)."
        ) from error
    return connection


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Set WAL mode; SQLite's busy time-out does not cover this switch when several processes make it at once."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _commit_group(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    """Run a group of jobs in one transaction and resolve their futures after the commit."""
    writes = any(job.writes for job in batch)
    done: list[tuple[_Job, Any, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        for job in batch:
            connection.execute("SAVEPOINT job")
            try:
                done.append((job, job.work(connection), None))
            except Exception as error:  # noqa: BLE001 - goes to the job's future
                connection.execute("ROLLBACK TO job")
                done.append((job, None, error))
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - goes to every job's future
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        done = [(job, None, error) for job in batch]
    for job, result, problem in done:
        if problem is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(problem)
