"""A campaign's figures for Prometheus, served on loopback while a run lasts.

    with serving_metrics(9464) as watch:
        engine.ask(requests, on_progress=watch)

Absent on purpose: histograms and history; the stored exchanges answer those after the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inference.progress import Progress

PREFIX = "rankmill_label_"


class PortTaken(OSError):
    """The port for the figures cannot be listened on."""


@contextmanager
def serving_metrics(port: int) -> Iterator[Callable[[Progress], None]]:
    """Serve http://127.0.0.1:<port>/metrics; gives the callback that brings the figures up to date."""
    from prometheus_client import CollectorRegistry, Gauge, start_http_server

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise PortTaken(
            f"metrics cannot be served on 127.0.0.1:{port}: {error}. Choose another metrics_port, or leave it out."
        ) from error

    def watch(progress: Progress) -> None:
        for name, value in progress.figures.items():
            if name not in gauges:
                gauges[name] = Gauge(f"{PREFIX}{name}", f"{name.replace('_', ' ')} of the run", registry=registry)
            gauges[name].set(value)

    try:
        yield watch
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
