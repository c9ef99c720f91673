"""The logger that a run speaks on: the front door listens to PROGRESS, the web UI reads the event log."""

import logging

import dagster as dg

PROGRESS = "rankmill.progress"


@dg.logger(None, description="Passes events and what assets say on to whoever listens in this process.")
def console(_: dg.InitLoggerContext) -> logging.Logger:
    """The progress logger; silent until somebody listens."""
    logger = logging.getLogger(PROGRESS)
    logger.setLevel(logging.DEBUG)  # Dagster logs its events at this level
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger
