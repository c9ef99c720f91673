"""The API key stays where it belongs: nothing that is written, shown, stored or dumped holds it in any coding."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
import subprocess
import sys
import traceback
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web
from asking import EngineFor
from pydantic import ValidationError
from servers import answering, serving

from inference.archive import everything
from inference.endpoint import Endpoint, EndpointRefused
from inference.engine import Engine, ask_all
from inference.exchange import Request, Sampling
from inference.metrics import serving_metrics
from inference.progress import Progress
from inference.standin.faults import Faults
from inference.standin.server import running_standin
from inference.store import ExchangeStore

# With every sign that base64 and URLs have and code differently.
KEY = "sk-planted/secret+key?0123456789=~"
TRACES = {
    "the key": KEY[3:-2],
    "the key, URL-encoded": quote(KEY[3:-2], safe=""),
    "the key in a form field": quote_plus(KEY[3:-2]),
    "the key with slashes escaped": KEY[3:-2].replace("/", "\\/"),
    **{
        # The same bytes look different at each of the three places where they may begin.
        f"the key in base64, {shift} bytes into it": base64.b64encode(bytes(shift) + KEY.encode())[4:-8].decode()
        for shift in range(3)
    },
}


def traces(written: object) -> list[str]:
    """The codings of the key that stand in a text or in the bytes of a file."""
    text = written.decode("utf-8", "replace") if isinstance(written, bytes) else str(written)
    return [name for name, trace in TRACES.items() if trace in text]


def said(message: str, status: int = 500, **more: Any) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, **more)


def completion(text: str) -> dict[str, object]:
    message = {"role": "assistant", "content": f"it is {text}", "reasoning_content": f"they gave me {text}"}
    return {"model": text, "system_fingerprint": text, "choices": [{"message": message, "finish_reason": text}]}


def bent(text: str) -> bytes:
    return json.dumps({"headers": {"Authorization": text}}).replace("/", "\\/").encode()


# What an endpoint may do with the key that it is shown; all of it but the last three comes into some text of ours.
ECHOES: dict[str, Callable[[str], web.Response | bytes]] = {
    "a refusal": lambda key: said(f"incorrect API key provided: {key}", 401),
    "an unpaid bill": lambda key: said(f"{key} has no credit", 402),
    "an error": lambda key: said(f"no quota for {key}"),
    "an error that is a string": lambda key: web.json_response({"error": key}, status=500),
    "an error that will not go away": lambda key: said(f"{key} asks too much", 400),
    "a page": lambda key: web.Response(text=f"<h1>no route for {key}</h1>", status=503, content_type="text/html"),
    "a URL": lambda key: said(f"GET /login?key={quote(key, safe='')} failed"),
    "base64": lambda key: said(f"cannot use {base64.b64encode(key.encode()).decode()}"),
    "the header in base64": lambda key: said(f"cannot use {base64.b64encode(f'Bearer {key}'.encode()).decode()}"),
    "no completion": lambda key: web.json_response({"headers": {"Authorization": key}}),
    "no completion, with slashes escaped": lambda key: web.Response(body=bent(key), content_type="application/json"),
    "broken JSON": lambda key: web.Response(text='{"choices": ' + key, content_type="application/json"),
    "a count that is none": lambda key: web.json_response({**completion("fine"), "usage": {"prompt_tokens": key}}),
    "a status line that is none": lambda key: f"HTTP/1.1 {key}\r\n\r\n".encode(),
    "a header that is none": lambda key: f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode(),
    "an answer": lambda key: web.json_response(completion(key)),
    "a reason": lambda key: said("no", reason=key),
    "a time to wait": lambda key: said("wait", 429, headers={"Retry-After": key}),
    "half a body": lambda key: f"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{key}".encode(),
}
SILENT = ("a reason", "a time to wait", "half a body")


def echoing(echo: Callable[[str], web.Response | bytes]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        made = echo(request.headers["Authorization"].removeprefix("Bearer "))
        if isinstance(made, web.Response):
            return made
        assert request.transport is not None
        request.transport.write(made)
        request.transport.close()
        return web.Response()

    return answer


def dumped(error: BaseException) -> str:
    """A traceback with the locals of every frame, as crash reporters make it."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def all_that_is_written(engine: Engine, requests: list[Request], caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Everything that a run of the engine shows or leaves behind, by name."""
    written = {"errors": "", "progress": "", "outcomes": "", "metrics": ""}
    port = free_port()

    async def run() -> None:
        async with engine.open(len(requests), watch, every_s=0.05) as session:
            written["session"] = repr(session) + dumped(LookupError("of which locals are shown"))
            async for outcome in session.ask(requests, lambda _request, _content: "it never pleases"):
                written["outcomes"] += f"{outcome!r} {outcome}"

    with caplog.at_level(logging.DEBUG), serving_metrics(port) as figures:

        def watch(progress: Progress) -> None:
            figures(progress)
            written["progress"] += f"{progress.line} {progress!r} {progress.figures}"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                written["metrics"] += page.read().decode()

        try:
            asyncio.run(run(), debug=True)
        except EndpointRefused as error:
            written["errors"] += dumped(error) + str(error) + repr(error)
    written["log"] = caplog.text
    written["engine"] = f"{engine!r} {engine.endpoint} {engine.endpoint!r} {engine.endpoint.model_dump()!r}"
    written["settings"] = engine.endpoint.model_dump_json() + repr(vars(engine.endpoint))
    written["records"] = repr(list(everything(engine.store)))
    return written


