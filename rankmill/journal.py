"""Lists that were ordered, a line each, so that a killed `rankmill rerank` goes on where it stopped.

    with Journal(home / "work" / "reranked-0123456789ab.jsonl") as journal:
        if key not in journal.lines: journal.add(key, {"order": [2, 0, 1], …})

A line counts once it is on the disk whole; the torn end of a killed process is cut off. One process at a time.
"""

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO


class JournalBusy(RuntimeError):
    """Another process is at work on the same lists."""


class Journal:
    """A file of JSON lines, each with its key; the last line of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalBusy(f"{self.path} is held by another rankmill rerank. Wait for it, or end it.") from None
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            self.lines[entry.pop("key")] = entry
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Keep an entry; it is on the disk when this returns."""
        self._file.write(json.dumps({"key": key, **entry}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines[key] = entry
