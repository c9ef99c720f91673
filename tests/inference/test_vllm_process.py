"""serving_vllm with a fake of vLLM's server: real processes and real HTTP, started, waited for, and ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inference.vllm import VllmSettings, VllmUnusable, serving_vllm

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")

# What it does is written in the folder that it is told to serve; what it saw is left there.
FAKE = """
import argparse, http.server, json, os, signal, subprocess, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("--model", "--served-model-name", "--host", "--dtype", "--max-model-len", "--tensor-parallel-size"):
    parser.add_argument(name)
parser.add_argument("--port", type=int)
parser.add_argument("--disable-uvicorn-access-log", action="store_true")
parser.add_argument("--enforce-eager", action="store_true")
options = parser.parse_args()
folder = Path(options.model)
does = (folder / "does").read_text()
worker = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); "
                           "print('worker ready', flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
worker.stdout.readline()
if does == "ignores SIGTERM":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
seen = {"pids": [os.getpid(), worker.pid], "environment": dict(os.environ), "options": vars(options), "path": sys.path}
(folder / "seen.part").write_text(json.dumps(seen))
(folder / "seen.part").rename(folder / "seen")
checks = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global checks
        checks += self.path == "/health"
        served = "another" if does == "is another" else options.served_model_name
        body = json.dumps({"data": [{"id": served}]} if self.path == "/v1/models" else {"checks": checks}).encode()
        self.send_response(503 if checks < 3 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

if does == "fails":
    print("INFO loading weights", flush=True)
    print("(Worker pid=7) ERROR [load.py:1] torch.OutOfMemoryError: no room for the weights", flush=True)
    print("(Worker pid=7) ERROR [load.py:2] shutting down\\n" * 60, flush=True)
    raise RuntimeError("the engine did not start, see above")
if does == "dies of memory":
    os.kill(os.getpid(), signal.SIGKILL)
if does == "never answers":
    print("INFO still compiling", flush=True)
    time.sleep(600)
if does == "comes too late":
    rival = http.server.HTTPServer((options.host, options.port), Handler)
http.server.ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()
"""
PARENT = """
import sys
import time
from pathlib import Path
from inference.vllm import VllmSettings, serving_vllm

with serving_vllm(VllmSettings(model=sys.argv[1], served_name="toy", stop_timeout_s=0.3), Path(sys.argv[2])):
    time.sleep(600)
"""
Make = Callable[..., VllmSettings]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Settings for a fake that does as it is told."""
    package = tmp_path / "path" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(FAKE, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    (tmp_path / "model").mkdir()

    def make(does: str = "serves", **settings: Any) -> VllmSettings:
        (tmp_path / "model" / "does").write_text(does, "utf-8")
        return VllmSettings(
            **{"model": str(tmp_path / "model"), "served_name": "toy", "stop_timeout_s": 0.3, **settings}
        )

    return make


def seen(settings: VllmSettings) -> dict[str, Any]:
    return json.loads((Path(settings.model) / "seen").read_text("utf-8"))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(happened: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def all_gone(settings: VllmSettings) -> bool:
    return not any(alive(pid) for pid in seen(settings)["pids"])


def test_the_server_is_up_inside_the_block_and_gone_with_its_worker_after_it(fake: Make, tmp_path: Path) -> None:
    settings = fake(dtype="float32", max_model_len=2048, extra_args=("--enforce-eager",))
    with serving_vllm(settings, tmp_path / "logs" / "vllm.log") as base_url:
        with urllib.request.urlopen(f"{base_url}/models", timeout=5) as answer:
            assert json.load(answer) == {"data": [{"id": "toy"}]}
        assert all(alive(pid) for pid in seen(settings)["pids"])
    wait_until(lambda: all_gone(settings))
    options = seen(settings)["options"]
    assert (options["host"], options["dtype"], options["max_model_len"]) == ("127.0.0.1", "float32", "2048")
    assert base_url == f"http://127.0.0.1:{options['port']}/v1" and options["enforce_eager"]


def test_two_servers_at_once_have_two_ports(fake: Make, tmp_path: Path) -> None:
    settings = fake()
    with serving_vllm(settings, tmp_path / "1.log") as one, serving_vllm(settings, tmp_path / "2.log") as other:
        assert one != other


def test_an_error_in_the_block_comes_out_as_it_is_and_the_server_still_goes(fake: Make, tmp_path: Path) -> None:
    settings = fake()
    with pytest.raises(KeyboardInterrupt), serving_vllm(settings, tmp_path / "vllm.log"):
        raise KeyboardInterrupt
    wait_until(lambda: all_gone(settings))


def test_a_server_that_ignores_sigterm_is_killed_after_its_time(fake: Make, tmp_path: Path) -> None:
    settings = fake("ignores SIGTERM", stop_timeout_s=0.5)
    with serving_vllm(settings, tmp_path / "vllm.log"):
        asked_to_end = time.monotonic()
    assert time.monotonic() - asked_to_end >= 0.5
    wait_until(lambda: all_gone(settings))


@pytest.mark.parametrize("does", ["serves", "never answers"])
def test_it_dies_with_a_parent_that_is_killed(does: str, fake: Make, tmp_path: Path) -> None:
    settings = fake(does)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, settings.model, str(tmp_path / "vllm.log")])
    wait_until((Path(settings.model) / "seen").is_file)
    assert not all_gone(settings)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: all_gone(settings))


