"""One OpenAI-compatible endpoint: its address, one HTTP request to it, and what can go wrong.

What it refuses is told apart by what a person has to do about it: another key (`KeyRefused`), more credit
(`QuotaSpent`), another request (`RequestRefused`). All three are `EndpointRefused`, for callers that only stop.

`Line.send` never retries and never raises for what an endpoint does: it returns an `Answer` or a `Trouble` that says
whether another attempt may help, whether to slow down, and whether the provider may have charged anyway.

Chat completions go over aiohttp directly: the SDK would cost as much time a request as everything else together. Its
place is where requests are few (`batch`). Secrets: the key lives in a SecretStr and in the HTTP client; every text
that leaves this module is scrubbed of it. Absent on purpose: streaming, tools, several choices per request.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from inference import logprobs
from inference.exchange import Request

if TYPE_CHECKING:
    import aiohttp

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# What shows in the body alone: OpenAI answers 429 or 400 where the account has nothing left.
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
# Another attempt may help.
PASSING = frozenset({408, 409, 425, 429})
# A gateway gave up waiting: what it waited for may have gone on, and be charged.
TIMED_OUT = frozenset({408, 504, 524})
# What is shorter stands in for no key at all ("none", "EMPTY") and may be a word of an answer.
SHORTEST_KEY = 16
# A date far ahead, or a header in milliseconds, would stop a run for good; who is still not wanted then says so again.
RETRY_AFTER_AT_MOST_S = 3600.0
# A completion that its server did not bring to an end, by the finish_reason: DeepSeek's word, OpenRouter's, and vLLM's.
INTERRUPTED = frozenset({"insufficient_system_resource", "error", "abort"})
# What reading a JSON of another shape than a completion's comes to.
NO_COMPLETION = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class EndpointRefused(Exception):
    """The endpoint answers, and refuses; nothing is gained by going on before a person has changed something."""

    remedy = "Check base_url and the API key in the profile, then run again."


class KeyRefused(EndpointRefused):
    """The API key is unknown there, or may not do what was asked."""

    remedy = (
        "Check the API key in the environment and what it may do there, and that base_url is its own; then run again."
    )


class QuotaSpent(EndpointRefused):
    """The account has no money or quota left there."""

    remedy = "Pay in or raise the limit of the account there, then run again: only what is missing is asked."


class RequestRefused(EndpointRefused):
    """What is asked is refused: an address or a model that is not there, a parameter, a prompt that is too long."""

    remedy = (
        "Check base_url, the model name, the parameters (token_limit_name, temperature, top_p) and that prompt and "
        "max_tokens fit the model's context length; then run again."
    )


# Statuses that no retry of the same run will change, and that concern every request alike.
REFUSALS = {401: "key refused", 402: "payment required", 403: "forbidden", 404: "not found"}
_REFUSED_AS = {"key refused": KeyRefused, "forbidden": KeyRefused, "payment required": QuotaSpent, "quota": QuotaSpent}


class Endpoint(BaseModel):
    """Where a model is served, and how long it may take."""

    # A mistake in another field must not show the key beside it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(description="address up to and including /v1")
    api_key: SecretStr = Field(description="sent as a bearer token; from the environment, never from a file")
    timeout_s: float = Field(900.0, gt=0, description="longest wait for one attempt; reasoning models take minutes")
    connect_timeout_s: float = Field(30.0, gt=0, description="longest wait for a connection")
    token_limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls the limit on an answer's tokens"
    )

    @field_validator("api_key")
    @classmethod
    def _bare(cls, key: SecretStr) -> SecretStr:
        """The key as it was meant: one that was read from a file ends in a line break."""
        return SecretStr(key.get_secret_value().strip())

    @property
    def trusts_proxies(self) -> bool:
        """Whether a proxy named in the environment is used: never between this process and its own machine."""
        return urlsplit(self.base_url).hostname not in LOOPBACK

    @property
    def proxy(self) -> str | None:
        """The proxy that the environment names for this address, if any."""
        parts = urlsplit(self.base_url)
        if not self.trusts_proxies or proxy_bypass(parts.hostname or ""):
            return None
        return getproxies().get(parts.scheme)

    def check_key(self) -> None:
        """Raises EndpointRefused where no HTTP header can carry the key."""
        if not _sendable(self.api_key):
            # The HTTP client would say so too, from frames that hold the key.
            raise KeyRefused(
                f"The API key for {self.base_url} holds what no HTTP header can carry: a blank, a line break or a "
                "letter outside ASCII. Copy it again."
            )

    def scrub(self, text: str) -> str:
        """The first 500 characters of a text, without the key in any coding of it."""
        for written in _codings(self.api_key.get_secret_value()):
            text = text.replace(written, "***")
        return text[:500]

    def without_key(self, raw: bytes) -> bytes:
        """A response as it may be kept: some endpoints answer with the key that they were shown."""
        if len(self.api_key) >= SHORTEST_KEY:
            for written in _codings(self.api_key.get_secret_value()):
                raw = raw.replace(written.encode(), b"***")
        return raw


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
    logprobs: str | None = None


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
    _session: aiohttp.ClientSession = field(init=False, repr=False)
    _url: Any = field(init=False, repr=False)

    async def __aenter__(self) -> Line:
        # 0.3 s of imports that a reader of the store never needs.
        import aiohttp
        from yarl import URL

        self.endpoint.check_key()
        self._url = URL(self.endpoint.base_url.rstrip("/") + "/chat/completions")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.endpoint.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Once: with trust_env every request would look at the environment, and for a .netrc, in two threads.
            proxy=self.endpoint.proxy,
            headers={
                "Authorization": f"Bearer {self.endpoint.api_key.get_secret_value()}",
                "Content-Type": "application/json",
                "User-Agent": "rankmill",
            },
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, request: Request, timeout_s: float = math.inf) -> Answer | Trouble:
        """Ask once; `timeout_s` shortens the endpoint's own."""
        import aiohttp

        wait_s = min(timeout_s, self.endpoint.timeout_s)
        body = chat_body(request, self.endpoint.token_limit_name)
        started = time.monotonic()
        status = 0
        try:
            # Over the whole answer and not per read: an endpoint that drips would never meet a time-out per read.
            async with asyncio.timeout(wait_s), self._session.post(self._url, data=body) as response:
                status, headers = response.status, response.headers
                raw = await response.read()
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                detail = f"no connection within {self.endpoint.connect_timeout_s:g} s"
                return Trouble("unreachable", detail, retry=True, slow_down=True)
            detail = f"no answer within {wait_s:g} s"
            return Trouble("timeout", detail, retry=True, slow_down=True, may_cost=True)
        except (aiohttp.ClientError, OSError) as error:
            return self._broken(error, status)
        return self.read(status, headers, raw, time.monotonic() - started)

    def read(self, status: int, headers: Mapping[str, str], raw: bytes, latency_s: float) -> Answer | Trouble:
        """What a response means."""
        raw = self.endpoint.without_key(raw)
        if status == 200:
            try:
                answer = read_completion(read_json(raw), latency_s)
            except NO_COMPLETION as error:
                # A 200 whose body is no chat completion: paid for, perhaps, but no answer.
                seen = self.endpoint.scrub(raw.decode("utf-8", "replace"))[:200]
                detail = f"{type(error).__name__}: {error}; the body begins {seen!r}"
                return Trouble("unreadable", self.endpoint.scrub(detail), retry=True, may_cost=True)
            if answer.finish_reason in INTERRUPTED:
                detail = f"the answer ended with finish_reason {answer.finish_reason}"
                return Trouble("interrupted", detail, retry=True, slow_down=True, may_cost=True)
            return answer
        code, message = _error(raw)
        detail = self.endpoint.scrub(f"HTTP {status}: {message}")
        if code in QUOTA_CODES:
            return Trouble("quota", detail, retry=False, fatal=True)
        if status in REFUSALS:
            return Trouble(REFUSALS[status], detail, retry=False, fatal=True)
        if status in PASSING or status >= 500:
            wait, late = retry_after_s(headers.get("retry-after")), status in TIMED_OUT
            return Trouble(str(status), detail, retry=True, slow_down=True, may_cost=late, retry_after_s=wait)
        return Trouble(str(status), detail, retry=False)

    def _broken(self, error: Exception, status: int) -> Trouble:
        """A connection that could not be made (nothing sent, nothing charged), or that broke."""
        import aiohttp

        detail = self.endpoint.scrub(f"{type(error).__name__}: {error}")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
            return Trouble("unreachable", detail, retry=True, slow_down=True)
        kind = "half body" if status else "reset"
        return Trouble(kind, detail, retry=True, slow_down=True, may_cost=True)


