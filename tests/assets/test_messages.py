"""A stage's messages are read whole, however they come to the disk."""

import json
from pathlib import Path
from threading import Event, Thread
from typing import Any

from assets.messages import WholeLines, whole_lines


class Heard:
    """A Dagster message handler that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.messages.append(message)


def test_a_line_that_comes_in_halves_is_one_message() -> None:
    handler, half_read = Heard(), Event()
    with WholeLines().read_messages(handler) as params, Path(params["path"]).open("a", encoding="utf-8") as stream:
        line = json.dumps({"method": "log", "params": {"message": "a" * 5_000}}) + "\n"
        stream.write(line[:4_096])
        stream.flush()
        half_read.wait(0.1)  # the reader looks every hundredth of a second
        stream.write(line[4_096:])
        stream.write(json.dumps({"method": "closed"}) + "\n")
    assert [message["method"] for message in handler.messages] == ["log", "closed"]


def test_what_was_written_before_the_session_closed_is_read(tmp_path: Path) -> None:
    path, closed, lines = tmp_path / "messages", Event(), list[str]()
    path.write_text("1\n2\n")
    reader = Thread(target=lambda: lines.extend(whole_lines(path, closed.is_set)))
    closed.set()
    reader.start()
    reader.join()
    assert lines == ["1\n", "2\n"]
