"""Expectations of the lake's tables: a suite a table, validated once for each state of the lake, its results kept.

    found = examine(lake, Question(active, "release", SUITES), docs=home / "reports" / "data_docs", run_id=run_id)
    failures(found)                                    # expectations that did not hold: rows named, with a remedy

A suite is a file in expectations/: one SELECT that gives light rows (keys, counts, flags; no texts) and what is
expected of them. DuckDB does the heavy part; Great Expectations judges the light rows in a process of its own
(validation.py), so that its import of seconds costs nobody else, and only where a table has changed.

Deliberately absent: the laws of the lake (laws.py), which hold without a suite, and filters, which decide about rows.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field

from warehouse.lake import Append, CommitMessage, Lake, canonical_sha256, now

EXPECTATIONS = Path(__file__).with_name("expectations")
SHOWN = 10  # offending rows that are named; the others are counted
DATA_DOCS = "data_docs"  # below a home's reports
RELEASE, EVALUATION = "release", "evaluation"
# What a suite's SELECT may ask about: the active domains, and the newest release.
_ASKED = "WITH asked AS (SELECT ?::VARCHAR[] AS domains, ?::VARCHAR AS release) "
_TABLE = re.compile(r"(\w+)(?: \w)? \{at\}")  # a table, and perhaps its one-letter alias, read at the snapshot
# Calls that no suite looks at, rerankings by the teacher, come into `exchanges` as well, and change nothing here.
_STANDS_FOR = {"exchanges": "campaign_exchanges"}
_CHANGES = """
    SELECT t.table_name AS name, coalesce(max(c.snapshot_id), 0) AS changed
    FROM ducklake_table_info('lake') t
    LEFT JOIN (SELECT snapshot_id, unnest(flatten(map_values(changes))) AS id FROM lake.snapshots()) c
      ON c.id = t.table_id::VARCHAR
    GROUP BY ALL
"""


class ValidationFailed(RuntimeError):
    """The process that validates ended without results; the message quotes its last words."""


class Expected(BaseModel):
    """One expectation of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    type: str = Field(description="Name of an expectation of Great Expectations.")
    arguments: dict[str, Any] = Field(alias="with", description="Its arguments.")
    says: str = Field(description="The expectation as a sentence.")
    severity: Literal["critical", "warning"] = Field(
        "critical", description="Whether a release stops at it, or only a person is told."
    )
    remedy: str = Field(description="What to do where it does not hold.")


class Suite(BaseModel):
    """What is expected of one table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The table.")
    asset: str = Field(description="The asset that writes the table and carries the check.")
    group: Literal["release", "evaluation"] = Field(description="Before a release is trained on, or after models ran.")
    about: str = Field(description="What a row is, as a sentence.")
    key: tuple[str, ...] = Field(description="Columns that name an offending row.")
    rows: str = Field(description="One SELECT; `{at}` behind a table reads it at the snapshot, `asked` is a relation.")
    expect: tuple[Expected, ...] = Field(min_length=1, description="What must hold.")


@dataclass(frozen=True)
class Question:
    """What is examined: the suites of `assets`, over the active domains and one release (None: there is none)."""

    domains: Sequence[str]
    release: str | None
    assets: Sequence[str]


@cache
def suites() -> tuple[Suite, ...]:
    """All suites, by name."""
    files = sorted(EXPECTATIONS.glob("*.yaml"))
    return tuple(Suite(name=file.stem, **yaml.safe_load(file.read_text("utf-8"))) for file in files)


def assets_of(group: str) -> tuple[str, ...]:
    """The assets that carry a check of this group."""
    return tuple(dict.fromkeys(suite.asset for suite in suites() if suite.group == group))


def examine(lake: Lake, question: Question, docs: Path, run_id: str) -> pl.DataFrame:
    """Rows of quality_results for the suites asked for; nothing is validated where nothing has changed.

    `docs` is the folder of Data Docs, which keep every validation of the past. Raises ValidationFailed.
    """
    chosen = [suite for suite in suites() if suite.asset in question.assets]
    snapshot = lake.snapshot()
    state = _state(lake, question, chosen)
    known = lake.read("quality_results", {"state_sha256": state})
    if known.height and (docs / "index.html").is_file():
        return known
    with tempfile.TemporaryDirectory(prefix="rankmill-quality-") as folder:
        for suite in chosen:
            _rows(lake, suite, question, snapshot).write_parquet(Path(folder) / f"{suite.name}.parquet")
        judged = _validate(Path(folder), docs, question.release)
    shared = {"state_sha256": state, "release": question.release, "snapshot": snapshot, "created_at": now()}
    results = pl.DataFrame([{**shared, **row} for row in judged], schema=_SCHEMA, orient="row")
    if known.is_empty():
        lake.commit([Append("quality_results", results)], CommitMessage("quality_suites", run_id, "1"))
    return results


def newest(lake: Lake, group: str = RELEASE) -> pl.DataFrame:
    """For every suite of a group the results of its last validation."""
    names = [suite.name for suite in suites() if suite.group == group]
    results = lake.read("quality_results").filter(pl.col("suite").is_in(names))
    return results.filter(pl.col("snapshot") == pl.col("snapshot").max().over("suite"))


def newest_states(lake: Lake) -> list[str]:
    """The states that a release's suites were last validated for: what a page that shows them follows from."""
    return sorted(newest(lake)["state_sha256"].unique())


