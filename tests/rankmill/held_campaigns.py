"""A job that takes a place in a pool and keeps it while the file HOLD is there: code for a code server of tests."""

import os
import time
from pathlib import Path

import dagster as dg


@dg.op(pool="teacher")
def asks() -> None:
    """Asks for as long as it is held."""
    while Path(os.environ["HOLD"]).exists():
        time.sleep(0.1)


@dg.job(executor_def=dg.in_process_executor)
def campaign() -> None:
    """One op in a pool."""
    asks()


defs = dg.Definitions(jobs=[campaign])