def test_the_server_inherits_what_it_needs_but_no_secret_and_stays_quiet(
    fake: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("OPENAI_API_KEY", "VLLM_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")
    for name in secrets:
        monkeypatch.setenv(name, "sk-very-secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    settings = fake(cpu_kv_cache_gib=2)
    with serving_vllm(settings, tmp_path / "vllm.log"):
        guard = next(Path(f"/proc/{pid}/environ").read_bytes() for pid in [parent_of(seen(settings)["pids"][0])])
    environment = seen(settings)["environment"]
    assert not environment.keys() & set(secrets)
    assert "sk-very-secret" not in str(seen(settings)) and b"sk-very-secret" not in guard
    assert environment["CUDA_VISIBLE_DEVICES"] == "1" and environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
    # The working folder has packages of its own names, which vLLM's must not meet.
    assert str(Path.cwd()) not in seen(settings)["path"] and "" not in seen(settings)["path"]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[1])


def test_a_start_that_fails_is_told_with_its_first_error_and_the_end_of_its_log(fake: Make, tmp_path: Path) -> None:
    settings = fake("fails")
    with (
        pytest.raises(VllmUnusable, match="ended with exit code 1 before it was ready") as raised,
        serving_vllm(settings, tmp_path / "vllm.log"),
    ):
        pass
    message = str(raised.value)
    assert "Its first error: torch.OutOfMemoryError: no room for the weights. Where memory is short" in message
    assert message.endswith("RuntimeError: the engine did not start, see above")
    assert "INFO loading weights" not in message and len(message) < 3000
    assert f"{tmp_path / 'vllm.log'} ends:" in message and f"--model {settings.model}" in message
    wait_until(lambda: all_gone(settings))


def test_a_start_that_is_killed_from_outside_points_to_memory(fake: Make, tmp_path: Path) -> None:
    with (
        pytest.raises(VllmUnusable, match=r"killed, most often for want of memory, before.*lower `max_model_len`"),
        serving_vllm(fake("dies of memory"), tmp_path / "vllm.log"),
    ):
        pass


def test_a_start_that_takes_too_long_is_ended(fake: Make, tmp_path: Path) -> None:
    settings = fake("never answers", start_timeout_s=3.0)
    with (
        pytest.raises(VllmUnusable, match=r"not ready for toy within 3 s(.|\n)*INFO still compiling"),
        serving_vllm(settings, tmp_path / "vllm.log"),
    ):
        pass
    wait_until(lambda: all_gone(settings))


def test_a_port_that_was_taken_meanwhile_is_told_as_that(fake: Make, tmp_path: Path) -> None:
    with (
        pytest.raises(VllmUnusable, match=r"Another process took port \d+ .*Run again"),
        serving_vllm(fake("comes too late"), tmp_path / "vllm.log"),
    ):
        pass


def test_a_server_of_another_model_on_our_port_is_not_taken_for_ours(fake: Make, tmp_path: Path) -> None:
    with (
        pytest.raises(VllmUnusable, match=r"answered by a server of another and not by our vLLM"),
        serving_vllm(fake("is another"), tmp_path / "vllm.log"),
    ):
        pass


def test_an_interpreter_without_vllm_is_told_what_to_install(
    tmp_path: Path, fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    venv.create(tmp_path / "bare", symlinks=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    with (
        pytest.raises(VllmUnusable, match=r"bare/bin/python has no vLLM\. Install it there \(.*pip install vllm"),
        serving_vllm(fake(python=python), tmp_path / "vllm.log"),
    ):
        pass


def test_what_is_not_there_is_told_before_anything_starts(tmp_path: Path, fake: Make) -> None:
    for settings, told in (
        (fake(python=str(tmp_path / "none")), "does not exist or is not executable"),
        (fake(model=str(tmp_path / "nothing")), "There is no checkpoint folder"),
    ):
        with pytest.raises(VllmUnusable, match=told), serving_vllm(settings, tmp_path / "vllm.log"):
            pass
    assert not (tmp_path / "vllm.log").exists()


@pytest.mark.parametrize("words", [("--port", "8000"), ("--api-key=x",), ("--served-model-name", "b")])
def test_options_that_are_decided_here_cannot_be_given_again(words: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match=f"{words[0].split('=')[0]} cannot be given"):
        VllmSettings(model="a/b", served_name="b", extra_args=words)