def failures(results: pl.DataFrame, severity: str | None = None) -> list[dict[str, Any]]:
    """Expectations that did not hold, critical ones first."""
    lost = results.filter(~pl.col("passed")).sort("severity", "suite", "expectation")
    return lost.filter(pl.col("severity") == severity).to_dicts() if severity else lost.to_dicts()


def told(failure: dict[str, Any]) -> str:
    """A failure in one line: what does not hold, which rows, what to do."""
    rest = failure["offending"] - len(failure["keys"])
    rows = ", ".join(failure["keys"]) + (f" and {rest:,} more" if failure["keys"] and rest > 0 else "")
    where = f"{failure['offending']:,} of {failure['rows']:,} rows: {rows}" if rows else failure["observed"]
    return f"{failure['suite']}: “{failure['says']}” does not hold ({where}). {failure['remedy']}"


def shown(lost: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Failures as a table for people."""
    return pl.DataFrame(
        [
            {
                "table": failure["suite"], "expectation": failure["says"], "severity": failure["severity"],
                "rows": failure["offending"], "which": ", ".join(failure["keys"]) or failure["observed"],
                "what to do": failure["remedy"],
            }
            for failure in lost
        ]
    )  # fmt: skip


def _state(lake: Lake, question: Question, chosen: Sequence[Suite]) -> str:
    """The hash of all that the results follow from: the suites, what is asked, and each table's newest change."""
    changed = dict(lake.query(_CHANGES).iter_rows())
    read = sorted({_STANDS_FOR.get(table, table) for suite in chosen for table in _TABLE.findall(suite.rows)})
    return canonical_sha256(
        {
            "suites": [suite.model_dump() for suite in chosen],
            "domains": sorted(question.domains),
            "release": question.release,
            "tables": {table: changed[table] for table in read},
        }
    )


def _rows(lake: Lake, suite: Suite, question: Question, snapshot: int) -> pl.DataFrame:
    select = suite.rows.replace("{at}", f"AT (VERSION => {snapshot})")
    return lake.query(f"{_ASKED} {select}", [list(question.domains), question.release])


def _validate(folder: Path, docs: Path, release: str | None) -> list[dict[str, Any]]:
    # The run's name sorts and groups the history in Data Docs.
    name = (release or "no release")[:12]
    command = [sys.executable, "-m", "warehouse.audit.validation", str(folder), str(docs), name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    results = folder / "results.json"
    if ended.returncode or not results.is_file():
        words = "\n".join(ended.stderr.strip().splitlines()[-6:]) or f"exit code {ended.returncode}"
        raise ValidationFailed(
            f"the quality suites could not be validated: {words}\nNothing was stored. Is great-expectations "
            "installed (`make install`), and is there room in the home? Then run the same command again."
        )
    return json.loads(results.read_text("utf-8"))


_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "state_sha256": pl.String, "release": pl.String, "snapshot": pl.Int64, "suite": pl.String, "asset": pl.String,
    "expectation": pl.String, "says": pl.String, "severity": pl.String, "passed": pl.Boolean, "rows": pl.Int64,
    "offending": pl.Int64, "keys": pl.List(pl.String), "observed": pl.String, "remedy": pl.String, "docs": pl.String,
    "created_at": pl.String,
}  # fmt: skip
