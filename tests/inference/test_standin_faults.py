"""The stand-in's faults as a client meets them on the wire: one test for each kind, then how they are drawn."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from salt_water import ranking_prompt

from inference.standin.faults import KINDS, Faults
from inference.standin.server import MODEL, Standin, running_standin

T = TypeVar("T")


def question(number: int = 0) -> dict[str, Any]:
    prompt = ranking_prompt(f"Why does salt water dry out cell number {number}?")
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}


def talking(server: Standin, talk: Callable[[aiohttp.ClientSession, str], Awaitable[T]]) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            return await talk(session, f"{server.base_url}/chat/completions")

    return asyncio.run(run())


def asked(faults: Faults, number: int = 0) -> tuple[int, dict[str, str], str, Standin]:
    """Status, headers, text and server of one request under faults."""

    async def talk(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, str], str]:
        async with session.post(url, json=question(number)) as response:
            return response.status, dict(response.headers), await response.text()

    with running_standin(faults) as server:
        return *talking(server, talk), server


def ask(server: Standin) -> None:
    async def talk(session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(url, json=question()) as response:
            await response.read()

    talking(server, talk)


def message(text: str) -> tuple[dict[str, Any], str]:
    choice = json.loads(text)["choices"][0]
    return choice["message"], choice["finish_reason"]


def test_a_429_names_the_time_to_wait() -> None:
    status, headers, text, server = asked(Faults(rate_429=1.0, retry_after_s=2.5))
    assert status == 429 and headers["Retry-After"] == "2.5"
    assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"
    assert server.counts == {"429": 1}


def test_a_429_may_come_without_a_time_to_wait() -> None:
    assert "Retry-After" not in asked(Faults(rate_429=1.0))[1]
    status, headers, _, server = asked(Faults(rate_429_bare=1.0, retry_after_s=2.5))
    assert status == 429 and "Retry-After" not in headers
    assert server.counts == {"429_bare": 1}


def test_a_500_is_an_error_of_the_server() -> None:
    status, _, text, server = asked(Faults(rate_500=1.0))
    assert status == 500 and "had an error" in json.loads(text)["error"]["message"]
    assert server.counts == {"500": 1}


def test_a_reset_ends_the_connection_without_an_answer() -> None:
    with running_standin(Faults(rate_reset=1.0)) as server:
        with pytest.raises(ConnectionResetError):
            raw_exchange(server, 5.0)
        with pytest.raises(aiohttp.ClientConnectionError):
            ask(server)
        assert server.counts == {"reset": 2}


def raw_exchange(server: Standin, until_s: float) -> bytes:
    """All bytes that come until the server closes, or until the time is up."""
    port = int(server.base_url.split(":")[2].split("/")[0])
    body = json.dumps(question()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    received, deadline = b"", time.monotonic() + until_s
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + body)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                part = connection.recv(65536)
            except TimeoutError:
                break
            if not part:
                break
            received += part
    return received


def test_half_a_body_is_announced_whole_and_then_closed() -> None:
    with running_standin(Faults(rate_half_body=1.0)) as server:
        head, _, body = raw_exchange(server, 5.0).partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        assert head.startswith(b"HTTP/1.1 200") and len(body) == length // 2 > 100
        assert server.counts == {"half_body": 1}
        with pytest.raises(aiohttp.ClientPayloadError):
            ask(server)


def test_a_dripping_answer_opens_at_once_and_never_ends() -> None:
    with running_standin(Faults(rate_slow=1.0, drip_s=0.05)) as server:
        head, _, body = raw_exchange(server, 0.5).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and 3 <= body.count(b"1\r\n \r\n") <= 11
        assert b"\r\n0\r\n" not in body and server.counts == {"slow": 1}


def test_a_dripping_answer_does_not_hold_up_the_end_of_the_server() -> None:
    async def talk(session: aiohttp.ClientSession, url: str) -> float:
        async with session.post(url, json=question()) as response:
            assert response.status == 200
            began = time.monotonic()
            await asyncio.to_thread(context.__exit__, None, None, None)
            took = time.monotonic() - began
            with pytest.raises(aiohttp.ClientError):
                await response.read()
            return took

    context = running_standin(Faults(rate_slow=1.0, drip_s=60.0))
    server = context.__enter__()
    assert talking(server, talk) < 0.8


def test_wrong_json_is_a_200_that_holds_no_completion() -> None:
    async def talk(session: aiohttp.ClientSession, url: str) -> list[tuple[int, str, str]]:
        seen = []
        for number in range(40):
            async with session.post(url, json=question(number)) as response:
                seen.append((response.status, response.content_type, await response.text()))
        return seen

    with running_standin(Faults(rate_wrong_json=1.0)) as server:
        seen = talking(server, talk)
        assert server.counts == {"wrong_json": 40}
    assert {status for status, _, _ in seen} == {200}
    forms = set()
    for _, kind, text in seen:
        try:
            whole = json.loads(text)
        except ValueError:
            forms.add("a page" if kind == "text/html" and text.startswith("<!DOCTYPE html>") else "broken")
        else:
            assert not whole.get("choices")
            forms.add("another shape")
    assert forms == {"a page", "broken", "another shape"}


def test_a_cut_off_answer_says_so() -> None:
    said, finish = message(asked(Faults(rate_cutoff=1.0))[2])
    assert finish == "length" and 0 < said["content"].count("[") < 4


def test_an_interrupted_answer_says_so_and_is_no_answer() -> None:
    _, _, text, server = asked(Faults(rate_interrupted=1.0))
    said, finish = message(text)
    assert finish == "insufficient_system_resource" and 0 < said["content"].count("[") < 4
    assert server.counts == {"interrupted": 1}


def test_an_empty_answer_stops_as_if_all_were_well() -> None:
    _, _, text, server = asked(Faults(rate_empty=1.0))
    said, finish = message(text)
    assert said["content"] == "" and finish == "stop"
    assert server.counts == {"answered": 1, "empty": 1}


def test_a_refusal_comes_as_a_filter_as_a_field_or_as_a_sentence() -> None:
    async def talk(session: aiohttp.ClientSession, url: str) -> set[str]:
        forms = set()
        for number in range(30):
            async with session.post(url, json=question(number)) as response:
                said, finish = message(await response.text())
            if finish == "content_filter":
                forms.add("filter")
            elif said.get("refusal"):
                assert said["content"] is None
                forms.add("field")
            else:
                assert said["content"].startswith("I'm sorry")
                forms.add("sentence")
        return forms

    with running_standin(Faults(rate_refusal=1.0)) as server:
        assert talking(server, talk) == {"filter", "field", "sentence"}
        assert server.counts == {"answered": 30, "refusal": 30}


def test_garbage_is_not_the_list_that_was_asked_for() -> None:
    said, finish = message(asked(Faults(rate_garbage=1.0))[2])
    assert finish == "stop" and said["content"].count(" > ") < 3


@given(st.fixed_dictionaries({f"rate_{kind}": st.floats(0.0, 0.08) for kind in KINDS}), st.integers(0, 99), st.text())
def test_the_same_seed_prompt_and_attempt_draw_the_same(rates: dict[str, float], seed: int, prompt: str) -> None:
    drawn = [Faults(**rates, latency_s=1.0, latency_sigma=1.0, seed=seed).draw(prompt, n) for n in range(5)]
    again = [Faults(**rates, latency_s=1.0, latency_sigma=1.0, seed=seed).draw(prompt, n) for n in range(5)]
    assert drawn == again
    assert all(draw.kind == "none" or rates[f"rate_{draw.kind}"] > 0 for draw in drawn)
    assert all(0 < draw.latency_s < math.inf for draw in drawn)


def test_every_kind_is_drawn_in_its_share() -> None:
    faults = Faults(**{f"rate_{kind}": 0.08 for kind in KINDS}, seed=3)
    drawn = [faults.pick(f"prompt {i}", 1) for i in range(6000)]
    found = {kind: drawn.count(kind) / 6000 for kind in set(drawn)}
    assert found == pytest.approx({**dict.fromkeys(KINDS, 0.08), "none": 0.04}, abs=0.015)


def test_a_retry_of_the_same_prompt_draws_anew_and_repeats_with_the_seed() -> None:
    async def talk(session: aiohttp.ClientSession, url: str) -> list[int]:
        statuses = []
        for _ in range(20):
            async with session.post(url, json=question()) as response:
                statuses.append(response.status)
        return statuses

    runs = []
    for seed in (1, 1, 2):
        with running_standin(Faults(rate_429=0.3, rate_500=0.3, seed=seed)) as server:
            runs.append(talking(server, talk))
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {200, 429, 500}


def test_latencies_are_log_normal_about_their_median_and_repeat() -> None:
    faults = Faults(latency_s=0.2, latency_sigma=0.5, seed=7)
    drawn = [faults.draw(f"prompt {i}", 1).latency_s for i in range(4000)]
    assert drawn == [faults.draw(f"prompt {i}", 1).latency_s for i in range(4000)]
    logs = [math.log(latency) for latency in drawn]
    assert statistics.median(drawn) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(logs) == pytest.approx(0.5, rel=0.05)
    assert Faults(latency_s=0.2).draw("any", 1).latency_s == 0.2


def test_a_drawn_latency_is_waited_for() -> None:
    faults = Faults(latency_s=0.15, latency_sigma=0.01)
    with running_standin(faults) as server:
        began = time.monotonic()
        ask(server)
        assert time.monotonic() - began > 0.1
