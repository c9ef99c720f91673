"""A provider's Batch API: upload, create, look, list, download, cancel, delete, over OpenAI's own client.

Whatever can be repeated is repeated, with a growing wait, until the endpoint has been out of reach for too long. The
creation of a batch is not: where it is not certain that none came about, `create` raises Unsure, and `recent` finds the
batch by the tag that it was given. Every text that leaves this module is scrubbed of the key.

Absent on purpose: rows and claims (`rows`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from inference.breaker import EndpointDown
from inference.endpoint import Endpoint, EndpointRefused, Line, RequestRefused, Trouble, refused_as
from inference.pace import PaceSettings, backoff_s

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

T = TypeVar("T")
DELETE_WITHIN_S = 30.0
URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
TAG = "rankmill_batch"
# Two clocks are compared where the provider's list is read.
CLOCKS_DIFFER_S = 3600.0
SHOWN = 5


class BatchRefused(RequestRefused):
    """The provider refuses a batch as it stands; sent again, it would be refused again."""


class Unsure(Exception):
    """The answer to the creation of a batch was lost: there may be one, or none."""


@dataclass(frozen=True)
class Remote:
    """A batch as its provider shows it; `tag` is what `create` was told, `codes` and `said` what is wrong with it."""

    id: str
    status: str
    tag: str | None
    output_file_id: str | None
    error_file_id: str | None
    codes: frozenset[str]
    said: str


class BatchApi:
    """The Batch API of one endpoint; use as an async context manager, one per run.

    Methods raise EndpointRefused, BatchRefused (a request that is wrong in itself) and EndpointDown.
    """

    def __init__(self, endpoint: Endpoint, unreachable_s: float) -> None:
        self.endpoint = endpoint
        self._unreachable_s = unreachable_s
        self._pauses = PaceSettings()

    async def __aenter__(self) -> BatchApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_client" in self.__dict__:
            await self._client.close()

    @cached_property
    def _client(self) -> openai.AsyncOpenAI:
        # A second of imports, and a run whose answers are all stored does without.
        import openai

        self.endpoint.check_key()
        return openai.AsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.endpoint.api_key.get_secret_value(),
            timeout=openai.Timeout(self.endpoint.timeout_s, connect=self.endpoint.connect_timeout_s),
            # Retried here: the client cannot know that a creation must not be.
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(trust_env=self.endpoint.trusts_proxies),
        )

    async def upload(self, name: str, data: bytes) -> str:
        """Hand over an input file; gives its id."""

        async def call() -> str:
            return _text((await self._client.files.create(file=(name, data), purpose="batch")).id)

        return await self._patiently("the upload of a batch's input file", call)

    async def create(self, file_id: str, tag: str, window: str) -> str:
        """Start a batch over an input file; gives its id. Raises Unsure."""

        async def call() -> str:
            batch = await self._client.batches.create(
                input_file_id=file_id, endpoint=URL, completion_window=cast(Any, window), metadata={TAG: tag}
            )
            return _text(batch.id)

        return await self._patiently("the creation of a batch", call, once=True)

    async def show(self, remote: str, remedy: str) -> Remote:
        """A batch as it stands now; `remedy` is said where the provider does not know it."""

        async def call() -> Remote:
            return _remote(await self._client.batches.retrieve(remote), self.endpoint)

        return await self._patiently(f"to show batch {remote}", call, remedy)

    async def recent(self, since: float) -> list[Remote]:
        """All batches that were created since then, and perhaps some older ones."""

        async def call() -> list[Remote]:
            found = []
            async for batch in self._client.batches.list(limit=100):
                if batch.created_at < since - CLOCKS_DIFFER_S:
                    break  # the list begins with the newest
                found.append(_remote(batch, self.endpoint))
            return found

        return await self._patiently("to list batches", call)

    async def content(self, file_id: str | None, remedy: str) -> bytes:
        """What a file holds; nothing where there is no file."""
        if file_id is None:
            return b""

        async def call() -> bytes:
            return self.endpoint.without_key((await self._client.files.content(file_id)).content)

        return await self._patiently(f"to hand out file {file_id}", call, remedy)

    async def cancel(self, remote: str) -> None:
        """Ask for a batch to be cancelled; one that has ended is left as it is."""

        async def call() -> None:
            try:
                await self._client.batches.cancel(remote)
            except openai.APIStatusError as error:
                if error.status_code not in (400, 409):
                    raise

        import openai

        await self._patiently(f"to cancel batch {remote}", call)

    async def delete(self, file_id: str) -> Trouble | None:
        """Delete a file, at the first attempt or not at all; gives why it may still be there."""

        async def call() -> None:
            async with asyncio.timeout(DELETE_WITHIN_S):
                await self._client.files.delete(file_id)

        outcome = await self._attempt(call)
        return outcome if isinstance(outcome, Trouble) and outcome.kind != "not found" else None

    async def _patiently(self, what: str, call: Callable[[], Awaitable[T]], remedy: str = "", once: bool = False) -> T:
        attempt, began = 0, time.monotonic()
        while True:
            outcome = await self._attempt(call)
            if not isinstance(outcome, Trouble):
                return outcome
            attempt += 1
            base_url, said = self.endpoint.base_url, f"{outcome.kind} ({outcome.detail})"
            if outcome.fatal:
                refused = refused_as(outcome.kind) or EndpointRefused
                no_batches = "Does this endpoint have a Batch API? " if refused is RequestRefused else ""
                raise refused(
                    f"{base_url} refuses {what}: {said}. All answers so far are kept, and open batches stay open. "
                    f"{no_batches}{refused.remedy} {remedy}".rstrip()
                )
            if not outcome.retry:
                raise BatchRefused(f"{base_url} refuses {what}: {said}. Nothing of it was charged.")
            # Only a 429 says for certain that nothing was created.
            if once and outcome.kind != "429":
                raise Unsure(said)
            wait = backoff_s(self._pauses, attempt, outcome.retry_after_s)
            if time.monotonic() + wait - began > self._unreachable_s:
                raise EndpointDown(
                    f"{base_url} was out of reach for {self._unreachable_s:g} s, the last time with {said}, and asked "
                    f"for {what}. Batches that it has go on without us, and the next run collects them. Check that the "
                    "endpoint is up, then run again."
                )
            await asyncio.sleep(wait)

    async def _attempt(self, call: Callable[[], Awaitable[T]]) -> T | Trouble:
        import aiohttp
        import openai

        try:
            return await call()
        except openai.APIStatusError as error:
            answer = error.response
            trouble = Line(self.endpoint).read(error.status_code, answer.headers, answer.content, 0.0)
            assert isinstance(trouble, Trouble)
            return trouble
        except (openai.APIError, aiohttp.ClientError, OSError) as error:
            cause = error.__cause__ or error
            return Trouble("unreachable", self.endpoint.scrub(f"{type(cause).__name__}: {cause}"), retry=True)
        except (ValueError, TypeError, AttributeError) as error:
            # A 200 that holds something else: the page of a proxy, say.
            return Trouble("unreadable", self.endpoint.scrub(f"{type(error).__name__}: {error}"), retry=True)


def _remote(batch: Batch, endpoint: Endpoint) -> Remote:
    errors = (batch.errors.data if batch.errors is not None else None) or []
    texts = [f"{'' if e.line is None else f'line {e.line}: '}{e.code}: {e.message}" for e in errors[:SHOWN]]
    more = [f"and {len(errors) - SHOWN:,} more"] if len(errors) > SHOWN else []
    return Remote(
        id=_text(batch.id),
        status=_text(batch.status),
        tag=(batch.metadata or {}).get(TAG),
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        codes=frozenset(e.code for e in errors if e.code),
        said=endpoint.scrub("; ".join([*texts, *more])),
    )


def _text(value: object) -> str:
    """What must be there in an answer; the client itself takes any JSON for what it asked for."""
    if not isinstance(value, str) or not value:
        raise TypeError("the answer is not what was asked for")
    return value
