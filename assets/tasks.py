"""A process to be done at some place, and how it may end: what the places have in common (places.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from rankmill.places import Stage


class ProcessFailed(Exception):
    """A process did not end well; the message says how it ended, and where its words are kept."""


class ProcessKilled(ProcessFailed):
    """A process of this machine that signal 9 ended: the kernel's, where memory is out, or somebody's."""


@dataclass(frozen=True)
class Task:
    """A process to be done elsewhere: `command` without its interpreter, and a folder that both machines see."""

    context: dg.AssetExecutionContext
    stage: Stage
    command: tuple[str, ...]
    env: Mapping[str, str]
    home: Path

    @property
    def name(self) -> str:
        """What the process is called there."""
        return f"rankmill-{self.stage}-{self.context.run.run_id[:8]}"
