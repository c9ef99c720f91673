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
        own = {"registry": self.registry}
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests by path and status (499: gone).", ["path", "status"], **own
        )
        self.seconds = Histogram(
            f"{PREFIX}_seconds",
            "Seconds of answered requests, from the first byte to the last.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
            **own,
        )
        self.documents = Counter(f"{PREFIX}_documents", "Documents that were ordered.", **own)
        self.calls = Counter(f"{PREFIX}_model_calls", "Windows that the model was asked about.", **own)
        self.malformed = Counter(f"{PREFIX}_malformed", "Answers of the model that broke its grammar.", ["kind"], **own)
        self.tokens = Counter(f"{PREFIX}_tokens", "Tokens read and written by the model.", ["direction"], **own)
        self.waiting = Gauge(f"{PREFIX}_waiting_requests", "Requests that were admitted and are not answered.", **own)
        self.waiting_documents = Gauge(f"{PREFIX}_waiting_documents", "Documents of these requests.", **own)
        self.ready = Gauge(f"{PREFIX}_ready", "1 where the model is loaded.", **own)
        self.starts = Gauge(f"{PREFIX}_model_starts", "How often the model's process was started.", **own)

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
