"""Training and reranking processes as assets start them: finished work is not done again."""

import time
from collections.abc import Sequence

import dagster as dg

from assets.places import Place, ProcessFailed
from training.jobs import RerankJob, RlJob, SftJob, command, finished

# A training process has no use for the teacher's key, and its progress is told in lines, not in bars.
ENVIRONMENT = {"OPENAI_API_KEY": "", "TQDM_DISABLE": "1"}
LOOK_AGAIN_S = 1.0


def run_jobs(context: dg.AssetExecutionContext, place: Place, *jobs: SftJob | RlJob | RerankJob) -> None:
    """Finish all jobs, those that share a stage in one process. Raises dg.Failure naming the first that did not end."""
    waiting = _unfinished(jobs)
    if not waiting:
        return
    cause, patience = "", 0.0
    try:
        patience = place.run(context=context, stage=waiting[0].stage, command=command(*waiting), env=ENVIRONMENT)
    except ProcessFailed as failed:
        cause = f" ({failed})"
    until = time.monotonic() + patience
    while (lost := _unfinished(waiting)) and time.monotonic() < until:
        time.sleep(LOOK_AGAIN_S)
    if lost:
        seen = " It ended well: does it see this home under the same path?" if patience and not cause else ""
        raise dg.Failure(
            description=f"{lost[0].stage} ended without a result in {lost[0].folder}{cause}.{seen} Its last words "
            f"stand above (in the UI: the run's stderr); mend the cause and run it again: finished work is kept.",
            allow_retries=False,
        )


def _unfinished(jobs: Sequence[SftJob | RlJob | RerankJob]) -> list[SftJob | RlJob | RerankJob]:
    return [job for job in jobs if finished(job) is None]
