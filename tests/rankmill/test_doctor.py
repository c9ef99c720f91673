"""What the doctor finds, each trouble made for real, and that it names the command that mends it."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from inference.store import ExchangeStore
from rankmill import doctor, doctor_services
from rankmill.dead_runs import PROCESS
from rankmill.finding import Finding
from rankmill.run import prepare_home
from rankmill.settings import ROOT, Settings
from warehouse.lake import Append, CommitMessage, Lake, opened

SECRET = "sk-never-shown"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "PROFILE",
        "INSTANCE",
        "ALERT_WEBHOOK",
        "ALERT_SMTP",
        "ALERT_MAIL_TO",
        "ALERT_MAIL_FROM",
        "BUDGET_USD",
    ):
        monkeypatch.delenv(f"RANKMILL_{name}", raising=False)
    monkeypatch.setenv("RANKMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def answers(home: Path) -> Path:
    with ExchangeStore(home / "exchanges.sqlite"):
        pass
    return home / "exchanges.sqlite"


def only(check: Callable[[], Iterator[Finding]], what: str) -> Finding:
    (found,) = [finding for finding in check() if finding.what == what]
    return found


def profile(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    path = folder / "mine.yaml"
    path.write_text(f"extends: api\ndescription: mine\n{text}\n", "utf-8")
    monkeypatch.setenv("RANKMILL_PROFILE", str(path))
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("RANKMILL_BUDGET_USD", "1")


def test_a_store_that_is_well_tells_what_it_holds(answers: Path) -> None:
    found = only(doctor_services.store, "answers")
    assert found.ok and found.detail == "0 kept, $0.00 spent in this home"


def test_a_store_that_somebody_holds_is_found_with_the_command_that_shows_who(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_services, "LOCKED_S", 0.1)
    with closing(sqlite3.connect(answers, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        found = only(doctor_services.store, "answers")
    assert not found.ok and "database is locked" in found.detail and f"fuser -v {answers}" in found.remedy
    assert only(doctor_services.store, "answers").ok


def test_a_store_that_is_damaged_is_found_with_the_command_that_rebuilds_it(home: Path) -> None:
    (home / "exchanges.sqlite").write_bytes(b"SQLite format 3\0" + b"damaged" * 2000)
    found = only(doctor_services.store, "answers")
    assert not found.ok and found.remedy == "move it away, then: rankmill lake rebuild-store"


def test_a_store_that_has_lost_what_the_lake_holds_is_found_before_the_next_campaign(home: Path) -> None:
    row = {"domain": "sea", "purpose": "rank_teacher", "key": "k1", "usd": 0.5}
    with opened(Lake.at(home / "lake")) as lake:
        lake.commit([Append("exchanges", pl.DataFrame([row]))], CommitMessage("exchanges", "test", "test"))
    for _ in range(2):
        found = only(doctor_services.store, "answers")
        assert not found.ok and found.remedy == "now: rankmill lake rebuild-store"
        assert found.detail.startswith("1 answers of the lake are not in ")
        with ExchangeStore(home / "exchanges.sqlite"):
            """There is one, and it is empty."""


class Endpoint(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        assert self.path == "/v1/models" and self.headers["Authorization"] == f"Bearer {SECRET}"
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize(("status", "ok", "told"), [(200, True, "(200)"), (401, False, "the key"), (404, True, "404")])
def test_an_endpoint_is_asked_for_its_models_with_the_key_which_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, ok: bool, told: str
) -> None:
    monkeypatch.setattr(Endpoint, "status", status)
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        profile(monkeypatch, tmp_path, "")
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        found = only(doctor_services.teacher, "teacher")
    finally:
        server.shutdown()
        server.server_close()
    assert found.ok == ok and told in found.detail and SECRET not in str(found)


def test_an_endpoint_that_is_down_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile(monkeypatch, tmp_path, "")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    found = only(doctor_services.teacher, "teacher")
    assert not found.ok and "does not answer" in found.detail and found.remedy.startswith("try: curl")


def test_a_watched_folder_that_is_gone_and_a_night_without_money_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: Path
) -> None:
    profile(monkeypatch, tmp_path, f"watch: {tmp_path}/incoming\nbudgets: {{night_usd: 0}}")
    watched, night = list(doctor_services.nights())
    assert not watched.ok and watched.remedy.startswith(f"mkdir -p {tmp_path}/incoming")
    assert not night.ok and "budgets.night_usd" in night.remedy
    (tmp_path / "incoming").mkdir()
    profile(monkeypatch, tmp_path, f"watch: {tmp_path}/incoming\nbudgets: {{night_usd: 5}}")
    assert all(finding.ok for finding in doctor_services.nights())


def test_a_mail_server_without_anybody_to_write_to_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor_services.alerts, "alerts").detail == "nobody is told of a failure"
    monkeypatch.setenv("RANKMILL_ALERT_SMTP", f"smtps://mill:{SECRET}@mail.example.org")
    found = only(doctor_services.alerts, "alerts")
    assert not found.ok and "RANKMILL_ALERT_MAIL_TO" in found.remedy and SECRET not in str(found)


def test_a_team_without_its_variables_or_its_server_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKMILL_INSTANCE", "team")
    for name in doctor_services.PG:
        monkeypatch.delenv(name, raising=False)
    assert "DAGSTER_PG_HOST" in only(doctor_services._postgres, "run history").detail
    for name, value in zip(doctor_services.PG, ("127.0.0.1", "9", "mill", "mill", SECRET), strict=True):
        monkeypatch.setenv(name, value)
    found = only(doctor_services._postgres, "run history")
    assert not found.ok and found.remedy == "pg_isready -h 127.0.0.1 -p 9" and SECRET not in str(found)


def test_no_gpu_is_well_where_the_profile_wants_none_and_is_not_where_stages_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi there
    assert only(doctor_services.accelerator, "accelerator").ok
    monkeypatch.setenv("RANKMILL_PROFILE", "gpu")
    found = only(doctor_services.accelerator, "accelerator")
    assert not found.ok and "training.vllm" in found.detail and "--profile offline" in found.remedy
    profile(monkeypatch, tmp_path, "training: {launch: ddp}")
    assert "ddp" in only(doctor_services.accelerator, "accelerator").detail
    profile(monkeypatch, tmp_path, "training: {launch: ddp}\nprocesses: {where: ray, address: 'http://ray:8265'}")
    assert only(doctor_services.accelerator, "accelerator").ok


@pytest.mark.parametrize(
    ("bound", "what"), [("LEAST_DISK_GB", "disk"), ("LEAST_MEMORY_GB", "memory"), ("LEAST_FILES", "files")]
)
def test_a_machine_without_room_is_found(monkeypatch: pytest.MonkeyPatch, bound: str, what: str) -> None:
    assert only(doctor._room, what).ok
    monkeypatch.setattr(doctor, bound, 10**15)
    found = only(doctor._room, what)
    assert not found.ok and found.remedy


def test_a_package_that_is_not_installed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("duckdb", "no-such-package"))
    well, missing = doctor._packages()
    assert well.ok and not missing.ok and (missing.detail, missing.remedy) == ("not installed", "make install")


def test_a_missing_key_and_a_misspelt_profile_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile(monkeypatch, tmp_path, "")
    monkeypatch.delenv("OPENAI_API_KEY")
    (unfinished,) = [finding for finding in doctor._settings() if not finding.ok]
    assert "OPENAI_API_KEY" in unfinished.detail
    profile(monkeypatch, tmp_path, "laebls: {list_size: 10}")
    (misspelt,) = [finding for finding in doctor._settings() if not finding.ok]
    assert "laebls" in misspelt.detail


def test_a_damaged_catalog_and_a_source_that_went_away_are_found(home: Path, tmp_path: Path) -> None:
    assert only(doctor._lake, "lake").detail.startswith("none yet")
    settings = Settings.load()
    with closing(settings.lake()) as lake:
        lake.snapshot()
    assert only(doctor._lake, "lake").detail.startswith("snapshot")
    (home / "lake" / "meta.sqlite").write_bytes(b"SQLite format 3\0" + b"damaged" * 2000)
    found = only(doctor._lake, "lake")
    assert not found.ok and found.remedy.startswith("rankmill restore")
    gone = tmp_path / "law"
    shutil.copytree(ROOT / "seed" / "web_search", gone)
    settings.registry.keep(settings.registry.choose([str(gone)], None))
    assert only(doctor._sources, "source law").ok
    shutil.rmtree(gone)
    found = only(doctor._sources, "source law")
    assert not found.ok and "--sources" in found.remedy


def test_a_run_whose_process_is_gone_and_one_that_waits_for_a_daemon_are_found(home: Path) -> None:
    prepare_home(Settings.load())
    with dg.DagsterInstance.get() as instance:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        tags = {PROCESS: f"{socket.gethostname()}/{gone.pid}"}
        instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags))
        where = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mill"), "mill")
        queued = dg.DagsterRun(
            job_name="any", status=dg.DagsterRunStatus.QUEUED, remote_job_origin=RemoteJobOrigin(where, "any")
        )
        instance.add_run(queued)
    found = {finding.what: finding for finding in doctor_services.dagster()}
    assert not found["runs"].ok and "rankmill ui" in found["runs"].remedy
    assert not found["daemon"].ok and "1 runs are queued" in found["daemon"].detail


def test_another_version_than_the_one_that_was_tested_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# pins\nduckdb==0.1\npolars==0.2\n", "utf-8")
    monkeypatch.setattr("rankmill.settings.ROOT", tmp_path)
    wrong = {finding.what: finding for finding in doctor._packages() if not finding.ok}
    assert set(wrong) == {"duckdb", "polars"} and "tested with 0.1" in wrong["duckdb"].detail
    assert wrong["duckdb"].remedy == "make install"
