"""A code server as a team has it: a process of its own at a port, with the job of held_campaigns.py.

with code_server(folder, port) as process: …        # DAGSTER_HOME and HOLD are in the environment
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import held_campaigns
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient


@contextlib.contextmanager
def code_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The code server of a team, as deploy/ starts it."""
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-f", held_campaigns.__file__, "-h", "127.0.0.1"]
    with (folder / "code.log").open("ab") as log:
        server = subprocess.Popen([*command, "-p", str(port)], cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: answers(port), "the server answers")
        yield server
    finally:
        server.kill()
        server.wait(10)


def answers(port: int) -> bool:
    """Whether a code server answers this process, which waits a while between calls that fail."""
    try:
        return DagsterGrpcClient(port=port, host="127.0.0.1").heartbeat("here") == "here"
    except DagsterUserCodeUnreachableError:
        return False


def until(holds: Callable[[], Any], what: str, turn: Callable[[], Any] = lambda: None) -> None:
    """Wait until something holds, with a turn before each look."""
    end = time.monotonic() + 60
    while turn() or not holds():
        assert time.monotonic() < end, f"{what}: not within a minute"
        time.sleep(0.2)
