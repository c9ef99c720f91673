"""Runs whose process is gone, and runs that nobody will call: nothing waits for ever for a place in a pool.

Dagster's code server marks a run whose process dies while it watches. After a `kill -9` of the server itself, a power
cut, or one of `rankmill run`, nobody watches: then this does, whenever `rankmill run` or `rankmill ui` begins, and
every minute while the daemon runs (assets/watchman.py). Only processes of this machine are judged; after those of a
code server elsewhere a team's launcher asks (run_launcher.py).
"""

import json
import socket
from collections.abc import Collection, Iterator
from typing import Any

PROCESS = "rankmill/process"  # the tag that says which process of which host executes a run
LAUNCHED_ON = (
    "rankmill/launched_on"  # the tag that says which host had a code server start a run; a team's runs have it
)
GRPC_INFO = ".dagster/grpc_info"  # Dagster's own tag: the address of the code server that started a run
POOLS = {"teacher": 1, "accelerator": 1, "lake": 4}


def end_dead_runs(instance: Any, among: Collection[str] | None = None) -> list[str]:
    """Mark every dead run as failed and free its slots; gives their ids. The daemon may start them again.

    Where ids are given, only runs `among` them are looked at.
    """
    ended = []
    for run in dead_runs(instance):
        if among is not None and run.run_id not in among:
            continue
        instance.report_run_failed(run, "its process is gone; what it committed is kept")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run.run_id)
    return ended


def dead_runs(instance: Any) -> Iterator[Any]:
    """Runs that are under way by the books, and whose process is none of this machine's any more."""
    import dagster as dg

    from training.jobs import alive

    going = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=going)):
        pid = _process(instance, run)
        if pid is not None and not alive(pid):
            yield run


def open_pools(instance: Any) -> None:
    """Give every pool its places before a run wants one, but for those whose limit somebody has chosen; and hand out.

    Left to Dagster, the first runs of a new history make a pool of the default limit each, and in PostgreSQL those that
    meet there fail (dagster-postgres 0.29: "duplicate key value", then "current transaction is aborted").
    """
    known = instance.event_log_storage.get_concurrency_keys()
    for name, places in POOLS.items():
        if name not in known:
            instance.event_log_storage.set_concurrency_slots(name, places)
    hand_out_places(instance)


def hand_out_places(instance: Any) -> int:
    """Give every free place of a pool to a step that waits for one; gives how many were handed out.

    Dagster does so whenever a step leaves its place. But one that asked just before and stood in the queue just after
    is passed over, and where nobody comes after it, waits for ever (dagster 1.13: `claim_concurrency_slot` asks and
    enters in two transactions).
    """
    storage, handed_out = instance.event_log_storage, 0
    for name in storage.get_concurrency_keys():
        pool = storage.get_concurrency_info(name)
        assigned = sum(step.assigned_timestamp is not None for step in pool.pending_steps)
        free = min(pool.slot_count - assigned, len(pool.pending_steps) - assigned)
        for _ in range(free):
            storage.assign_pending_steps([name])
            handed_out += 1
    return handed_out


def executed_here(instance: Any, run: Any) -> bool:
    """Whether a process of this machine is executing a run."""
    from training.jobs import alive

    pid = _process(instance, run)
    return pid is not None and alive(pid)


def _process(instance: Any, run: Any) -> int | None:
    """The process that executes a run; None where it is another machine's, or has not begun."""
    import dagster as dg

    server = json.loads(run.tags.get(GRPC_INFO, "{}"))
    host, _, pid = run.tags.get(PROCESS, "").partition("/")
    if pid and not server:  # one that is executed again in the UI has the tag of the first
        return int(pid) if host == socket.gethostname() else None
    if "postgres" in type(instance.run_storage).__module__ and not _is_here(server, run.tags.get(LAUNCHED_ON)):
        return None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        found = entry.dagster_event.engine_event_data.metadata.get("pid")
        if found is not None and entry.dagster_event.message.startswith("Started process for run"):
            return int(found.value)
    return None


def _is_here(server: dict[str, Any], launched_on: str | None) -> bool:
    """Whether a code server is this machine's: its address leads nowhere else, and was used here."""
    here = socket.gethostname()
    local = "socket" in server or server.get("host") in ("localhost", "127.0.0.1", "::1", here)
    return local and launched_on == here
