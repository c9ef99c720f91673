"""A real Slurm of one node for the length of a test: munged, slurmctld and slurmd on loopback, in a folder of theirs.

Its two GPUs are empty files: Slurm counts them, and nobody computes on them.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
SEARCHED = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
CONF = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """The cluster's slurm.conf. Skips where a program of it is missing, or where this is not root."""
    found = {name: shutil.which(name, path=SEARCHED) for name in PROGRAMS}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"no {', '.join(missing)} on this machine: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("slurmctld and slurmd want root here")
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    for number in range(2):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n", "utf-8")
    conf.write_text(CONF.format(host=host, folder=folder, ports=_ports(2), cpus=os.cpu_count()), "utf-8")
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    commands = {
        "munged": ["--foreground", "--force", f"--socket={folder}/munge.socket", *files],
        "slurmctld": ["-D", "-f", str(conf)],
        "slurmd": ["-D", "-f", str(conf)],
    }
    with ExitStack() as running:
        for name, arguments in commands.items():
            running.enter_context(_server([str(found[name]), *arguments], folder / f"{name}.out"))
        for _ in range(300):
            state = subprocess.run(
                [str(found["sinfo"]), "--noheader", "--format=%T"], capture_output=True, text=True, check=False,
                env=os.environ | {"SLURM_CONF": str(conf)},
            )  # fmt: skip
            if state.stdout.strip() == "idle":
                break
            time.sleep(0.2)
        else:
            words = "\n".join((folder / f"{name}.out").read_text("utf-8") for name in commands)
            pytest.fail(f"Slurm does not come up: {state.stdout}{state.stderr}\n{words}")
        yield conf


@contextmanager
def _server(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
