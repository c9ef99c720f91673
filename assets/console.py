"""What a run says on its process's own logger: the assets' words, not Dagster's events.

The front door listens to the logger PROGRESS and shows it; the web UI reads the same words from the event log.
"""

import logging

import dagster as dg

PROGRESS = "rankmill.progress"


@dg.logger(description="Passes on what assets say with context.log; leaves out Dagster's own events.")
def console(_: dg.InitLoggerContext) -> logging.Logger:
    """The progress logger, without the records of Dagster's events."""
    logger = logging.getLogger(PROGRESS)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
        logger.addFilter(_is_spoken_by_an_asset)
    return logger


def _is_spoken_by_an_asset(record: logging.LogRecord) -> bool:
    meta = getattr(record, "dagster_meta", None) or {}
    event = meta.get("dagster_event") if isinstance(meta, dict) else getattr(meta, "dagster_event", None)
    return event is None
