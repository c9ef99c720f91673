"""What the rerank server counts, in Prometheus' text form.

Absent on purpose: anything of a request's content, and labels that a caller could make many of.
"""

from __future__ import annotations

from inference.server.ranker import Ranking

PREFIX = "rankmill_rerank"


class Figures:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests by path and status (499: gone).", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{PREFIX}_seconds",
            "Seconds of answered requests, from the first byte to the last.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
            registry=self.registry,
        )
        self.documents = Counter(f"{PREFIX}_documents", "Documents that were ordered.", registry=self.registry)
        self.calls = Counter(f"{PREFIX}_model_calls", "Windows that the model was asked about.", registry=self.registry)
        self.malformed = Counter(
            f"{PREFIX}_malformed", "Answers of the model that broke its grammar.", ["kind"], registry=self.registry
        )
        self.tokens = Counter(
            f"{PREFIX}_tokens", "Tokens read and written by the model.", ["direction"], registry=self.registry
        )
        self.waiting = Gauge(
            f"{PREFIX}_waiting_requests", "Requests that were admitted and are not answered.", registry=self.registry
        )
        self.waiting_documents = Gauge(
            f"{PREFIX}_waiting_documents", "Documents of these requests.", registry=self.registry
        )
        self.ready = Gauge(f"{PREFIX}_ready", "1 where the model is loaded.", registry=self.registry)
        self.starts = Gauge(
            f"{PREFIX}_model_starts", "How often the model's process was started.", registry=self.registry
        )

    def ranked(self, documents: int, ranking: Ranking) -> None:
        """Count an answered list."""
        self.documents.inc(documents)
        self.calls.inc(ranking.calls)
        self.tokens.labels("input").inc(ranking.input_tokens)
        self.tokens.labels("output").inc(ranking.output_tokens)
        for kind, count in ranking.malformed.items():
            self.malformed.labels(kind).inc(count)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