def refused_as(kind: str) -> type[EndpointRefused] | None:
    """The decision that a kind of trouble asks of a person; None where it is no refusal."""
    if kind in _REFUSED_AS:
        return _REFUSED_AS[kind]
    status = int(kind) if kind.isdecimal() else 0
    refused = kind in REFUSALS.values() or (400 <= status < 500 and status not in PASSING)
    return RequestRefused if refused else None


def chat_body(request: Request, token_limit_name: str) -> bytes:
    """The JSON of a chat completion request."""
    sampling = request.sampling
    parameters: dict[str, Any] = {
        "model": sampling.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        token_limit_name: sampling.max_tokens,
    }
    if sampling.seed is not None:
        parameters["seed"] = sampling.seed
    if sampling.top_logprobs is not None:
        parameters |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return b'{"messages":%b,%b' % (request.messages_json, orjson.dumps(parameters)[1:])


def read_json(raw: bytes) -> Any:
    """JSON from an endpoint, which may cut an emoji in half at the token limit; -Infinity is read as null.

    Raises ValueError where it is none.
    """
    try:
        return orjson.loads(raw)
    except ValueError:
        try:
            lenient = json.dumps(
                json.loads(raw.decode("utf-8", "replace"), parse_constant=lambda _: None), ensure_ascii=False
            )
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return orjson.loads(_LONE_SURROGATE.sub("\ufffd", lenient))