@pytest.mark.parametrize("echo", ECHOES)
def test_what_an_endpoint_does_with_the_key_is_written_nowhere(
    echo: str, engine_for: EngineFor, store: ExchangeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling("stand-in-teacher", 0.0, 1.0, 100)
    requests = [Request(f"r{i}", ({"role": "user", "content": str(i)},), sampling) for i in range(3)]
    with serving(answering(echoing(ECHOES[echo]))) as base_url:
        written = all_that_is_written(engine_for(base_url, key=KEY, max_attempts=2), requests, caplog)
    while_open = files_below(tmp_path)
    store.close()
    assert {"exchanges.sqlite", "exchanges.sqlite-wal"} <= while_open.keys()
    assert {name: found for name, text in written.items() if (found := traces(text))} == {}
    assert {name: found for name, text in while_open.items() if (found := traces(text))} == {}
    assert {name: found for name, text in files_below(tmp_path).items() if (found := traces(text))} == {}
    assert echo in SILENT or "***" in written["errors"] + written["outcomes"], "the echo was heard, and blanked"
    assert "rankmill_label_calls" in written["metrics"] and "calls" in written["progress"]


def test_an_endpoint_that_takes_the_key_and_answers_leaves_no_trace_of_it_either(
    engine_for: EngineFor,
    some_requests: Callable[..., list[Request]],
    store: ExchangeStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_standin(Faults(rate_garbage=0.3, rate_500=0.2, rate_reset=0.1), api_key=KEY) as server:
        written = all_that_is_written(engine_for(server, key=KEY), some_requests(20), caplog)
        assert server.counts["answered"] > 20 and not server.counts["401"]
    store.close()
    assert [name for name, text in {**written, **files_below(tmp_path)}.items() if traces(text)] == []


@pytest.mark.parametrize(
    "mistake",
    [{"timeout_s": -1}, {"base_url": None}, {"apikey": KEY}, {"base_url": KEY, "timeout_s": "soon"}],
    ids=["a wrong value", "a missing field", "a misspelt field", "a mistaken field"],
)
def test_a_mistake_in_the_settings_of_an_endpoint_is_told_without_what_was_given(mistake: dict[str, Any]) -> None:
    given = {"base_url": "http://127.0.0.1/v1", "api_key": KEY, **mistake}
    with pytest.raises(ValidationError) as raised:
        Endpoint(**{name: value for name, value in given.items() if value is not None})
    assert traces(str(raised.value) + repr(raised.value)) == []


def test_white_space_around_a_key_is_no_part_of_it(
    engine_for: EngineFor, some_requests: Callable[..., list[Request]]
) -> None:
    with running_standin(api_key=KEY) as server:
        assert len(ask_all(engine_for(server, key=f" {KEY}\n"), some_requests(2))) == 2
        assert server.counts == {"answered": 2}


@pytest.mark.parametrize("slip", ["\n", "\x00", " ", "\u2013", "\ud800"])
def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent_and_not_shown(
    slip: str, engine_for: EngineFor, some_requests: Callable[..., list[Request]]
) -> None:
    with running_standin() as server:
        engine = engine_for(server, key=KEY + slip + KEY)
        with pytest.raises(EndpointRefused, match=r"API key .* no HTTP header can carry") as raised:
            ask_all(engine, some_requests(2))
        assert not server.counts
    assert traces(dumped(raised.value)) == []


CRASHING = """
import asyncio, faulthandler, os, sys, traceback
from pathlib import Path
from pydantic import SecretStr
from inference.breaker import BreakerSettings
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.running import run
from inference.exchange import Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Price, Prices
from inference.store import ExchangeStore

faulthandler.enable()
sampling = Sampling("stand-in-teacher", 0.0, 1.0, 100)
prices = Prices.load().with_price(sampling.model, Price(input=1e6, cached=1e6, output=1e6, source="test"))


def dump(kind, error, trace):
    told = "".join(traceback.TracebackException(kind, error, trace, capture_locals=True).format())
    Path(path).with_name("dump").write_text(told)


def requests(crash):
    for i in range(2000):
        if crash == "input" and i == 1000:
            raise LookupError("crash of the input")
        yield Request(f"r{i}", ({"role": "user", "content": f"question {i}"},), sampling)


def check(crash):
    def find(request, content):
        if crash == "check":
            raise ZeroDivisionError("crash of the check")
        if request.id == "r3":
            print("on its way", flush=True)
        return None
    return find


sys.excepthook = dump
crash, url, path = sys.argv[1:]
with ExchangeStore(path) as store:
    engine = Engine(
        Endpoint(base_url=url, api_key=SecretStr(os.environ["PLANTED"])),
        store,
        Budget(usd=1e3 if crash == "budget" else None),
        prices,
        PaceSettings(max_attempts=1, max_in_flight=4),
        BreakerSettings(unanswered_in_a_row=2),
    )


    async def main():
        async for _ in engine.ask(requests(crash), check(crash), on_progress=print, every_s=0.01):
            pass

    run(main())
"""
CRASHES = {
    "input": (Faults(), "LookupError: crash of the input"),
    "check": (Faults(), "ZeroDivisionError: crash of the check"),
    "budget": (Faults(), "BudgetExceeded: stopped at"),
    "breaker": (Faults(rate_reset=1.0), "EndpointDown: .* requests in a row"),
    "refusal": (Faults(), r"KeyRefused: .*incorrect API key provided: Bearer \*\*\*"),
}


def crashing(crash: str, base_url: str, path: Path, key: str = KEY) -> subprocess.Popen[str]:
    """A process that will crash, and then dump what it can, with asyncio's debug log."""
    arguments = [sys.executable, "-X", "dev", "-c", CRASHING, crash, base_url, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PLANTED": key})


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_that_dumps_the_locals_of_every_frame_does_not_show_the_key(crash: str, tmp_path: Path) -> None:
    faults, end = CRASHES[crash]
    with running_standin(faults, api_key="another" if crash == "refusal" else KEY) as server:
        process = crashing(crash, server.base_url, tmp_path / "store.sqlite")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err[-2000:]
    dump = (tmp_path / "dump").read_text()
    assert re.search(end, dump) and "endpoint=Endpoint(base_url=" in dump, "it crashed, and locals were dumped"
    assert [name for name, text in {"out": out, "err": err, **files_below(tmp_path)}.items() if traces(text)] == []


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_is_struck_down_with_requests_on_their_way_leaves_no_trace_of_the_key(
    blow: signal.Signals, tmp_path: Path
) -> None:
    with running_standin(Faults(latency_s=0.05), api_key=KEY) as server:
        process = crashing("on its way", server.base_url, tmp_path / "store.sqlite")
        assert process.stdout is not None
        assert "on its way\n" in iter(process.stdout.readline, "")
        process.send_signal(blow)
        out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    if blow == signal.SIGINT:
        dump = (tmp_path / "dump").read_text()
        assert "KeyboardInterrupt" in dump and "endpoint=Endpoint(" in dump
    assert blow not in (signal.SIGABRT, signal.SIGSEGV) or "Current thread" in err
    assert {"store.sqlite"} <= files_below(tmp_path).keys()
    assert [name for name, text in {"out": out, "err": err, **files_below(tmp_path)}.items() if traces(text)] == []
