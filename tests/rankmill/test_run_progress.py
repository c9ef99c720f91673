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
