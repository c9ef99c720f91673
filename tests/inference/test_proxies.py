"""A proxy that the environment names is used, except towards this machine and whatever NO_PROXY names."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from aiohttp import web
from asking import EngineFor, Make
from servers import answering, serving

from inference.endpoint import Endpoint
from inference.engine import ask_all
from inference.exchange import Exchange
from inference.standin.server import running_standin

KEY = "a-key-for-the-endpoint-alone"


async def answer_as_proxy(request: web.Request) -> web.Response:
    """An answer that tells what a proxy was shown."""
    shown = [request.raw_path, request.headers["Authorization"], request.headers.get("Proxy-Authorization", "")]
    message = {"role": "assistant", "content": "\n".join(shown)}
    return web.json_response({"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]})


def test_a_proxy_is_asked_for_the_address_and_a_netrc_does_not_stand_in_for_the_key(
    engine_for: EngineFor, some_requests: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine model.test login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(answering(answer_as_proxy)) as address:
        monkeypatch.setenv("http_proxy", address.removesuffix("/v1").replace("//", "//user:word@"))
        outcome = ask_all(engine_for("http://model.test/v1", key=KEY), some_requests(1))[0]
    assert isinstance(outcome, Exchange)
    user = base64.b64encode(b"user:word").decode()
    # What an endpoint says of the key is kept without it.
    assert outcome.content.split("\n") == ["http://model.test/v1/chat/completions", "Bearer ***", f"Basic {user}"]


def test_no_proxy_stands_between_this_process_and_its_own_machine(
    engine_for: EngineFor, some_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    with running_standin() as server:
        assert isinstance(ask_all(engine_for(server, max_attempts=1), some_requests(1))[0], Exchange)


@pytest.mark.parametrize(("no_proxy", "proxy"), [("", "http://127.0.0.1:9"), ("model.test", None)])
def test_an_address_that_the_environment_excepts_has_no_proxy(
    no_proxy: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert Endpoint(base_url="http://model.test/v1", api_key="none").proxy == proxy
