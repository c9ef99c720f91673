"""Run history through connections that stay open: Dagster's own files, whoever reads or writes them."""

from __future__ import annotations

import queue
import sqlite3
from pathlib import Path

import dagster as dg
import pytest

from rankmill.run_history import OPEN, OpenEventLog

STORAGE = "storage:\n  custom:\n    module: rankmill.run_history\n    class: RunHistory\n    config: {}\n"


@dg.asset
def counted() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 3})


@dg.asset_check(asset=counted)
def adds_up() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


DEFINITIONS = dg.Definitions([counted], asset_checks=[adds_up], jobs=[dg.define_asset_job("count")])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def instance(home: Path, ours: bool) -> dg.DagsterInstance:
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n" + (STORAGE if ours else ""), "utf-8")
    return dg.DagsterInstance.get()


def count(history: dg.DagsterInstance, times: int = 1) -> list[str]:
    job = DEFINITIONS.resolve_job_def("count")
    return [job.execute_in_process(instance=history).run_id for _ in range(times)]


def told(history: dg.DagsterInstance, run: str) -> list[str]:
    return [str(entry.dagster_event_type) for entry in history.all_logs(run) if entry.is_dagster_event]


def test_both_storages_read_what_either_wrote(home: Path) -> None:
    with instance(home, ours=False) as stock:
        (first,) = count(stock)
    with instance(home, ours=True) as open_:
        assert isinstance(open_.event_log_storage, OpenEventLog)
        runs = [first, *count(open_, OPEN + 1)]
        ours = {run: told(open_, run) for run in runs}
    with instance(home, ours=False) as stock:
        assert {run: told(stock, run) for run in runs} == ours
        made = stock.get_records_for_run(runs[-1], of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
        assert [record.event_log_entry.asset_materialization.metadata["rows"].value for record in made] == [3]
        assert stock.get_latest_materialization_event(counted.key).run_id == runs[-1]


def test_few_databases_stay_open_and_none_after_the_end(home: Path) -> None:
    with instance(home, ours=True) as history:
        count(history, OPEN + 2)
        log = history.event_log_storage
        assert len(log._engines) == OPEN
        assert len(log.get_all_run_ids()) == OPEN + 2
    assert not log._engines
    assert not list((home / "history" / "runs").glob("index.db-wal"))  # written back by the last to close it


def test_who_watches_a_run_hears_of_an_event_while_its_database_stays_open(home: Path) -> None:
    with instance(home, ours=True) as writer, instance(home, ours=True) as onlooker:
        (run,) = count(writer)
        heard: queue.Queue[str] = queue.Queue()
        onlooker.watch_event_logs(run, None, lambda entry, _: heard.put(entry.message))
        while "Finished execution of run" not in heard.get(timeout=60):
            pass  # what was there before
        dagster_run = writer.get_run_by_id(run)
        assert dagster_run is not None
        writer.report_engine_event("one more", dagster_run)
        assert heard.get(timeout=60) == "one more"


def test_an_event_that_fails_leaves_nothing_and_the_next_one_is_stored(home: Path) -> None:
    with instance(home, ours=True) as history:
        (run,) = count(history)
        log, before = history.event_log_storage, told(history, run)
        with pytest.raises(sqlite3.OperationalError), log.run_connection(run) as connection:
            connection.exec_driver_sql("DELETE FROM event_logs")
            raise sqlite3.OperationalError("disk I/O error")
        assert told(history, run) == before
        assert len(count(history)) == 1


def test_wiped_runs_are_gone_and_new_ones_are_kept(home: Path) -> None:
    with instance(home, ours=True) as history:
        (run,) = count(history)
        history.wipe()
        assert told(history, run) == []
        (again,) = count(history)
        assert told(history, again)
