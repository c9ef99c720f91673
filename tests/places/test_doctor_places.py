"""What the doctor finds of a place that a profile names, each trouble made for real."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rankmill.doctor_places import processes
from rankmill.finding import Finding


def found(monkeypatch: pytest.MonkeyPatch, folder: Path, **place: Any) -> Finding:
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"extends": "offline", "description": "mine", "processes": place}), "utf-8")
    monkeypatch.setenv("RANKMILL_PROFILE", str(path))
    (finding,) = processes()
    return finding


@pytest.fixture
def dashboard() -> Iterator[str]:
    class Version(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/version" else 404)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0"}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Version)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_this_machine_is_always_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert found(monkeypatch, tmp_path, where="local").ok


def test_slurm_is_there_where_sbatch_is(toy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = found(monkeypatch, tmp_path, where="slurm", stages={"sft": {}, "rl": {}})
    assert there.ok and "sft, rl on slurm" in there.detail and str(toy) in there.detail
    monkeypatch.setenv("PATH", os.devnull)
    gone = found(monkeypatch, tmp_path, where="slurm", stages={"sft": {}})
    assert not gone.ok and "no sbatch on PATH" in gone.detail and "login node" in gone.remedy


def test_a_ray_cluster_tells_its_version_or_why_it_does_not_answer(
    dashboard: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("dagster_ray", reason="dagster-ray is not installed: make test-places")
    there = found(monkeypatch, tmp_path, where="ray", address=dashboard, stages={"sft": {}})
    assert there.ok and "Ray 2.60.0" in there.detail
    gone = found(monkeypatch, tmp_path, where="ray", address="http://127.0.0.1:9", stages={"sft": {}})
    assert not gone.ok and "does not answer" in gone.detail and "ray status" in gone.remedy


def test_a_library_that_is_not_installed_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rankmill import doctor_places

    monkeypatch.setitem(doctor_places.LIBRARIES, "kubernetes", "no_such_library")
    gone = found(monkeypatch, tmp_path, where="kubernetes", image="i", stages={"sft": {}})
    assert not gone.ok and "no_such_library is not installed" in gone.detail and ".[kubernetes]" in gone.remedy
