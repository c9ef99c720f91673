"""What a person sees while a run goes on: what assets say passes by, what went wrong stays."""

import io
import logging
import re

from rich.console import Console

from rankmill.progress import RunProgress


def said(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("dagster", level, __file__, 1, text, None, None)


def test_on_a_terminal_an_error_is_a_line_that_stays_and_other_words_are_one_changing_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    progress = RunProgress(console)
    progress.begin("reasonrank")
    progress.emit(said(logging.INFO, "sft 4/9  loss 2.1"))
    progress.emit(said(logging.ERROR, "sft stopped at step 5: loss is nan"))
    progress.end()
    lines = re.findall(r"\[ *\d+\.\d s\] ([^\n\x1b\r]*)", console.file.getvalue())  # type: ignore[attr-defined]
    assert lines == ["reasonrank · sft stopped at step 5: loss is nan"]


def test_the_channel_to_a_process_is_heard_of_only_when_something_is_wrong_with_it() -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = RunProgress(console)
    progress.begin("reasonrank")
    for level, text in (
        (logging.INFO, "[pipes] external process successfully opened dagster pipes."),
        (logging.INFO, "sft: 12 rows, 0 left out"),
        (logging.WARNING, "[pipes] did not receive any messages from external process."),
    ):
        progress.emit(said(level, text))
    lines = re.findall(r"\[ *\d+\.\d s\] reasonrank · ([^\n]*)", console.file.getvalue())  # type: ignore[attr-defined]
    assert lines == ["sft: 12 rows, 0 left out", "[pipes] did not receive any messages from external process."]
