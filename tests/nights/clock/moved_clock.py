"""The clock of a simulated night: that of the machine, and an offset that all processes of a house read from a file.

A process takes the offset as it begins; `move_to` and `shift` move the process that calls them, and whatever begins
after it. gRPC keeps the machine's clock: its deadlines are handed to a core that knows no other one.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import time_machine

_travels: list[time_machine.travel] = []


class _MachineTime:
    """The module `time`, with the machine's own clock."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return time_machine.escape_hatch.time.time()


def start() -> None:
    """Take the offset of the house's file."""
    _begin(float(_file().read_text("utf-8")))
    if "grpc" in sys.orig_argv:
        spare_grpc()


def spare_grpc() -> None:
    """Leave gRPC its clock."""
    from grpc import _channel, _common, _server
    from grpc._cython import cygrpc

    for module in (_channel, _common, _server, cygrpc):
        module.time = _MachineTime()


def move_to(moment: float) -> None:
    """Let it be `moment` (a Unix time) now."""
    shift(moment - time.time())


def shift(seconds: float) -> None:
    """Let it be so much later, or earlier."""
    offset = float(_file().read_text("utf-8")) + seconds
    part = _file().with_suffix(".part")
    part.write_text(repr(offset), "utf-8")
    part.replace(_file())
    if _travels:
        _travels.pop().stop()
    _begin(offset)


def _begin(offset: float) -> None:
    _travels.append(time_machine.travel(time.time() + offset, tick=True))
    _travels[-1].start()


def _file() -> Path:
    return Path(os.environ["NIGHTS_CLOCK"])
