"""The stand-in's files and batches, spoken to with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import openai
import pytest
from openai.types import Batch
from salt_water import ranking_prompt

from inference.standin.answers import answer
from inference.standin.faults import Faults
from inference.standin.server import MODEL, running_standin

ENDED = {"failed", "completed", "expired", "cancelled"}
Talk = Callable[[openai.AsyncOpenAI], Awaitable[None]]


def line(number: int, **changed: Any) -> dict[str, Any]:
    prompt = ranking_prompt(f"Why does salt water dry out cell number {number}?")
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **changed}


def talk_to_standin(talk: Talk, faults: Faults | None = None, key: str = "k") -> dict[str, int]:
    async def run(base_url: str) -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=10) as client:
            await talk(client)

    with running_standin(faults, api_key="k") as server:
        asyncio.run(run(server.base_url))
        return dict(server.counts)


async def submitted(client: openai.AsyncOpenAI, lines: Sequence[dict[str, Any] | str], **more: Any) -> Batch:
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in lines)
    file = await client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(10):
        while batch.status not in ENDED:
            await asyncio.sleep(0.01)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def rows(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    if file_id is None:
        return {}
    text = (await client.files.content(file_id)).text
    found = [json.loads(row) for row in text.splitlines()]
    assert len({row["custom_id"] for row in found}) == len(found)
    assert all(set(row) == {"id", "custom_id", "response", "error"} for row in found)
    return {row["custom_id"]: row for row in found}


def test_a_batch_ends_completed_with_the_answers_of_live_requests() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        batch = await submitted(client, [line(n) for n in range(12)], metadata={"run": "7"})
        assert batch.status == "validating" and batch.metadata == {"run": "7"} and batch.output_file_id is None
        batch = await ended(client, batch)
        assert batch.status == "completed" and batch.errors is None and batch.error_file_id is None
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": 12, "completed": 12, "failed": 0}
        assert batch.in_progress_at and batch.finalizing_at and batch.completed_at and batch.expires_at
        assert batch.created_at <= batch.in_progress_at <= batch.completed_at < batch.expires_at
        assert (batch.failed_at, batch.expired_at, batch.cancelled_at) == (None, None, None)
        found = await rows(client, batch.output_file_id)
        assert list(found) != [f"r{n}" for n in range(12)], "the order of the input is no promise"
        for n in range(12):
            row = found[f"r{n}"]
            messages = line(n)["body"]["messages"]
            assert row["error"] is None and row["response"]["status_code"] == 200 and row["response"]["request_id"]
            assert row["response"]["body"]["choices"][0]["message"]["content"] == answer(messages).content
        live = await client.chat.completions.create(**line(3)["body"])
        assert live.choices[0].message.content == found["r3"]["response"]["body"]["choices"][0]["message"]["content"]

    assert talk_to_standin(talk) == {"answered": 13}


def test_a_batch_takes_its_time_and_shows_how_far_it_is() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        began, batch = time.monotonic(), await submitted(client, [line(n) for n in range(20)])
        statuses, progress = [batch.status], [0]
        while batch.status not in ENDED:
            await asyncio.sleep(0.01)
            batch = await client.batches.retrieve(batch.id)
            assert batch.request_counts is not None
            statuses.append(batch.status)
            progress.append(batch.request_counts.completed)
        assert time.monotonic() - began >= 0.5
        assert list(dict.fromkeys(statuses)) == ["validating", "in_progress", "finalizing", "completed"]
        assert progress == sorted(progress) and len(set(progress)) > 5

    talk_to_standin(talk, Faults(batch_delay_s=0.6))


def test_lines_that_meet_a_fault_go_to_the_error_file_and_may_succeed_when_sent_again() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        waiting, rounds = {f"r{n}": line(n) for n in range(30)}, 0
        while waiting and rounds < 12:
            rounds += 1
            batch = await ended(client, await submitted(client, list(waiting.values())))
            assert batch.status == "completed" and batch.request_counts is not None
            good, bad = await rows(client, batch.output_file_id), await rows(client, batch.error_file_id)
            assert good.keys() | bad.keys() == waiting.keys() and not good.keys() & bad.keys()
            assert (batch.request_counts.completed, batch.request_counts.failed) == (len(good), len(bad))
            if rounds == 1:
                codes = {
                    row["response"]["status_code"] if row["response"] else row["error"]["code"] for row in bad.values()
                }
                assert codes == {429, 500, "request_timeout"}
                refused = next(row for row in bad.values() if row["response"])
                assert refused["error"] is None and refused["response"]["body"]["error"]["message"]
            for custom_id in good:
                del waiting[custom_id]
        assert not waiting and rounds > 1

    counts = talk_to_standin(talk, Faults(rate_429=0.15, rate_500=0.15, rate_reset=0.1, rate_slow=0.1, seed=2))
    assert counts["answered"] == 30 and min(counts[kind] for kind in ("429", "500", "reset", "slow")) > 0


def test_faults_of_the_text_and_wrong_json_stand_in_the_output_file() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        batch = await ended(client, await submitted(client, [line(n) for n in range(40)]))
        assert batch.error_file_id is None
        bodies = [row["response"]["body"] for row in (await rows(client, batch.output_file_id)).values()]
        assert 0 < sum(not body.get("choices") for body in bodies) < 40
        assert any(body["choices"][0]["finish_reason"] == "length" for body in bodies if body.get("choices"))

    counts = talk_to_standin(talk, Faults(rate_wrong_json=0.3, rate_cutoff=0.3))
    assert counts["answered"] + counts["wrong_json"] == 40


def test_an_expired_batch_keeps_what_was_done_and_names_what_was_not() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        batch = await ended(client, await submitted(client, [line(n) for n in range(10)]))
        assert batch.status == "expired" and batch.expired_at and batch.completed_at is None
        assert batch.expires_at is not None and batch.expires_at <= batch.created_at + 1
        good, left = await rows(client, batch.output_file_id), await rows(client, batch.error_file_id)
        assert len(good) == 7 and len(left) == 3 and not good.keys() & left.keys()
        assert all(row["response"] is None and row["error"]["code"] == "batch_expired" for row in left.values())
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": 10, "completed": 7, "failed": 3}

    counts = talk_to_standin(talk, Faults(batch_expire_share=0.3, batch_delay_s=0.1))
    assert counts == {"answered": 7}


def test_lines_that_expire_are_run_in_the_end_when_sent_again() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        waiting = [line(n) for n in range(9)]
        sizes: list[int] = []
        while waiting and len(sizes) < 30:
            sizes.append(len(waiting))
            batch = await ended(client, await submitted(client, waiting))
            left = await rows(client, batch.error_file_id)
            assert batch.status == ("expired" if left else "completed")
            waiting = [row for row in waiting if row["custom_id"] in left]
        assert not waiting and sizes[:2] == [9, sizes[1]] and sizes[1] in (4, 5)

    assert talk_to_standin(talk, Faults(batch_expire_share=0.5)) == {"answered": 9}


def test_a_cancelled_batch_keeps_what_was_done_and_names_the_rest() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        batch = await submitted(client, [line(n) for n in range(50)])
        while batch.request_counts is None or batch.request_counts.completed < 5:
            await asyncio.sleep(0.01)
            batch = await client.batches.retrieve(batch.id)
        batch = await client.batches.cancel(batch.id)
        assert batch.status == "cancelling" and batch.cancelling_at and batch.cancelled_at is None
        batch = await ended(client, batch)
        assert batch.status == "cancelled" and batch.cancelled_at
        good, left = await rows(client, batch.output_file_id), await rows(client, batch.error_file_id)
        assert 5 <= len(good) < 50 and len(good) + len(left) == 50
        assert {row["error"]["code"] for row in left.values()} == {"batch_cancelled"}
        assert (await client.batches.cancel(batch.id)).status == "cancelled"

    talk_to_standin(talk, Faults(batch_delay_s=2.0))


def test_a_batch_that_has_ended_cannot_be_cancelled() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        batch = await ended(client, await submitted(client, [line(1)]))
        with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
            await client.batches.cancel(batch.id)

    talk_to_standin(talk)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([line(1), "{not json", "[1]"], [("invalid_json_line", 2, None), ("invalid_json_line", 3, None)]),
        ([line(1), line(2), line(1)], [("duplicate_custom_id", 3, "custom_id")]),
        ([line(1, url="/v1/embeddings")], [("invalid_url", 1, "url")]),
        ([line(1, method="GET")], [("invalid_method", 1, "method")]),
        ([{"custom_id": "a", "url": "/v1/chat/completions"}], [("missing_required_parameter", 1, "method")]),
        ([line(1, custom_id=5)], [("invalid_type", 1, "custom_id")]),
        ([line(1, body={"model": MODEL})], [("invalid_request", 1, "body.messages")]),
        ([line(1, body={"model": "x", "messages": []})], [("model_not_found", 1, "body.model")]),
        ([line(1, body={**line(1)["body"], "stream": True})], [("streaming_unsupported", 1, "body.stream")]),
        ([], [("empty_file", None, None)]),
    ],
)
def test_a_wrong_line_fails_the_batch_before_anything_is_run(
    lines: list[dict[str, Any] | str], wrong: list[tuple[str, int | None, str | None]]
) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        batch = await ended(client, await submitted(client, lines))
        assert batch.status == "failed" and batch.failed_at and batch.in_progress_at is None
        assert batch.errors is not None and batch.errors.data is not None
        assert [(error.code, error.line, error.param) for error in batch.errors.data] == wrong
        assert batch.output_file_id is None and batch.error_file_id is None

    assert talk_to_standin(talk) == {}


def test_a_line_that_cannot_be_answered_fails_alone() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        odd = line(1, body={"model": MODEL, "messages": "hello"})
        batch = await ended(client, await submitted(client, [odd, line(2)]))
        assert batch.status == "completed"
        assert (await rows(client, batch.error_file_id))["r1"]["response"]["status_code"] == 400
        assert list(await rows(client, batch.output_file_id)) == ["r2"]

    talk_to_standin(talk)


def test_unknown_ids_are_not_found_and_a_batch_over_an_unknown_file_fails() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        for lost in (
            client.files.retrieve("file-none"),
            client.files.content("file-none"),
            client.files.delete("file-none"),
            client.batches.retrieve("batch_none"),
            client.batches.cancel("batch_none"),
        ):
            with pytest.raises(openai.NotFoundError):
                await lost
        batch = await ended(
            client,
            await client.batches.create(
                input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h"
            ),
        )
        assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
        assert "Cannot find file" in (batch.errors.data[0].message or "")

    talk_to_standin(talk)


def test_a_batch_that_asks_for_something_else_is_refused_at_once() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        file = await client.files.create(file=("lines.jsonl", b"{}\n"), purpose="batch")
        good: dict[str, Any] = {
            "input_file_id": file.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        for name, value in (("endpoint", "/v1/embeddings"), ("completion_window", "1h"), ("metadata", {"a": [1]})):
            with pytest.raises(openai.BadRequestError, match=name):
                await client.batches.create(**{**good, name: value})
        with pytest.raises(openai.BadRequestError, match="jsonl"):
            await client.files.create(file=("lines.txt", b"{}\n"), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="purpose"):
            await client.files.create(file=("lines.jsonl", b"{}\n"), purpose="fine-tune")

    talk_to_standin(talk)


def test_files_are_listed_read_back_and_deleted() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        made = [await client.files.create(file=(f"{n}.jsonl", b"x" * n), purpose="batch") for n in range(1, 4)]
        assert [file.id async for file in client.files.list()] == [file.id for file in reversed(made)]
        assert [file.id async for file in client.files.list(limit=1, order="asc")] == [file.id for file in made]
        assert [file.id async for file in client.files.list(purpose="batch_output")] == []
        shown = await client.files.retrieve(made[1].id)
        assert (shown.bytes, shown.filename, shown.purpose, shown.status) == (2, "2.jsonl", "batch", "processed")
        assert (await client.files.content(made[2].id)).read() == b"xxx"
        assert (await client.files.delete(made[0].id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made[0].id)

    talk_to_standin(talk)


def test_batches_are_listed_newest_first_page_by_page() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        made = [await submitted(client, [line(n)], metadata={"n": str(n)}) for n in range(5)]
        first = await client.batches.list(limit=2)
        assert [batch.id for batch in first.data] == [made[4].id, made[3].id] and first.has_more
        assert [batch.id async for batch in client.batches.list(limit=2)] == [batch.id for batch in reversed(made)]

    talk_to_standin(talk)


def test_a_wrong_key_is_refused_for_files_and_batches_too() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        for refused in (
            client.files.create(file=("lines.jsonl", b"{}\n"), purpose="batch"),
            client.files.retrieve("file-none"),
            client.batches.retrieve("batch_none"),
            client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h"),
        ):
            with pytest.raises(openai.AuthenticationError):
                await refused

    assert talk_to_standin(talk, key="other") == {"401": 4}


def test_a_long_batch_does_not_hold_up_the_end_of_the_server() -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        await submitted(client, [line(1)])

    began = time.monotonic()
    talk_to_standin(talk, Faults(batch_delay_s=600.0))
    assert time.monotonic() - began < 300
