"""The web server may die at any moment: it executes nothing, and a new one shows what went on without it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))

from code_servers import code_server, until
from pages import Pages
from shared_services import free_port
from ui_visitor import wait_for

from rankmill.settings import ROOT


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[None]:
    """The daemon of a folder's workspace for the length of a block."""
    with (folder / "daemon.log").open("wb") as log:
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", "workspace.yaml"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def web_server(folder: Path, port: int) -> Iterator[Pages]:
    """A web server of a folder's workspace; killed at the end of the block, with no time to say goodbye."""
    log, address = folder / "web.log", f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml"]
    with log.open("ab") as said:
        server = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
    try:
        wait_for(f"{address}/server_info", server, log)
        yield Pages(address)
    finally:
        server.kill()
        server.wait(10)


def test_a_run_goes_on_while_the_web_server_that_began_it_is_killed_and_a_new_one_shows_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, port, at = tmp_path / "hold", free_port(), free_port()
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text("utf-8"), "utf-8")
    workspace = (ROOT / "deploy" / "workspace.yaml").read_text("utf-8")
    here = workspace.replace("host: code", "host: 127.0.0.1").replace("port: 4000", f"port: {port}")
    (tmp_path / "workspace.yaml").write_text(here, "utf-8")
    with code_server(tmp_path, port), daemon(tmp_path):
        with web_server(tmp_path, at) as pages:
            run = pages.start("campaign")
            until(lambda: pages.status_of_run(run) == "STARTED", "it is under way")
        hold.unlink()
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            until(lambda: instance.get_run_by_id(run).is_finished, "it ends")  # type: ignore[union-attr]
        with web_server(tmp_path, at) as pages:
            assert pages.status_of_run(run) == "SUCCESS"
