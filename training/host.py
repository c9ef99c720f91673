"""The machine a training process runs on: threads, memory, GPUs and silence, set once at its start, before torch.

Deliberately absent: choosing a device (see `ranks.best_device`), and any other change to a setting of the user's than
to keep the first of several GPUs.
"""

import ctypes
import ctypes.util
import os
import sys
from types import TracebackType

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MIB = 2**20


def settle() -> None:
    """Prepare this process; call it before torch is imported, since libgomp and the hub client read these once."""
    # Spinning threads starve each other when two cores are shared: one decoding step took 2.2 s instead of 0.15.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if "WORLD_SIZE" not in os.environ:
        # One process is one GPU: over several, transformers' Trainer would wrap the model in DataParallel, which takes
        # packed sequences apart and hides the model's parts from the losses that ask for them.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    sys.excepthook = _quiet_at_ctrl_c
    keep_memory()


def _quiet_at_ctrl_c(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Whoever stops a run knows it: a page of where this process was at that moment hides what the run says last."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


def keep_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing every large tensor back to the kernel; False elsewhere.

    On a virtual CPU machine the page faults of fresh tensors otherwise cost as much as the arithmetic (measured:
    60 s of system time in six steps of SmolLM2-135M, 20 s with this).
    """
    name = ctypes.util.find_library("c")
    libc = ctypes.CDLL(name) if name else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2_047 * _MIB, _M_TOP_PAD: 64 * _MIB}
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in settings.items())
