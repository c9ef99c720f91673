"""A webhook's server on loopback, for the tests of alerts."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

SECRET = "T0KEN-in-the-path"


class Webhook(HTTPServer):
    """Answers with the statuses laid out, the last one again and again; `texts` is what it was told."""

    def __init__(self, answers: tuple[int, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.texts: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path.endswith(SECRET) and list(body) == ["text"]
        server.texts.append(body["text"])
        self.send_response(server.answers.pop(0) if len(server.answers) > 1 else server.answers[0])
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def webhook(*answers: int) -> Iterator[Webhook]:
    """A server for the length of a block."""
    server = Webhook(answers or (200,))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
