"""Processes as jobs of a Ray cluster, through dagster-ray.

A job is submitted to the cluster's dashboard and runs on one node that has what it needs; its output, Pipes messages
and all, is its Ray log. What the node's `ray start` has in its environment the process has too: secrets belong there,
since Ray shows what a job is given. Deliberately absent: starting clusters, and spreading one stage over several nodes.
"""

import secrets
import shlex

from dagster_ray import PipesRayJobClient
from dagster_ray.core.pipes import SubmitJobParams

from assets.tasks import ProcessFailed, Task
from rankmill.places import Ray, RayNeeds


def run_on_ray(place: Ray, needs: RayNeeds, task: Task) -> None:
    """Do a task as a Ray job. Raises ProcessFailed: with the end of the job's log, or where no cluster answers."""
    params: SubmitJobParams = {
        "submission_id": f"{task.name}-{secrets.token_hex(4)}",
        "entrypoint": shlex.join([place.python, *task.command]),
        "runtime_env": {"env_vars": dict(task.env)},
        "entrypoint_num_cpus": needs.cpus,
        "entrypoint_num_gpus": needs.gpus,
        "entrypoint_resources": dict(needs.resources),
    }
    if needs.memory_gb is not None:
        params["entrypoint_memory"] = int(needs.memory_gb * 1e9)
    client = PipesRayJobClient(address=place.address)
    try:
        client.run(context=task.context, submit_job_params=params)
    except ConnectionError as error:
        raise ProcessFailed(f"Ray at {place.address} does not answer: {error}; try: ray status") from error
    except RuntimeError as error:
        raise ProcessFailed(str(error)) from error
