"""A campaign's figures over real HTTP, as Prometheus reads them while it runs."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from asking import Check, EngineFor, Make
from salt_water import DEAR

from inference.breaker import BreakerSettings
from inference.budget import Budget
from inference.engine import ask_all
from inference.metrics import PREFIX, PortTaken, serving_metrics
from inference.progress import Progress
from inference.standin.faults import Faults
from inference.standin.server import running_standin

FIGURES = {
    "total", "done", "good", "cache_hits", "repaired", "calls", "answers", "prompt_tokens", "completion_tokens", "usd",
    "requests_per_s", "tokens_per_s", "eta_s", "in_flight", "concurrency", "oldest_in_flight_s", "waiting_for_batches",
    "waited_for_batches", "without_room", "batch_files_deleted", "batch_files_left", "spent_usd", "spent_tokens",
    "budget_usd", "budget_tokens", "elapsed_s",
}  # fmt: skip
OF_A_KIND = ("faulty_", "failed_", "trouble_")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def scraped(port: int) -> dict[str, float]:
    """The page as a scraper reads it: a value for every name, each with its type."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        assert page.headers["Content-Type"].startswith("text/plain")
        lines = page.read().decode().splitlines()
    values = {name: float(value) for name, value in (line.split(" ") for line in lines if not line.startswith("#"))}
    assert {f"# TYPE {name} gauge" for name in values} <= set(lines)
    assert all(name.startswith(PREFIX) for name in values)
    return {name.removeprefix(PREFIX): value for name, value in values.items()}


def test_the_figures_of_a_running_campaign_can_be_read_and_end_as_its_progress_ends(
    engine_for: EngineFor, some_requests: Make, full_list: Check
) -> None:
    port, pages, pictures = free_port(), [], []
    stored, requests = some_requests(10), some_requests(80)
    faults = Faults(
        latency_s=0.02, rate_garbage=0.2, rate_refusal=0.1, rate_500=0.1, rate_reset=0.05, rate_half_body=0.05
    )
    with running_standin() as server:
        ask_all(engine_for(server, prices=DEAR), stored, full_list)
    with running_standin(faults) as server, serving_metrics(port) as watch:
        assert scraped(port) == {}

        def both(progress: Progress) -> None:
            watch(progress)
            pictures.append(progress)
            pages.append(scraped(port))

        engine = engine_for(server, prices=DEAR, budget=Budget(usd=1e6, tokens=10**9), max_in_flight=8, max_attempts=2)
        engine = replace(engine, breaker=BreakerSettings(unanswered_in_a_row=80))
        ask_all(engine, requests, full_list, on_progress=both, every_s=0.02)
        after = scraped(port)
    last = pictures[-1]
    assert after == pages[-1]
    assert set(after) >= FIGURES and all(name.startswith(OF_A_KIND) for name in set(after) - FIGURES)
    assert after["total"] == after["done"] == 80 and after["good"] + faulty(after) + failed(after) == 80
    assert after["cache_hits"] == 10 and after["calls"] == last.calls > 70
    assert after["answers"] == server.counts["answered"]
    assert (after["budget_usd"], after["budget_tokens"]) == (1e6, 1e9)
    assert after["trouble_500"] == server.counts["500"] > 0 < after["trouble_half_body"]
    assert after["faulty_malformed"] == last.faulty["malformed"] > 0
    # It was read on the way, and what is counted never went back.
    assert len(pages) > 4 and any(0 < page["done"] < 80 and page["in_flight"] > 0 for page in pages)
    for name in ("done", "calls", "answers", "usd", "completion_tokens", "elapsed_s", "repaired", "spent_usd"):
        assert [page[name] for page in pages] == sorted(page[name] for page in pages), name
    for page, picture in zip(pages, pictures, strict=True):
        assert (page["done"], page["total"], page["usd"]) == (picture.done, 80, pytest.approx(picture.usd))
        assert (page["in_flight"], page["spent_tokens"]) == (picture.in_flight, picture.spent.tokens)
        if picture.eta_s is not None:
            assert page["eta_s"] == pytest.approx(picture.eta_s)
    assert any(0 < page.get("eta_s", 0) < 60 for page in pages)


def faulty(page: dict[str, float]) -> float:
    return sum(value for name, value in page.items() if name.startswith("faulty_"))


def failed(page: dict[str, float]) -> float:
    return sum(value for name, value in page.items() if name.startswith("failed_"))


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        told = rf"metrics cannot be served on 127\.0\.0\.1:{port}: .*in use.* Choose another metrics_port"
        with pytest.raises(PortTaken, match=told), serving_metrics(port):
            pass


def test_two_campaigns_cannot_show_their_figures_on_one_port() -> None:
    port = free_port()
    with serving_metrics(port):
        with pytest.raises(PortTaken), serving_metrics(port):
            pass
        assert scraped(port) == {}, "the first one goes on"


@pytest.mark.parametrize("end", [None, LookupError("the campaign broke off")])
def test_the_port_is_free_when_the_campaign_has_ended_however_it_ended(end: Exception | None) -> None:
    port = free_port()
    for _ in range(2):
        try:
            with serving_metrics(port):
                scraped(port)
                if end is not None:
                    raise end
        except LookupError as error:
            assert error is end
        with pytest.raises(urllib.error.URLError, match="refused"):
            scraped(port)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()


def test_the_figures_are_served_on_one_address_of_this_machine_alone() -> None:
    port = free_port()
    with serving_metrics(port):
        scraped(port)
        # Another address of the same machine: who listens on all of them listens there.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5).close()
