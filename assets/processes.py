"""Training and reranking processes as assets start them: through Dagster Pipes, finished work not done again."""

import dagster as dg

from training.jobs import RerankJob, RlJob, SftJob, command, finished

# A training process has no use for the teacher's key, and its progress is told in lines, not in bars.
ENVIRONMENT = {"OPENAI_API_KEY": "", "TQDM_DISABLE": "1"}


def run_jobs(
    context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, *jobs: SftJob | RlJob | RerankJob
) -> None:
    """Finish all jobs, those that share a stage in one process. Raises dg.Failure naming the first that did not end."""
    waiting = [job for job in jobs if finished(job) is None]
    if not waiting:
        return
    cause = ""
    try:
        pipes.run(command=command(*waiting), context=context, env=ENVIRONMENT)
    except Exception as error:
        if type(error).__name__ != "DagsterPipesExecutionError":  # Dagster does not export it
            raise
        cause = f" ({error})"
    if lost := [job for job in waiting if finished(job) is None]:
        raise dg.Failure(
            description=f"{lost[0].stage} ended without a result in {lost[0].folder}{cause}. Its last words stand "
            f"above (in the UI: the run's stderr); mend the cause and run it again: finished work is kept.",
            allow_retries=False,
        )
