"""A team's runs: started by code servers, and asked after. Named in dagster-team.yaml.

Dagster's run monitoring asks a launcher every minute how a run's process fares, and Dagster's own has no answer. This
one asks the code server that started the run. A server that does not answer proves nothing: it may be slow, or be on
its way back. One that answers and knows nothing of the run was started anew, and its former processes went with it, as
they do in a container and under systemd; where they are this machine's own, they are looked at (dead_runs.py).

Deliberately absent: runs on Kubernetes, after which Dagster's launcher there asks the cluster, and resuming.
"""

import socket
from typing import Any

from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun

from rankmill.dead_runs import LAUNCHED_ON, executed_here

ANSWER_S = 10  # a monitor that asks after many runs waits for each


class AskingRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which also says whether a run that is under way still has a process."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It can say how a run's process fares."""
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Have a code server start a run, and keep which machine asked it to."""
        self._instance.add_run_tags(context.dagster_run.run_id, {LAUNCHED_ON: socket.gethostname()})
        super().launch_run(context)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED where the process is gone for certain, else RUNNING: the monitor ends a run at any other word."""
        if self._known_to_its_server(run) is not False:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if executed_here(self._instance, run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its code server is gone, and its process is not")
        return CheckRunHealthResult(WorkerStatus.FAILED, "its code server was started anew and does not execute it")

    def _known_to_its_server(self, run: DagsterRun) -> bool | None:
        """Whether the code server that started a run still has it; None where none did, or it does not answer."""
        from dagster._core.errors import DagsterUserCodeUnreachableError
        from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
        from dagster._serdes import deserialize_value

        client = self._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return None
        request: Any = CanCancelExecutionRequest(run_id=run.run_id)
        try:
            answer = client.can_cancel_execution(request, timeout=ANSWER_S)
        except DagsterUserCodeUnreachableError:
            return None
        return deserialize_value(answer, CanCancelExecutionResult).can_cancel
