"""One thread that owns one SQLite connection and commits in groups.

Jobs that arrive while a commit is under way wait for the next one and share it, so durability costs one fsync per
group and not one per answer, and the event loop never waits for the disk. A job is a function of the connection that
may be run again from the start; it is answered after the commit, so an answer means durable. A job that raises undoes
only itself. Jobs that only read, with none beside them that writes, need no transaction. `submit` is for threads,
`perform` for coroutines: one wake-up of the loop a group.

Absent on purpose: a pool, read replicas, and any knowledge of what is stored.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
GROUP = 512
BUSY_TIMEOUT_S = 60.0
# Rows are inserted by one statement for each number of them; preparing one takes three times as long as running it.
STATEMENTS = 512
# Rows changed, some 500 answers. Done between groups: within a commit, its jobs would wait for it.
CHECKPOINT_EVERY = 2000


_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class StoreUnusable(Exception):
    """The file cannot be opened or written as an exchange store."""


class _NoTransaction(Exception):
    """A transaction could not begin, whatever was to be done in it."""


@dataclass(frozen=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    future: Future[Any] | asyncio.Future[Any]


@dataclass(frozen=True)
class _Done:
    job: _Job
    result: Any = None
    error: BaseException | None = None


class Clerk:
    """Runs jobs on its own thread; `beat` runs there too, every `beat_s` seconds, and at no other time."""

    def __init__(
        self,
        path: Path,
        schema: str,
        upgrades: Sequence[str],
        beat: Callable[[sqlite3.Connection], None],
        beat_s: float,
    ) -> None:
        """`upgrades` are statements, each of which makes of the schema before it the next; `schema` is the newest."""
        self._path = path
        self._beat = beat
        self._beat_s = beat_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self.closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(schema, upgrades, opened), name=f"clerk:{path.name}", daemon=True
        )
        self._thread.start()
        opened.result()

    def submit(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> Future[T]:
        """Queue a job; the future resolves once its group is committed."""
        future: Future[T] = Future()
        # From here on it cannot be cancelled: a caller that goes away must not take a bought answer with it.
        future.set_running_or_notify_cancel()
        self._queue(_Job(work, writes, future))
        return future

    def perform(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> asyncio.Future[T]:
        """Queue a job from a coroutine; it is done whether or not anybody awaits it or goes on waiting."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue(_Job(work, writes, future))
        return future

    def _queue(self, job: _Job) -> None:
        with self._gate:
            if self.closed:
                raise StoreUnusable(f"The store {self._path} is closed; open it again.")
            self._jobs.put(job)

    def close(self) -> None:
        """Finish every queued job, then close the file."""
        with self._gate:
            if not self.closed:
                self.closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self, schema: str, upgrades: Sequence[str], opened: Future[None]) -> None:
        try:
            connection = _open(self._path, schema, upgrades)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            opened.set_exception(error)
            return
        opened.set_result(None)
        last_beat = time.monotonic()
        open_for_jobs, checkpointed = True, 0
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
                _commit_group(connection, batch, self._path)
            if connection.total_changes - checkpointed > CHECKPOINT_EVERY:
                checkpointed = connection.total_changes
                with suppress(sqlite3.OperationalError):  # the disk is full, say: the log goes on growing
                    # Read to its end: a cursor that a memory profiler holds on to would let no further commit through.
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        connection.close()


def _open(path: Path, schema: str, upgrades: Sequence[str]) -> sqlite3.Connection:
    version = 1 + len(upgrades)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=STATEMENTS)
        _switch_to_wal(connection)
        # FULL: an answer that counts survives a power cut, not only a killed process.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            raise StoreUnusable(
                f"The store {path} has schema {found}, this program reads {version}. Use the program that wrote it, "
                "or point the profile to another store."
            )
        for statement in upgrades[found - 1 :] if found else ():
            connection.execute(statement)
        for statement in filter(str.strip, schema.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version:d}")
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        if _passes(error):  # who moves a store away for want of room buys everything again
            raise _unusable(error, path) from error
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


def _commit_group(connection: sqlite3.Connection, batch: list[_Job], path: Path) -> None:
    """Run a group of jobs in one transaction and answer them after the commit; a failing group is run one by one.

    Where not even a transaction can begin, each job would wait as long for nothing: all of them fail at once.
    """
    try:
        done = _transaction(connection, batch)
    except _NoTransaction as error:
        done = [_Done(job, None, error.__cause__) for job in batch]
    except Exception as error:  # noqa: BLE001 - goes to the job that raised it
        done = [_Done(batch[0], None, error)] if len(batch) == 1 else [_alone(connection, job) for job in batch]
    done = [replace(ended, error=_for_people(ended.error, path)) for ended in done]
    of_loops: dict[asyncio.AbstractEventLoop, list[_Done]] = defaultdict(list)
    for ended in done:
        if isinstance(ended.job.future, asyncio.Future):
            of_loops[ended.job.future.get_loop()].append(ended)
        else:
            _answer([ended])
    for loop, ended_here in of_loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_answer, ended_here)


def _for_people(error: BaseException | None, path: Path) -> BaseException | None:
    """What stands in the way of writing (a lock, a full disk, a broken file) as an error that says what to do."""
    if not isinstance(error, sqlite3.OperationalError):
        return error
    unusable = _unusable(error, path)
    unusable.__cause__ = error
    return unusable


def _unusable(error: Exception, path: Path) -> StoreUnusable:
    return StoreUnusable(
        f"The store {path} cannot be used: {error}. What was answered before is kept. Check that its disk has room and "
        "that no other program holds the file, then run again."
    )


def _passes(error: Exception) -> bool:
    """Whether it is no fault of the file: a full disk, on which SQLite cannot even read, or a lock."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return isinstance(error, sqlite3.Error) and (error.sqlite_errorcode & 0xFF) in _PASSING


def _transaction(connection: sqlite3.Connection, batch: list[_Job]) -> list[_Done]:
    if not any(job.writes for job in batch):
        return [_Done(job, job.work(connection)) for job in batch]
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise _NoTransaction from error
    try:
        done = [_Done(job, job.work(connection)) for job in batch]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return done


def _alone(connection: sqlite3.Connection, job: _Job) -> _Done:
    try:
        return _transaction(connection, [job])[0]
    except _NoTransaction as error:
        return _Done(job, None, error.__cause__)
    except Exception as error:  # noqa: BLE001 - goes to the job's future
        return _Done(job, None, error)


def _answer(done: list[_Done]) -> None:
    for ended in done:
        if ended.job.future.cancelled():
            continue
        if ended.error is None:
            ended.job.future.set_result(ended.result)
        else:
            ended.job.future.set_exception(ended.error)
