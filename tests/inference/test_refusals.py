"""What an endpoint refuses, by what a person has to do: another request, another key, more money; or wait for it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from asking import EngineFor, Make
from batch_runs import BatchFor
from gate import gate_before

from inference.breaker import EndpointDown
from inference.endpoint import KeyRefused, QuotaSpent, RequestRefused, refused_as
from inference.engine import ask_all
from inference.exchange import Exchange
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

CHAT = "POST /chat/completions"


def test_prompts_that_do_not_fit_the_context_are_refused_and_not_an_outage(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(context_tokens=300)) as server:
        with pytest.raises(RequestRefused) as caught:
            ask_all(engine_for(server), some_requests(200))
        assert not server.counts["answered"]
    assert re.search(
        rf"^{server.base_url} is up, and refused \d\d requests in a row, the first one \(r\d+\) with 400: HTTP 400: "
        r"This model.s maximum context length is 300 tokens; you asked for 4\d\d\. \(attempts: 1\)\. All answers "
        r"so far are kept\. Check base_url, the model name, .* the model.s context length; then run again\.$",
        str(caught.value),
    )
    assert store.spent("all").tokens == 0 == store.reserved("all").tokens


def test_one_prompt_that_does_not_fit_stops_nobody_else(engine_for: EngineFor, some_requests: Make) -> None:
    requests = some_requests(30)
    long = replace(requests[7], sampling=replace(requests[7].sampling, max_tokens=4_000))
    with running_standin(Faults(context_tokens=1_000)) as server:
        outcomes = ask_all(engine_for(server), [*requests[:7], long, *requests[8:]])
    assert [one.request_id for one in outcomes if not isinstance(one, Exchange)] == ["r7"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_status_that_refuses_requests_is_named_with_what_the_endpoint_says(
    status: int, engine_for: EngineFor, some_requests: Make
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[CHAT] = status
        with pytest.raises(RequestRefused, match=rf"is up, and refused .*HTTP {status}: the gate says no.*parameters"):
            ask_all(engine_for(gate.base_url), some_requests(100))


def test_a_model_that_is_not_there_stops_the_run_at_once(engine_for: EngineFor, some_requests: Make) -> None:
    requests = [replace(r, sampling=replace(r.sampling, model="deepseek-chat")) for r in some_requests(5)]
    with running_standin() as server, pytest.raises(RequestRefused, match=r"HTTP 404: the model 'deepseek-chat' does"):
        ask_all(engine_for(server), requests)


def test_a_wrong_key_is_the_key_s_fault(engine_for: EngineFor, some_requests: Make) -> None:
    with running_standin(api_key="another") as server:
        with pytest.raises(KeyRefused, match=r"HTTP 401: incorrect API key.*Check the API key"):
            ask_all(engine_for(server), some_requests(5))
        assert server.counts["401"] <= 5


def test_a_key_that_may_not_ask_this_is_the_key_s_fault(engine_for: EngineFor, some_requests: Make) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[CHAT] = 403
        with pytest.raises(KeyRefused, match=r"HTTP 403: the gate says no.*what it may do"):
            ask_all(engine_for(gate.base_url), some_requests(5))


def test_an_unpaid_account_is_named(engine_for: EngineFor, some_requests: Make) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[CHAT] = 402
        with pytest.raises(QuotaSpent, match=r"HTTP 402: the gate says no.*Pay in"):
            ask_all(engine_for(gate.base_url), some_requests(5))


def test_a_429_for_want_of_quota_is_not_waited_out_and_what_was_answered_is_kept(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(quota=20)) as server:
        with pytest.raises(QuotaSpent, match=r"HTTP 429: You exceeded your current quota.*Pay in"):
            ask_all(engine_for(server), some_requests(100))
        assert server.counts["answered"] == 20
    with running_standin() as server:
        assert len(ask_all(engine_for(server), some_requests(100))) == 100
        assert server.counts["answered"] == 80


def test_an_endpoint_that_only_ever_says_too_many_is_asked_for_less_and_not_called_down(
    engine_for: EngineFor, some_requests: Make
) -> None:
    with running_standin(Faults(rate_429=1.0)) as server, pytest.raises(EndpointDown) as caught:
        ask_all(engine_for(server, max_attempts=1), some_requests(100))
    assert "HTTP 429" in str(caught.value) and "requests_per_minute" in str(caught.value)
    assert "endpoint is up" not in str(caught.value)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_errors_of_the_server_are_an_outage(status: int, engine_for: EngineFor, some_requests: Make) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[CHAT] = status
        with pytest.raises(EndpointDown, match=rf"HTTP {status}: the gate says no.*Check that the endpoint is up"):
            ask_all(engine_for(gate.base_url, max_attempts=1), some_requests(100))


@pytest.mark.parametrize(("status", "charged"), [(408, True), (504, True), (500, False), (503, False)])
def test_a_gateway_that_gave_up_waiting_may_have_been_charged(
    status: int, charged: bool, engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin() as server, gate_before(server.base_url) as gate:
        gate.at[CHAT] = status
        ask_all(engine_for(gate.base_url, max_attempts=1), some_requests(1))
    assert (store.spent("all").tokens > 0) is charged


def test_a_batch_for_want_of_quota_stops_with_that(
    batches_for: BatchFor, some_requests: Make, store: ExchangeStore
) -> None:
    with running_standin(Faults(quota=3)) as server:
        with pytest.raises(QuotaSpent, match=r"refuses stand-in-teacher in a batch: quota .*Pay in"):
            ask_all(batches_for(server), some_requests(5))
        assert server.counts["answered"] == 3
    with running_standin() as server:
        assert sum(one.from_store for one in ask_all(batches_for(server), some_requests(5)) if hasattr(one, "usd")) == 3


@pytest.mark.parametrize(
    ("kind", "decision"),
    [("401", RequestRefused), ("key refused", KeyRefused), ("forbidden", KeyRefused), ("payment required", QuotaSpent),
     ("quota", QuotaSpent), ("not found", RequestRefused), ("429", None), ("408", None), ("500", None),
     ("reset", None), ("unreachable", None), ("too late", None), ("batch expired", None)],
)  # fmt: skip
def test_every_kind_of_trouble_asks_for_one_decision(kind: str, decision: type[Exception] | None) -> None:
    assert refused_as(kind) is decision


def test_a_run_answers_under_its_own_name_what_another_has_bought_under_another(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore, tmp_path: Path
) -> None:
    one = some_requests(1)[0]
    with running_standin() as server, ExchangeStore(tmp_path / "elsewhere.sqlite") as elsewhere:
        bought = ask_all(engine_for(server, opened=elsewhere), [replace(one, id="theirs")])[0]
        assert isinstance(bought, Exchange)

        def overtaken(said: bytes) -> bytes:
            # As by a process that took over the claim of one that slept for longer than its lease.
            store.put([(one, bought)], "all")
            return said

        with gate_before(server.base_url) as gate:
            gate.at[CHAT] = overtaken
            outcome = ask_all(engine_for(gate.base_url), [one])[0]
    assert isinstance(outcome, Exchange) and outcome.request_id == "r0" and outcome.created_at == bought.created_at
