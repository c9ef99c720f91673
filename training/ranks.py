"""The processes of one stage: which of them this is, and how they keep together.

    join()                                    # before the first of the others
    if first(): write(...)
    wait()                                    # nobody goes on before all are here
    same(value)                               # the first process's value, in all of them
    best_device()                             # where this one computes

`accelerate launch` starts several processes, each with a part of every batch; plain python starts one, for which all
of this is free. The first one alone writes, reports and decides by the clock. Deliberately absent: how weights and
gradients are shared out, which is accelerate's business and its configuration's (profiles/accelerate).
"""

import os
from datetime import timedelta
from typing import Any, TypeVar

Value = TypeVar("Value")
# The others wait while the first ranks dev rows or writes a checkpoint of a large model; torch and DeepSpeed would end
# them after ten minutes. Whoever waits for a process that has died is ended by accelerate at once.
PATIENCE = timedelta(hours=12)


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process that writes and reports."""
    return rank() == 0


def sharded() -> bool:
    """Whether no process holds all weights (DeepSpeed, FSDP)."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("DEEPSPEED", "FSDP"))


def best_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def join() -> None:
    """Meet the other processes, and take the device that is this one's."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=best_device() == "cpu", timeout=PATIENCE)


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def same(value: Value) -> Value:
    """What the first process holds."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    held: list[Any] = [value]
    broadcast_object_list(held)
    agreed: Value = held[0]
    return agreed


def everyone(value: Value) -> list[Value]:
    """What each process holds, in their order."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))
