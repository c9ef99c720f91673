"""Processes as pods of a Kubernetes cluster, through dagster-k8s.

The pod is what the profile says, with the command, its share of the cluster and the Pipes variables put into its one
container; its log is read while it runs, and it is deleted when it has ended or the run is cancelled. Secrets come into
it by `container.envFrom`. Deliberately absent: jobs that Kubernetes starts again by itself, since Dagster does that.
"""

import copy
import secrets
from typing import Any

from dagster_k8s import PipesK8sClient
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sError, DagsterK8sUnrecoverableAPIError
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.config import ConfigException, load_config
from urllib3.exceptions import HTTPError

from assets.tasks import ProcessFailed, Task
from rankmill.places import Kubernetes, PodNeeds

FOREVER = 0.0
MARK = "rankmill/process"


def run_in_pod(place: Kubernetes, needs: PodNeeds, task: Task) -> None:
    """Do a task in a pod. Raises ProcessFailed: what became of the pod, or why there is none."""
    client = PipesK8sClient(kubeconfig_file=place.kubeconfig, poll_interval=place.poll_seconds)
    mark = f"{task.name}-{secrets.token_hex(4)}"
    try:
        load_config(config_file=place.kubeconfig)
        try:
            client.run(
                context=task.context,
                image=place.image,
                command=[place.python, *task.command],
                namespace=place.namespace,
                env=task.env,
                base_pod_meta={"labels": {"app": "rankmill", MARK: mark}},
                base_pod_spec=pod_spec(place, needs),
                pod_wait_timeout=FOREVER,
                delete_pod_on_completion=False,  # until it was asked how it ended
            )
        except (DagsterK8sError, DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError) as error:
            raise ProcessFailed(f"{_end_of(place, mark)}{error}") from error
        finally:
            _delete(place, mark)
    except ConfigException as error:
        raise ProcessFailed(f"no cluster to ask: {error}; try: kubectl get pods -n {place.namespace}") from error
    except ApiException as error:
        raise ProcessFailed(f"Kubernetes refused ({error.status} {error.reason}): {error.body}") from error
    except HTTPError as error:
        raise ProcessFailed(f"Kubernetes does not answer: {error}; try: kubectl get nodes") from error


def pod_spec(place: Kubernetes, needs: PodNeeds) -> dict[str, Any]:
    """The spec of a stage's pod, but for image, command and Pipes variables."""
    share: dict[str, str] = {"cpu": str(needs.cpus)}
    if needs.memory_gb is not None:
        share["memory"] = f"{needs.memory_gb:g}G"
    limits = {name: amount for name, amount in share.items() if name != "cpu"}
    if needs.gpus:
        limits[place.gpu] = str(needs.gpus)
    container = {**place.container, "resources": {"requests": share, "limits": limits}}
    return copy.deepcopy({**place.pod, **needs.pod, "containers": [container]})


def _end_of(place: Kubernetes, mark: str) -> str:
    """How the container ended, since a process that was killed for its memory has no last words."""
    for pod in CoreV1Api().list_namespaced_pod(place.namespace, label_selector=f"{MARK}={mark}").items:
        for status in pod.status.container_statuses or []:
            if (ended := status.state.terminated) is not None:
                return f"the pod's process ended with exit code {ended.exit_code} ({ended.reason}). "
    return ""


def _delete(place: Kubernetes, mark: str) -> None:
    for pod in CoreV1Api().list_namespaced_pod(place.namespace, label_selector=f"{MARK}={mark}").items:
        CoreV1Api().delete_namespaced_pod(pod.metadata.name, place.namespace)
