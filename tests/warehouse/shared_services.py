"""A real PostgreSQL and an S3-compatible server (moto) on loopback, each started by the test that wants it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

KEY, SECRET = "mill", "s3cr3t-of-the-mill"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are: on the path, or where Debian puts them."""
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    folders = [*([Path(on_path).resolve().parent] if on_path else []), *known]
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server in `folder` for the length of a block: its address as a DuckLake catalog."""
    programs = postgres_folder()
    if programs is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    # PostgreSQL refuses to run as root; a folder of its own in /tmp may be entered by whoever it runs as.
    user = "postgres" if os.geteuid() == 0 else None
    data = folder / "pg"
    data.mkdir(parents=True)
    if user is not None:
        shutil.chown(data, user)
        for parent in (data, *data.parents):
            if parent.owner() == "root" and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "mill", "-A", "trust", "--no-sync", "-E", "UTF8"],
        check=True, capture_output=True, user=user, cwd="/",
    )  # fmt: skip
    port = free_port()
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), "-k", data, "-c", "listen_addresses=127.0.0.1",
         "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, user=user, cwd="/",
    )  # fmt: skip
    try:
        for _ in range(200):
            if subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0:
                break
            time.sleep(0.05)
        else:
            raise RuntimeError("PostgreSQL did not come up")
        yield f"postgres:dbname=postgres host=127.0.0.1 port={port} user=mill"
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for every client to leave
        server.communicate(timeout=20)


@contextlib.contextmanager
def bucket() -> Iterator[str]:
    """An S3-compatible server with the bucket `lake` for the length of a block: its address."""
    pytest.importorskip("moto", reason="no S3-compatible server: pip install -e .[test]")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                request = urllib.request.Request(f"{address}/lake", method="PUT")
                request.add_header("Authorization", f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4")
                urllib.request.urlopen(request, timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError("the S3-compatible server did not come up")
        yield address
    finally:
        server.terminate()
        server.communicate(timeout=20)
