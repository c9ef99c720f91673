"""The rerank server over real HTTP: what it answers, what it refuses, and what it never does to its neighbours."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerank_servers import DOCUMENTS, Served, serving_reranker, until

from inference.server.app import ServerSettings
from inference.server.bodies import BadBody, read_body
from inference.server.running import CannotListen, is_loopback, run_server

BEST_FIRST = [1, 3, 0, 2]


@pytest.fixture(scope="module")
def server() -> Any:
    with serving_reranker(most_documents=50, most_body_bytes=100_000) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_come_back_best_first_with_scores_that_fall(server: Served, path: str) -> None:
    status, body, _ = server.ask(path)
    assert status == 200 and [result["index"] for result in body["results"]] == BEST_FIRST
    assert [result["relevance_score"] for result in body["results"]] == [1.0, 0.75, 0.5, 0.25]
    assert all("document" not in result for result in body["results"])
    assert body["model"] == "toy" and body["meta"]["api_version"] == {"version": path[2]}
    assert body["usage"] == {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}
    assert body["meta"]["tokens"] == {"input_tokens": 30, "output_tokens": 7}
    assert (body["meta"]["calls"], body["meta"]["malformed"], body["meta"]["warnings"]) == (2, {}, [])


@pytest.mark.parametrize(
    ("said", "scores", "kind"),
    [
        ("[0.9,0.9,0.25,0]", [0.9, 0.9, 0.25, 0.0], "model"),
        *[(bad, [1.0, 0.75, 0.5, 0.25], "places") for bad in ("[0.9,0.5]", "[0.1,0.2,0.3,0.4]", "[7,1,0,0]", '"ab"')],
        ("[0.9,null,0.2,0.1]", [1.0, 0.75, 0.5, 0.25], "places"),
    ],
)
def test_scores_of_a_model_that_gives_some_are_the_relevance_and_others_are_places(
    server: Served, said: str, scores: list[float], kind: str
) -> None:
    status, body, _ = server.ask(query=f"score:{said} salt sea")
    assert status == 200 and [result["index"] for result in body["results"]] == BEST_FIRST
    assert [result["relevance_score"] for result in body["results"]] == scores and body["meta"]["scores"] == kind


def test_objects_with_a_text_are_documents_too_and_return_on_request(server: Served) -> None:
    _, body, _ = server.ask(documents=[{"text": text} for text in DOCUMENTS], top_n=2, return_documents=True)
    assert [result["document"] for result in body["results"]] == [{"text": DOCUMENTS[1]}, {"text": DOCUMENTS[3]}]


def test_top_n_beyond_the_list_gives_the_whole_list(server: Served) -> None:
    assert len(server.ask(top_n=99)[1]["results"]) == 4


def test_any_name_of_the_model_is_known_and_another_is_refused_by_naming_them(server: Served) -> None:
    assert server.ask(model="reasonrank/rl")[0] == 200
    status, body, _ = server.ask(model="rerank-v3.5")
    assert status == 404 and "'rerank-v3.5'" in body["message"] and "toy, reasonrank/rl" in body["detail"]


def test_options_that_are_not_read_are_named_in_the_answer(server: Served) -> None:
    _, body, _ = server.ask(max_tokens_per_doc=64, priority=1, truncation=None)
    assert body["meta"]["warnings"] == ["not read here: max_tokens_per_doc, priority"]


@pytest.mark.parametrize(("mood", "malformed"), [("malformed", {"tags": 1, "list": 1}), ("garbled", {"order": 1})])
def test_malformed_answers_keep_the_order_and_are_told(server: Served, mood: str, malformed: dict[str, int]) -> None:
    before = {kind: server.figure("malformed_total", kind=kind) for kind in malformed}
    status, body, _ = server.ask(query=f"{mood} salt sea")
    assert status == 200 and [result["index"] for result in body["results"]] == [0, 1, 2, 3]
    assert body["meta"]["malformed"] == malformed and "malformed answers" in body["meta"]["warnings"][0]
    for kind, count in malformed.items():
        assert server.figure("malformed_total", kind=kind) == before[kind] + count


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"query": "a\xff", "documents": ["b"]}', 400, "UTF-8"),
        (b'{"query": "\\ud800", "documents": ["b"]}', 400, "not JSON"),
        (b"[" * 50_000, 400, "not JSON"),
        (b'["query"]', 400, "JSON object"),
        (b'{"documents": ["b"]}', 422, "query"),
        (b'{"query": " ", "documents": ["b"]}', 422, "query"),
        (b'{"query": 3, "documents": ["b"]}', 422, "query"),
        (b'{"query": "a"}', 422, "documents"),
        (b'{"query": "a", "documents": []}', 422, "documents"),
        (b'{"query": "a", "documents": "b"}', 422, "documents"),
        (b'{"query": "a", "documents": ["b", null]}', 422, "documents[1]"),
        (b'{"query": "a", "documents": [{"image": "b"}]}', 422, "documents[0]"),
        (b'{"query": "a", "documents": ["b"], "top_n": 0}', 422, "top_n"),
        (b'{"query": "a", "documents": ["b"], "top_n": true}', 422, "top_n"),
        (b'{"query": "a", "documents": ["b"], "top_n": 1.5}', 422, "top_n"),
        (b'{"query": "a", "documents": ["b"], "return_documents": "yes"}', 422, "return_documents"),
        (b'{"query": "a", "documents": ["b"], "model": 5}', 422, "model"),
        (b'{"query": "a", "documents": ["b"], "rank_fields": ["title"]}', 422, "rank_fields"),
        (json.dumps({"query": "a", "documents": ["b"] * 51}).encode(), 422, "51 documents"),
    ],
)
def test_a_bad_body_is_refused_with_the_field_that_is_wrong(
    server: Served, content: bytes, status: int, said: str
) -> None:
    got, body, _ = server.send(content)
    assert got == status and said in body["message"] and body["detail"] == body["message"]


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["query", "documents", "top_n"]) | st.text(), inner)
        ),
    )
)
def test_whatever_json_a_body_is_it_is_read_or_refused(value: object) -> None:
    try:
        ask = read_body(json.dumps(value).encode(), 10)
    except BadBody as error:
        assert error.status in (400, 422) and str(error)
    else:
        assert ask.query.strip() and 1 <= len(ask.documents) <= 10


def test_an_oversized_body_is_refused_whether_it_says_so_or_not(server: Served) -> None:
    big = json.dumps({"query": "a", "documents": ["b" * 200_000]}).encode()
    assert server.send(big)[0] == 413
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request("POST", "/v1/rerank", iter([big[:90_000], big[90_000:]]), encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413 and "100,000 bytes" in json.loads(answer.read())["message"]
    connection.close()


def test_a_compressed_body_is_refused_before_it_can_swell(server: Served) -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
    assert server.send(bomb, Content_Encoding="gzip")[0] == 415


def test_a_list_that_the_model_cannot_read_is_the_callers_fault(server: Served) -> None:
    status, body, _ = server.ask(query="refuse this")
    assert status == 422 and "9000 tokens" in body["message"]


def test_another_path_or_method_is_refused_as_json(server: Served) -> None:
    assert server.get("/v3/rerank")[0] == 404
    status, body, headers = server.get("/v1/rerank")
    assert status == 405 and "GET /v1/rerank" in body["message"] and headers["Allow"] == "POST"


def test_a_body_that_does_not_come_gives_its_place_back() -> None:
    with serving_reranker(body_s=0.3) as slow:
        host, port = urlsplit(slow.url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            until(lambda: slow.app.desk.requests == 1)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert slow.app.desk.requests == 0 and slow.app.desk.size == 0


@pytest.mark.parametrize(
    "content",
    [
        b"Content-Length: 1000\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{",
        b"Content-Length: -5\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    ],
)
def test_a_body_that_breaks_off_or_is_framed_wrongly_costs_the_server_nothing(server: Served, content: bytes) -> None:
    host, port = urlsplit(server.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n" + content)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000)[:12] in (b"", b"HTTP/1.0 400", b"HTTP/1.1 400")  # aiohttp answers some in 1.0
    until(lambda: server.app.desk.requests == 0 and server.app.desk.size == 0)
    assert server.figure("requests_total", path="/v1/rerank", status="500") == 0
    assert server.ask()[0] == 200


def test_before_the_model_is_loaded_a_request_is_told_to_come_again() -> None:
    with serving_reranker("--load", "1.0", wait=False) as early:
        status, body, headers = early.ask()
        assert status == 503 and "being loaded" in body["message"] and int(headers["Retry-After"]) > 0
        assert early.get("/healthz")[0] == 503
        until(lambda: early.get("/healthz")[0] == 200)
        assert early.ask()[0] == 200 and early.get("/healthz")[1]["device"] == "none"


def test_the_key_is_asked_for_everywhere_but_at_the_health_check() -> None:
    with serving_reranker(api_key="geheim-ü") as guarded:
        for key in (None, "", "geheim", "geheim-ü-und-mehr", "x" * 4_000 + "\xff"):
            assert guarded.ask(key=key)[0] == 401 and guarded.get("/metrics", key=key)[0] == 401
        assert guarded.get("/healthz")[0] == 200
        sent = "geheim-ü".encode().decode("latin-1")  # urllib writes headers so; on the wire it is UTF-8
        assert guarded.ask(key=sent)[0] == 200 and guarded.get("/metrics", key=sent)[0] == 200
        assert guarded.send(b"{}", Authorization=f"Basic {sent}")[0] == 401


def test_the_model_is_given_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANKMILL_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    with serving_reranker() as running:
        assert running.ask(query="heard what")[1]["meta"]["tokens"]["output_tokens"] == 0


def test_what_others_can_reach_does_not_start_without_a_key() -> None:
    async def start() -> None:
        await run_server(ServerSettings(names=("toy",)), ["true"], "0.0.0.0", 0, asyncio.Event(), lambda *_: None)

    with pytest.raises(CannotListen, match="RANKMILL_API_KEY"):
        asyncio.run(start())


def test_a_port_that_is_taken_is_named() -> None:
    async def start(port: int) -> None:
        await run_server(ServerSettings(names=("toy",)), ["true"], "127.0.0.1", port, asyncio.Event(), lambda *_: None)

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CannotListen, match="--port"):
        asyncio.run(start(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.org", "")],
    ],
)
def test_only_loopback_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
