"""What a stage's process tells, read from a file while it is written.

    dg.PipesSubprocessClient(message_reader=WholeLines())

Dagster's own reader takes whatever `readline` gives. A line that is being written across the border of a page is then
read in two halves, neither of which is JSON, and the rest of the process is not heard. Here a line counts when its end
is there. Deliberately absent: the process's stdout and stderr, which stay those of the run.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import sleep
from typing import Any

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter

LOOK_AGAIN_S = 0.01


class WholeLines(dg.PipesMessageReader):
    """Messages of a process, a JSON object a line, in a file that it sees: `path`, which stays, or a temporary one."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[dict[str, Any]]:
        """Hear the process until the session is closed; gives where it writes."""
        with TemporaryDirectory(prefix="pipes-") as folder:
            path, closed = self.path or Path(folder) / "messages", Event()
            path.write_bytes(b"")
            thread = Thread(target=self._hear, args=(handler, path, closed), daemon=True)
            thread.start()
            try:
                yield {
                    PipesDefaultMessageWriter.FILE_PATH_KEY: str(path),
                    PipesDefaultMessageWriter.INCLUDE_STDIO_IN_MESSAGES_KEY: False,
                }
            finally:
                closed.set()
                thread.join()

    def on_launched(self, params: Any) -> None:
        """Nothing: where it writes is known beforehand."""

    def no_messages_debug_text(self) -> str:
        """What Dagster's warning says about a process that told nothing."""
        return f"Attempted to read messages from {self.path or 'a temporary file'}."

    def _hear(self, handler: Any, path: Path, closed: Event) -> None:
        for line in whole_lines(path, closed.is_set):
            handler.handle_message(json.loads(line))


def whole_lines(path: Path, closed: Callable[[], bool]) -> Iterator[str]:
    """Lines of a file that grows, each when its end is there; until `closed`, and what was written before that."""
    with path.open(encoding="utf-8") as stream:
        begun = ""
        while True:
            last = closed()  # asked before reading: what is written before the session closes is read
            piece = stream.readline()
            begun += piece
            if begun.endswith("\n"):
                yield begun
                begun = ""
            elif not piece and last:
                return
            elif not piece:
                sleep(LOOK_AGAIN_S)