def read_completion(completion: Any, latency_s: float) -> Answer:
    """An answer from the JSON of a chat completion; raises one of NO_COMPLETION where it is none.

    A finish_reason that is missing or that nobody here knows is kept as it came, and says nothing: servers have words
    of their own for a good end ("eos", "end_turn"), and what is not whole is left to the check of the answer.
    """
    message = completion["choices"][0]["message"]
    finish = completion["choices"][0].get("finish_reason") or ""
    usage = completion.get("usage") or {}
    prompt, completed = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    # DeepSeek names its cache hits itself; OpenAI and vLLM nest them.
    hits = usage.get("prompt_cache_hit_tokens")
    if hits is None:
        hits = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        raise TypeError("content and reasoning of a chat completion must be strings")
    return Answer(
        served_model=str(completion.get("model") or ""),
        fingerprint=str(completion.get("system_fingerprint") or ""),
        content=content,
        reasoning=reasoning,
        finish_reason="refusal" if message.get("refusal") else str(finish),
        prompt_tokens=prompt,
        completion_tokens=completed,
        cached_tokens=min(_count(hits) or 0, prompt or 0),
        latency_s=round(latency_s, 6),  # SQLite does not give every float back to its last bit
        logprobs=logprobs.keep(completion["choices"][0].get("logprobs")),
    )


def _count(told: Any) -> int | None:
    """A number of tokens: below nothing it would give money back, and beyond 64 bits no store could hold it."""
    count = None if told is None else int(told)
    if count is not None and not 0 <= count < 2**53:
        raise ValueError("a count of tokens is out of range")
    return count


def retry_after_s(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or an HTTP date; None if it says nothing.

    Never more than RETRY_AFTER_AT_MOST_S.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), RETRY_AFTER_AT_MOST_S) if math.isfinite(seconds) else None


def _error(raw: bytes) -> tuple[str, str]:
    """The code and the message in the body of an error."""
    try:
        error = orjson.loads(raw)["error"]
        if not isinstance(error, dict):
            return "", str(error)
        return str(error.get("code") or error.get("type") or ""), str(error["message"])
    except (ValueError, TypeError, LookupError):
        return "", raw.decode("utf-8", "replace").strip() or "no explanation"


def _sendable(key: SecretStr) -> bool:
    return all("!" <= sign <= "~" for sign in key.get_secret_value())


@lru_cache(maxsize=8)
def _codings(secret: str) -> tuple[str, ...]:
    """A key as a text may hold it: as it is, in a URL, in JSON with escaped slashes, and in base64."""
    if len(secret) < SHORTEST_KEY:
        return (secret,) if secret else ()
    codings = [secret, quote(secret, safe=""), secret.replace("/", "\\/")]
    for before in range(3):
        # Within a longer text the same bytes have three codings, whose ends their neighbours share.
        coded = base64.b64encode(bytes(before) + secret.encode()).decode()
        coded = coded[-(-before * 8 // 6) : (before + len(secret.encode())) * 8 // 6]
        codings += [coded, coded.translate(str.maketrans("+/", "-_"))]
    return tuple(dict.fromkeys(codings))
