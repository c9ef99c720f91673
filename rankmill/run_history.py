"""Dagster's run history in SQLite, through connections that stay open.

Dagster opens and closes a connection for each of the hundreds of events of a run, and the last one to close a database
in WAL mode writes all of it back and deletes the log: a third of the time of a run that finds nothing changed. Files
and tables are Dagster's own, so that the class in dagster.yaml may be left out again at any time.

Whoever watches a run (the UI's page of it) asks the database, as with PostgreSQL: Dagster's own watcher waits for a
run's file to change, and that of a database which stays open does not.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.event_log.base import EventHandlerFn
from dagster._core.storage.event_log.polling_event_watcher import SqlPollingEventWatcher
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine

OPEN = 4  # databases that stay open: the index, and those of the latest runs


class OpenEventLog(SqliteEventLogStorage):
    """The event log, a database a run and one for all, with a pool of connections each."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._watcher = SqlPollingEventWatcher(self)
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            address = self.conn_string_for_shard(shard)
            self._engines[shard] = create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
        self._engines.move_to_end(shard)
        while len(self._engines) > OPEN:
            self._engines.popitem(last=False)[1].dispose()
        return self._engines[shard]

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        """Call back with every event of a run after the cursor, as long as somebody watches."""
        self._watcher.watch_run(run_id, cursor, callback)

    def end_watch(self, run_id: str, handler: EventHandlerFn) -> None:
        """No longer call this handler."""
        self._watcher.unwatch_run(run_id, handler)

    def wipe(self) -> None:
        """Delete the files of all runs."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Close what is open."""
        self._watcher.close()
        self._close()
        super().dispose()

    def _close(self) -> None:
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()


class RunHistory(DagsterSqliteStorage):
    """Runs, events and schedules below DAGSTER_HOME."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        stock = self._event_log_storage
        self._event_log_storage = OpenEventLog(stock._base_dir)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Nothing is configured: the folder is DAGSTER_HOME."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> Self:
        """The history of this process's DAGSTER_HOME."""
        return cls.from_local(os.environ["DAGSTER_HOME"], inst_data)
