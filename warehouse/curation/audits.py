"""What the blocking checks found in a release, kept with it: one that failed is marked, and never trained on.

A check stops the run that it is part of. What is started later, by a sensor, a schedule or a person, asks here.
Deliberately absent: the checks themselves (assets/checks.py), and retractions, which mark what somebody took back.
"""

import polars as pl

from warehouse.lake import Append, CommitMessage, Lake, now
from warehouse.production import CODE_VERSION


class AuditFailed(RuntimeError):
    """A release failed its audit, so nothing is trained on it."""


def enter_audit(lake: Lake, release: str, name: str, passed: bool, detail: str, run_id: str) -> None:
    """Keep what a check found, where that is another answer than its last one."""
    rows = lake.read("audits", {"release": release, "name": name}).sort("number")
    last = rows.tail(1)
    if last.is_empty() and passed:
        return  # nothing was ever wrong
    if last.height and last.select("passed", "detail").row(0) == (passed, detail):
        return
    row = {
        "number": rows.height + 1, "release": release, "name": name, "passed": passed, "detail": detail,
        "audited_at": now(),
    }  # fmt: skip
    lake.commit([Append("audits", pl.DataFrame([row]))], CommitMessage(f"audit {name}", run_id, CODE_VERSION))


def failed_audits(lake: Lake, release: str) -> list[str]:
    """The checks that a release fails, each with what it found."""
    failed = _newest(lake, release).filter(~pl.col("passed")).sort("name")
    return [f"{name}: {detail}" for name, detail in failed.select("name", "detail").iter_rows()]


def fit_for_training(lake: Lake, release: str) -> str:
    """The release's name. Raises AuditFailed where a check of it fails."""
    if failed := failed_audits(lake, release):
        raise AuditFailed(
            f"release {release[:12]} failed its audit and is never trained on: {'; '.join(failed)}. Mend the cause and "
            "materialize training_set again; its checks lift the mark when they pass."
        )
    return release


def _newest(lake: Lake, release: str) -> pl.DataFrame:
    rows = lake.read("audits", {"release": release}).sort("number")
    return rows.unique("name", keep="last", maintain_order=True)
