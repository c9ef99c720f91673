"""Tags of runs: which of them a clock or a sensor has started, so that a night's budget pays for them."""

from collections.abc import Mapping

NIGHT = "rankmill/night"  # the night whose chain a run belongs to: its date
RUNS = "rankmill/night_runs"  # how many runs of its job that night has
PARTITION = "dagster/partition"
ARRIVED = "rankmill/arrived"  # the content of the watched folder that a run labels


def unattended(tags: Mapping[str, str]) -> bool:
    """Whether a run was started by the schedule or a sensor, and by no person."""
    return NIGHT in tags or ARRIVED in tags
