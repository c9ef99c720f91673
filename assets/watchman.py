"""The sensor that ends runs whose process is gone and whose end nobody saw.

Dagster's code server reports a run whose process dies; one that was killed itself reports nothing, and its runs would
be under way for ever and keep their places in the pools. What this ends, the daemon starts again. Deliberately absent:
runs of other machines, and how a dead one is told (rankmill/dead_runs.py).
"""

import json

import dagster as dg

from rankmill.dead_runs import dead_runs, end_dead_runs, hand_out_places


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def end_lost_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Marks a run as failed whose process was gone in this tick and in the one before; the daemon starts it again."""
    before = set(json.loads(context.cursor or "[]"))
    gone = {run.run_id for run in dead_runs(context.instance)}
    # Once more, since a code server that lives needs a moment to report what it has seen.
    ended = end_dead_runs(context.instance, gone & before)
    hand_out_places(context.instance)
    told = f"ended, since their processes are gone: {', '.join(ended)}" if ended else "no run has lost its process"
    return dg.SensorResult(skip_reason=told, cursor=json.dumps(sorted(gone - set(ended))))


sensors = [end_lost_runs]
