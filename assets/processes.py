"""Training and reranking processes as assets start them: finished work is not done again."""

import time
from collections.abc import Sequence

import dagster as dg

from assets.places import Place
from assets.tasks import ProcessFailed, ProcessKilled
from training.faults import less_memory
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
    except ProcessKilled:
        if lost := _unfinished(waiting):
            raise dg.Failure(description=_killed(lost[0]), allow_retries=False) from None
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


def _killed(job: SftJob | RlJob | RerankJob) -> str:
    """What to do about a process that signal 9 ended."""
    lower, kept = f"Lower decoding.batch ({job.recipe.decoding.batch})", "finished work is kept"
    if not isinstance(job, RerankJob):
        lower, kept = less_memory(job), "its last checkpoint is kept, and the same command goes on from there"
    return (
        f"{job.stage} ended without a result in {job.folder}: its process was killed by signal 9. Likely cause: this "
        f"machine was out of memory, and the kernel ended it (`dmesg` names it then), or somebody's kill -9. Run it "
        f"again: {kept}. Where memory is out again: {lower}, in the recipe or the profile; the stage starts anew then."
    )


def _unfinished(jobs: Sequence[SftJob | RlJob | RerankJob]) -> list[SftJob | RlJob | RerankJob]:
    return [job for job in jobs if finished(job) is None]
