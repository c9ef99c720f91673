"""The rerank server under two hundred clients of every manner, and when connections, the model or the server end."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import cohere
import pytest
from cohere.core.api_error import ApiError
from rerank_servers import DOCUMENTS, Served, serving_reranker, until

CLIENTS = 200


def body(**changes: Any) -> bytes:
    return json.dumps({"query": "salt sea", "documents": DOCUMENTS} | changes).encode()


async def client(url: str, number: int, seen: Counter[str]) -> None:
    """One client: a good request that is repeated until it is served, and something else in between."""
    manners = [b"{", body(documents=[]), body(documents=["x" * 60_000]), body(query="malformed sea"), None]
    async with aiohttp.ClientSession() as session:

        async def post(content: bytes, timeout: float = 60.0) -> int:
            async with session.post(
                f"{url}/v1/rerank", data=content, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as answer:
                said = await answer.json()
                seen[str(answer.status)] += 1
                if answer.status == 200 and content == body():
                    assert [result["index"] for result in said["results"]] == [1, 3, 0, 2]
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) >= 1
                return answer.status

        manner = manners[number % len(manners)]
        if manner is None:
            try:
                await post(body(query="sleep:0.02 sea"), timeout=0.01)
            except TimeoutError:
                seen["dropped"] += 1
        else:
            await post(manner)
        while await post(body()) == 429:
            await asyncio.sleep(0.2)


def crowd(url: str) -> Counter[str]:
    seen: Counter[str] = Counter()

    async def everybody() -> None:
        await asyncio.gather(*(client(url, number, seen) for number in range(CLIENTS)))

    asyncio.run(everybody())
    return seen


def settled(server: Served) -> None:
    """Nothing waits, nothing is owed, and the loop holds no tasks but its own and those of open connections."""
    until(lambda: server.app.desk.requests == 0)
    assert (server.app.desk.size, server.app.desk.documents) == (0, 0)
    assert server.app.ranker._owed == {}


def test_two_hundred_clients_of_every_manner_get_no_error_of_the_server_and_leave_nothing() -> None:
    with serving_reranker("--per-list", "0.002", most_requests=24, most_body_bytes=50_000) as server:
        most = 0
        over = threading.Event()

        def look() -> None:
            nonlocal most
            while not over.is_set():
                most = max(most, server.app.desk.requests, len(server.app.ranker._owed))
                time.sleep(0.001)

        watcher = threading.Thread(target=look)
        watcher.start()
        before = server.tasks()
        objects, counted = [], []
        for _ in range(3):
            seen = crowd(server.url)
            assert set(seen) <= {"200", "400", "413", "422", "429", "dropped"}, seen
            assert seen["200"] >= CLIENTS and seen["429"] and seen["400"] and seen["422"] and seen["413"]
            settled(server)
            until(lambda: server.tasks() <= before)
            gc.collect()
            objects.append(len(gc.get_objects()))
            counted.append(server.figure("requests_total", path="/v1/rerank", status="200"))
        over.set()
        watcher.join()
        assert most <= 24
        assert abs(objects[2] - objects[1]) < CLIENTS, "something stays behind for every client"
        assert counted[2] > counted[1] > counted[0] >= CLIENTS


def test_a_dropped_connection_takes_its_work_with_it() -> None:
    with serving_reranker("--per-list", "0.05") as server:
        host, port = urlsplit(server.url).netloc.split(":")
        head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body())
        gone = []
        for _ in range(30):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(head + body())
            gone.append(connection)
        until(lambda: len(server.app.ranker._owed) >= 25)
        for connection in gone:
            connection.close()
        settled(server)
        heard = server.ask(query="heard what")[1]["meta"]
        assert heard["calls"] < 15 and heard["tokens"]["input_tokens"] > 15  # answered there; cancelled there
        assert server.figure("requests_total", path="/v1/rerank", status="499") > 15


def test_what_waits_is_bounded_in_bytes_too() -> None:
    with serving_reranker(most_waiting_bytes=3_000) as server:
        slow = threading.Thread(target=server.ask, kwargs={"query": "sleep:1 sea", "documents": ["x" * 2_000]})
        slow.start()
        until(lambda: server.app.desk.requests == 1)
        status, said, headers = server.ask(documents=["x" * 2_000])
        assert status == 429 and "bytes" in said["message"] and int(headers["Retry-After"]) >= 1
        assert server.ask(documents=["x"])[0] == 200
        slow.join()


def test_a_request_that_would_wait_too_long_is_told_so_at_once() -> None:
    with serving_reranker("--per-list", "0.2", answer_s=3.0) as server:
        assert server.ask()[0] == 200
        answers: list[tuple[int, float]] = []

        def ask() -> None:
            begun = time.monotonic()
            status, _, _ = server.ask()
            answers.append((status, time.monotonic() - begun))

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
            time.sleep(0.005)
        for thread in threads:
            thread.join()
        statuses = Counter(status for status, _ in answers)
        assert set(statuses) == {200, 429} and statuses[200] >= 3, statuses
        assert max(seconds for status, seconds in answers if status == 429) < 1.5


def test_a_model_that_takes_too_long_is_given_up() -> None:
    with serving_reranker(answer_s=0.3) as server:
        status, said, _ = server.ask(query="sleep:1.0 sea")
        assert status == 504 and "0.3 s" in said["message"]
        settled(server)


@pytest.mark.parametrize("end", ["die", "babble"])
def test_a_model_that_dies_fails_what_it_was_asked_and_comes_back(end: str) -> None:
    with serving_reranker() as server:
        status, said, _ = server.ask(query=f"{end} now")
        assert status == 500 and "process ended" in said["message"]
        assert server.ask()[0] in (200, 503)
        until(lambda: server.ask()[0] == 200)
        assert server.figure("model_starts") == 2


def test_a_model_that_dies_again_and_again_ends_the_server() -> None:
    with serving_reranker() as server:
        for _ in range(4):
            until(lambda: server.app.ranker.ready or bool(server.trouble), 30)
            server.ask(query="die now")
        until(lambda: bool(server.trouble), 30)
        assert "died 4 times" in str(server.trouble[0])


def test_a_server_that_stops_answers_what_it_has_and_takes_nothing_new() -> None:
    with serving_reranker() as server:
        answers: list[Any] = []
        running = threading.Thread(target=lambda: answers.append(server.ask(query="sleep:0.7 sea")))
        running.start()
        until(lambda: server.app.desk.requests == 1)
        process = server.app.ranker._process
    running.join()
    assert answers[0][0] == 200
    assert process is not None and process.returncode is not None
    with pytest.raises(OSError):
        socket.create_connection(tuple(urlsplit(server.url).netloc.split(":")), 1)


def test_the_official_clients_of_cohere_are_served() -> None:
    with serving_reranker(api_key="geheim", most_documents=10) as server:
        for kind in (cohere.Client, cohere.ClientV2):
            asked = kind(api_key="geheim", base_url=server.url)
            answer = asked.rerank(model="reasonrank/rl", query="salt sea", documents=DOCUMENTS, top_n=2)
            assert [result.index for result in answer.results] == [1, 3]
            assert [result.relevance_score for result in answer.results] == [1.0, 0.75]
            assert answer.meta.tokens.input_tokens == 30 and answer.meta.warnings == []
            with pytest.raises(ApiError) as refused:
                asked.rerank(model="reasonrank/rl", query="salt", documents=["x"] * 11)
            assert refused.value.status_code == 422 and "11 documents" in str(refused.value.body)
            with pytest.raises(ApiError) as unknown:
                kind(api_key="falsch", base_url=server.url).rerank(model="toy", query="salt", documents=["x"])
            assert unknown.value.status_code == 401
        old = cohere.Client(api_key="geheim", base_url=server.url)
        answer = old.rerank(model="toy", query="salt sea", documents=DOCUMENTS, top_n=1, return_documents=True)
        assert answer.results[0].document.text == DOCUMENTS[1]


def test_coheres_async_client_waits_as_it_is_told_when_too_much_is_asked() -> None:
    with serving_reranker("--per-list", "0.01", most_requests=8) as server:

        async def ask() -> list[int]:
            asked = cohere.AsyncClientV2(api_key="none", base_url=server.url)
            options = {"max_retries": 10}
            calls = [
                asked.rerank(model="toy", query="salt sea", documents=DOCUMENTS, request_options=options)
                for _ in range(40)
            ]
            return [answer.results[0].index for answer in await asyncio.gather(*calls)]

        assert asyncio.run(ask()) == [1] * 40
        assert server.figure("requests_total", path="/v2/rerank", status="429") > 0
