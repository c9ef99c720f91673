"""What `rankmill doctor` says of one thing that it looked at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, and the command that mends it where it is not."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""
