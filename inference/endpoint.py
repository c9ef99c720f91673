"""One OpenAI-compatible endpoint: its address, one HTTP request to it, and what can go wrong.

`Line.send` never retries and never raises for what an endpoint does: it returns an `Answer` or a `Trouble` that says
whether another attempt may help, whether to slow down, and whether the provider may have charged anyway.

Secrets: the key lives in a SecretStr and in the HTTP client; every text that leaves this module is scrubbed of it.
Absent on purpose: streaming, tools, several choices per request.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from inference.exchange import Request

if TYPE_CHECKING:
    import openai

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# Statuses that no retry of the same run will change, and that concern every request alike.
REFUSALS = {401: "key refused", 402: "payment required", 403: "forbidden", 404: "not found"}


class EndpointRefused(Exception):
    """The endpoint refuses every request alike (key, payment, address, model); nothing is gained by going on."""


class EndpointDown(Exception):
    """Request after request got no answer at all; what was answered before is stored."""


class Endpoint(BaseModel):
    """Where a model is served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(description="address up to and including /v1")
    api_key: SecretStr = Field(description="sent as a bearer token; from the environment, never from a file")
    timeout_s: float = Field(900.0, gt=0, description="longest wait for one answer; reasoning models take minutes")


@dataclass(frozen=True)
class Answer:
    """An answer as the endpoint gave it; token counts are None where it reported none."""

    served_model: str
    fingerprint: str
    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int
    latency_s: float


@dataclass(frozen=True)
class Trouble:
    """An HTTP request that brought no answer."""

    kind: str
    detail: str
    retry: bool
    slow_down: bool = False
    may_cost: bool = False
    fatal: bool = False
    retry_after_s: float | None = None


@dataclass
class Line:
    """An open connection pool to an endpoint; use as an async context manager, one per run."""

    endpoint: Endpoint
    _client: openai.AsyncOpenAI = field(init=False)

    async def __aenter__(self) -> Line:
        # 0.7 s of imports that a reader of the store never needs.
        from openai import AsyncOpenAI, DefaultAioHttpClient

        # A proxy from the environment must not come between this process and a server on the same machine.
        trust_env = urlsplit(self.endpoint.base_url).hostname not in LOOPBACK
        self._client = AsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.endpoint.api_key.get_secret_value(),
            # Retrying is the engine's: the transport would hide push-back from the pace and cost from the budget.
            max_retries=0,
            timeout=self.endpoint.timeout_s,
            http_client=DefaultAioHttpClient(timeout=self.endpoint.timeout_s, trust_env=trust_env),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def send(self, request: Request) -> Answer | Trouble:
        """Ask once."""
        import aiohttp
        import openai

        sampling = request.sampling
        started = time.monotonic()
        try:
            # The client's own time-out is per read: an endpoint that drips would never meet it.
            async with asyncio.timeout(self.endpoint.timeout_s):
                completion = await self._client.chat.completions.create(
                    model=sampling.model,
                    messages=[dict(m) for m in request.messages],  # type: ignore[misc]
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=openai.omit if sampling.seed is None else sampling.seed,
                )
            return _read(completion, time.monotonic() - started)
        except openai.APIStatusError as error:
            return self._status_trouble(error)
        except openai.APITimeoutError as error:
            return self._connection_trouble(error, "timeout")
        except openai.APIConnectionError as error:
            return self._connection_trouble(error, "connection")
        except TimeoutError:
            detail = f"no answer within {self.endpoint.timeout_s:g} s"
            return Trouble("timeout", detail, retry=True, slow_down=True, may_cost=True)
        except (aiohttp.ClientError, OSError) as error:
            detail = self._scrub(f"{type(error).__name__}: {error}")
            return Trouble("connection", detail, retry=True, slow_down=True, may_cost=True)
        except (openai.OpenAIError, json.JSONDecodeError, ValueError, AttributeError, TypeError, LookupError) as error:
            # A 200 whose body is no chat completion: paid for, perhaps, but no answer.
            return Trouble("unreadable", self._scrub(f"{type(error).__name__}: {error}"), retry=True, may_cost=True)

    def _status_trouble(self, error: openai.APIStatusError) -> Trouble:
        status = error.status_code
        detail = self._scrub(f"HTTP {status}: {error.message}")
        if status in REFUSALS:
            return Trouble(REFUSALS[status], detail, retry=False, fatal=True)
        if status == 429 or status == 408 or status >= 500:
            retry_after = retry_after_s(error.response.headers.get("retry-after"))
            return Trouble(str(status), detail, retry=True, slow_down=True, retry_after_s=retry_after)
        return Trouble(str(status), detail, retry=False)

    def _connection_trouble(self, error: openai.APIConnectionError, kind: str) -> Trouble:
        # The transport reports a reset as a connect time-out; only aiohttp's own exception tells them apart.
        import aiohttp

        cause: BaseException = error
        never_sent = False
        while cause.__cause__ is not None:
            cause = cause.__cause__
            never_sent |= isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
        reset = isinstance(cause, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError))
        kind = "unreachable" if never_sent else "reset" if reset else kind
        detail = self._scrub(f"{type(cause).__name__}: {cause}")
        return Trouble(kind, detail, retry=True, slow_down=True, may_cost=not never_sent)

    def _scrub(self, text: str) -> str:
        secret = self.endpoint.api_key.get_secret_value()
        return text.replace(secret, "***")[:500] if secret else text[:500]


def retry_after_s(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or an HTTP date; None if it says nothing."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _read(completion: Any, latency_s: float) -> Answer:
    choice = completion.choices[0]
    extra = choice.message.model_extra or {}
    refusal = getattr(choice.message, "refusal", None)
    prompt = completed = None
    cached = 0
    if completion.usage is not None:
        prompt, completed = int(completion.usage.prompt_tokens), int(completion.usage.completion_tokens)
        details = completion.usage.prompt_tokens_details
        # DeepSeek names its cache hits itself; OpenAI and vLLM nest them.
        hits = (completion.usage.model_extra or {}).get("prompt_cache_hit_tokens")
        cached = int(hits if hits is not None else (details.cached_tokens or 0) if details is not None else 0)
    return Answer(
        served_model=completion.model or "",
        fingerprint=completion.system_fingerprint or "",
        content=choice.message.content or "",
        reasoning=extra.get("reasoning_content") or extra.get("reasoning") or "",
        finish_reason="content_filter" if refusal else (choice.finish_reason or ""),
        prompt_tokens=prompt,
        completion_tokens=completed,
        cached_tokens=min(cached, prompt or 0),
        latency_s=latency_s,
    )
