"""A campaign's questions answered by a process of its own: python -m rankmill.asking QUESTIONS.jsonl

Whoever asks for it is Dagster, at the place that the profile names for the stage `label`. The key comes from this
process's own environment (OPENAI_API_KEY); progress is told like that of a training process.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> None:
    """Answer the questions in the file named on the command line."""
    from flows.asking import answer
    from rankmill.settings import Settings
    from training.reporting import open_reporter

    (path,) = argv
    with open_reporter() as reporter:
        answer(Path(path), Settings.load().api_key, reporter.note)


if __name__ == "__main__":
    main(sys.argv[1:])
