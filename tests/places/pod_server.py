"""As much of the Kubernetes API as a pod's life takes: its containers are processes of this machine.

    with PodServer() as server: server.kubeconfig(folder), server.created, server.deleted

Pods are created, listed by name and by labels, their logs followed with timestamps, and deleted (which kills them).
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

REASONS = {0: "Completed", 128 + signal.SIGKILL: "OOMKilled"}


class Pod:
    """A pod as it was asked for, and the process that its container is."""

    def __init__(self, body: dict[str, Any], folder: Path) -> None:
        self.body = body
        self.name: str = body["metadata"]["name"]
        self.labels: dict[str, str] = body["metadata"].get("labels", {})
        (container,) = body["spec"]["containers"]
        self.container = container
        self.log = folder / f"{self.name}.log"
        given = {one["name"]: one["value"] for one in container.get("env", [])}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                container["command"], stdout=log, stderr=log, env=os.environ | given, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        """As a container runtime tells it: 128 and the signal's number where one ended it."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    def seen(self) -> dict[str, Any]:
        """The pod as the API shows it."""
        code, now = self.exit_code, datetime.now(UTC).isoformat()
        state: dict[str, Any] = {"running": {"startedAt": now}}
        if code is not None:
            state = {"terminated": {"exitCode": code, "reason": REASONS.get(code, "Error"), "finishedAt": now}}
        status = {
            "name": self.container["name"], "image": self.container["image"], "imageID": "", "restartCount": 0,
            "ready": code is None, "state": state,
        }  # fmt: skip
        return {**self.body, "status": {"phase": "Running", "containerStatuses": [status]}}


class PodServer:
    """The API of a cluster of one machine, on loopback."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.pods: dict[str, Pod] = {}
        self.refuse: str | None = None

    def __enter__(self) -> "PodServer":
        self._folder = tempfile.TemporaryDirectory()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, Path(self._folder.name)))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods.values():
            pod.process.kill()
        self._http.shutdown()
        self._http.server_close()
        self._folder.cleanup()

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that leads here."""
        here = {"cluster": "toy", "user": "toy"}
        path = folder / "kubeconfig.yaml"
        value = {
            "apiVersion": "v1", "kind": "Config", "current-context": "toy",
            "clusters": [{"name": "toy", "cluster": {"server": f"http://127.0.0.1:{self._http.server_port}"}}],
            "users": [{"name": "toy", "user": {}}], "contexts": [{"name": "toy", "context": here}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(value), "utf-8")
        return path

    def found(self, asked: dict[str, list[str]]) -> list[Pod]:
        """The pods that a field selector or a label selector names."""
        field, label = asked.get("fieldSelector", [""])[0], asked.get("labelSelector", [""])[0]
        name = field.removeprefix("metadata.name=")
        key, _, value = label.partition("=")
        return [
            pod
            for pod in self.pods.values()
            if (not field or pod.name == name) and (not label or pod.labels.get(key) == value)
        ]


def _handler(server: PodServer, folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if server.refuse is not None:
                self._answer(403, {"kind": "Status", "message": server.refuse})
                return
            server.created.append(body)
            pod = Pod(body, folder)
            server.pods[pod.name] = pod
            self._answer(201, pod.seen())

        def do_GET(self) -> None:
            url = urlparse(self.path)
            if url.path.endswith("/log"):
                self._log(server.pods[url.path.split("/")[-2]], parse_qs(url.query))
            elif url.path.endswith("/pods"):
                items = [pod.seen() for pod in server.found(parse_qs(url.query))]
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})
            else:
                self._answer(200, {"kind": "EventList", "apiVersion": "v1", "items": []})

        def do_DELETE(self) -> None:
            pod = server.pods.pop(urlparse(self.path).path.split("/")[-1])
            server.deleted.append(pod.name)
            if pod.exit_code is None:
                os.killpg(pod.process.pid, signal.SIGKILL)
            pod.process.wait()
            self._answer(200, pod.seen())

        def _log(self, pod: Pod, asked: dict[str, list[str]]) -> None:
            self.send_response(200)
            self.end_headers()
            with pod.log.open("rb") as log:
                while True:
                    ended = pod.exit_code is not None
                    for line in log.readlines():
                        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
                        self.wfile.write((stamp if "timestamps" in asked else b"") + line)
                        time.sleep(1e-5)  # no two lines bear the same time
                    self.wfile.flush()
                    if ended or "follow" not in asked:
                        return
                    time.sleep(0.05)

        def _answer(self, code: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
