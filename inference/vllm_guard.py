"""The process between us and a server: it starts the server, and ends it with all its children once we are gone.

    python -I inference/vllm_guard.py STOP_TIMEOUT_S COMMAND...     # standard input: a pipe that the parent holds open

When the parent closes the pipe, or dies in whatever way (the kernel then closes it), the server gets SIGTERM, so that
it ends its workers in its own order. Once it has ended, or after STOP_TIMEOUT_S, whatever is left of its process group
gets SIGKILL. The exit code is the server's, 128 + n for signal n.

A pipe, and not Linux's PR_SET_PDEATHSIG: that one follows the thread that made the child and not its process, reaches
the child but none of its workers, and has to be set between fork and exec, which a parent with threads must not do.
The trap that is left: a fork of the parent without exec keeps the pipe open, and the server up, until it ends as well.

Absent on purpose: any import from rankmill, and anything about vLLM; the file runs by its path.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress


def main() -> None:
    """Start the command, wait for its end or for that of standard input, and leave nothing behind."""
    stop_timeout_s, *command = sys.argv[1:]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    # os.read and not sys.stdin: a daemon thread inside a buffered reader aborts the interpreter at its exit.
    threading.Thread(target=_stop_at_end_of_input, args=(server, float(stop_timeout_s)), daemon=True).start()
    code = server.wait()
    _kill_group(server)
    sys.exit(code if code >= 0 else 128 - code)


def _stop_at_end_of_input(server: subprocess.Popen[bytes], stop_timeout_s: float) -> None:
    while os.read(0, 4096):
        pass
    server.terminate()
    time.sleep(stop_timeout_s)
    _kill_group(server)


def _kill_group(server: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
