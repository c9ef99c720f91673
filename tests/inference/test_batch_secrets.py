"""Batch mode and the API key: it stays out of errors, logs, progress and the store."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import Check, Make
from batch_runs import BatchFor, nothing_is_held
from gate import gate_before
from servers import serving
from test_secrets import ECHOES, KEY, dumped, echoing, traces

from inference.breaker import EndpointDown
from inference.endpoint import EndpointRefused
from inference.engine import ask_all
from inference.exchange import Exchange
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore


def test_the_key_stays_out_of_errors_logs_progress_and_the_store(
    batches_for: BatchFor, some_requests: Make, full_list: Check, store: ExchangeStore, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-plantedsecret-0123456789"
    lines: list[str] = []
    with running_standin(api_key="another") as server:
        engine = batches_for(server, key=secret)
        try:
            ask_all(engine, some_requests(3), full_list, on_progress=lambda p: lines.append(p.line + repr(p)))
        except EndpointRefused as error:
            lines += [*traceback.format_exception(error), repr(error.__context__), repr(engine)]
        assert "key refused" in "".join(lines) and "incorrect API key provided: Bearer ***" in "".join(lines)
    assert nothing_is_held(store)
    faults = Faults(rate_garbage=0.3, rate_500=0.3)
    with running_standin(faults, api_key=secret) as server, gate_before(server.base_url) as gate:
        # An endpoint that answers with the key, wherever it can.
        gate.at["GET /files/content"] = lambda said: said.replace(b"The ", f"{secret} ".encode()).replace(b"the ", b"")
        outcomes = ask_all(batches_for(gate.base_url, key=secret), some_requests(10), full_list)
        lines += [repr(one) for one in outcomes]
        assert any(isinstance(one, Exchange) and one.reasoning.startswith("*** query") for one in outcomes)
    store.close()
    assert secret not in "\n".join(lines) and secret not in caplog.text and "/batches" in caplog.text
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent_and_not_shown(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        with pytest.raises(EndpointRefused, match=r"no HTTP header can carry") as caught:
            ask_all(batches_for(gate.base_url, key=f"{KEY}\n{KEY}"), some_requests(2))
        assert not gate.seen and nothing_is_held(store)
    assert traces(dumped(caught.value)) == []


@pytest.mark.parametrize("echo", ECHOES)
def test_an_endpoint_that_shows_the_key_it_was_sent_has_it_in_no_error_log_or_row(
    echo: str, batches_for: BatchFor, some_requests: Make, store: ExchangeStore, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echoing(ECHOES[echo]))
    with serving(app) as base_url:
        engine = batches_for(base_url, key=KEY, unreachable_s=0.01)
        with pytest.raises((EndpointRefused, EndpointDown)) as caught:
            ask_all(engine, some_requests(2), on_progress=lambda p: lines.append(p.line + repr(p)))
    assert nothing_is_held(store)
    store.close()
    # OpenAI's HTTP client logs a status line as it came, which no endpoint but this one fills with a key.
    logged = [r.getMessage() for r in caplog.records if (echo, r.name) != ("a reason", "httpx2")]
    written = [dumped(caught.value), repr(engine), *lines, *logged]
    written += [path.read_bytes().decode("utf-8", "replace") for path in store.path.parent.iterdir()]
    assert [trace for text in written for trace in traces(text)] == []
