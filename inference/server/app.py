"""The routes: `/v1/rerank`, `/v2/rerank`, `/healthz`, `/metrics`; one model, asked over a RankerProcess.

Every refusal is JSON with `message` (as Cohere writes it) and `detail` (as Jina does):
    400 no JSON · 401 no or another key · 404 another model · 408 a body that does not come · 413 too large · 415
    compressed · 422 a field that is not what it must be · 429 too much is waiting (Retry-After) · 503 the model is
    loading (Retry-After). What the model did is a 500 (it died) or a 504 (it took longer than anyone waits).

Absent on purpose: several models behind one server, streaming, and any record of what was asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from inference.server.bodies import BadBody, RerankAsk, answer_body, read_body
from inference.server.desk import Busy, Desk
from inference.server.figures import Figures
from inference.server.ranker import ListRefused, NotReady, RankerDied, RankerProcess, Ranking

log = logging.getLogger(__name__)
PATHS = ("/v1/rerank", "/v2/rerank", "/healthz", "/metrics")
LOADING_AGAIN_S = 5
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ServerSettings(BaseModel):
    """Which names the model goes by, who may ask, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1, description="Names of the model; the first stands in every answer.")
    api_key: SecretStr | None = Field(None, description="Key that every request must bear; null asks for none.")
    most_documents: int = Field(1_000, ge=1, description="Documents of one request.")
    most_body_bytes: int = Field(4 * 2**20, ge=1, description="Bytes of one request.")
    most_requests: int = Field(256, ge=1, description="Requests that may wait for the model together.")
    most_waiting_bytes: int = Field(128 * 2**20, ge=1, description="Bytes that they may hold together.")
    body_s: float = Field(20.0, gt=0, description="Seconds in which a body must have come.")
    answer_s: float = Field(300.0, gt=0, description="Seconds that the model may take; half of it is what may wait.")
    drain_s: float = Field(30.0, gt=0, description="Seconds that running requests are given when the server stops.")


class RerankServer:
    """The application and what it holds: the model's process, the desk, the figures."""

    def __init__(self, settings: ServerSettings, ranker: RankerProcess) -> None:
        self.settings = settings
        self.ranker = ranker
        self.desk = Desk(settings.most_requests, settings.most_waiting_bytes, settings.answer_s / 2)
        self.figures = Figures()

    def app(self) -> web.Application:
        """The aiohttp application; run it with handler_cancellation, or a dropped connection keeps its work."""
        app = web.Application(client_max_size=self.settings.most_body_bytes, middlewares=[self._around])
        app.router.add_post("/{api:v1|v2}/rerank", self._rerank)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _rerank(self, request: web.Request) -> web.Response:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            return refusal(415, "a compressed body is not read here; send it as it is")
        if not self.ranker.ready:
            raise NotReady
        started, size = time.monotonic(), self._size(request)
        with self.desk.admitted(size) as place:
            try:
                async with asyncio.timeout(self.settings.body_s):
                    content = await request.read()
            except TimeoutError:
                return refusal(408, f"the body did not come within {self.settings.body_s:g} s")
            ask = read_body(content, self.settings.most_documents)
            del content
            if ask.model is not None and ask.model not in self.settings.names:
                known = ", ".join(self.settings.names)
                return refusal(404, f"there is no model {ask.model[:200]!r} here; this server has {known}")
            place.documents = len(ask.documents)
            ranking = await self._ranking(ask)
            self.desk.answered(len(ask.documents))
        self.figures.ranked(len(ask.documents), ranking)
        self.figures.seconds.observe(time.monotonic() - started)
        return _json(answer_body(ask, ranking, self.settings.names[0], request.match_info["api"]))

    async def _ranking(self, ask: RerankAsk) -> Ranking:
        async with asyncio.timeout(self.settings.answer_s):
            return await self.ranker.rank(ask.query, ask.documents)

    def _size(self, request: web.Request) -> int:
        """Bytes to reserve: what the request says it will send, or the most it may."""
        most = self.settings.most_body_bytes
        said = request.content_length
        if said is not None and said > most:
            raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=said)
        return most if said is None else said

    async def _health(self, _request: web.Request) -> web.Response:
        ready = self.ranker.ready
        body = {"status": "ok" if ready else "loading", "model": self.settings.names[0], **self.ranker.about}
        return _json(body) if ready else _json(body, 503, {"Retry-After": str(LOADING_AGAIN_S)})

    async def _metrics(self, _request: web.Request) -> web.Response:
        figures = self.figures
        figures.ready.set(self.ranker.ready)
        figures.starts.set(self.ranker.starts)
        figures.waiting.set(self.desk.requests)
        figures.waiting_documents.set(self.desk.documents)
        return web.Response(body=figures.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The key before everything, every refusal as JSON, and a count of all that ends."""
        path = request.path if request.path in PATHS else "other"
        status = 500  # a defect, which aiohttp logs and answers
        try:
            response = await self._answered(request, handler)
            status = response.status
        except (asyncio.CancelledError, ConnectionError):
            status = 499
            raise
        finally:
            self.figures.requests.labels(path, str(status)).inc()
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/healthz" and not self._may(request):
            return refusal(401, "this server asks for its key: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
        try:
            return await handler(request)
        except BadBody as error:
            return refusal(error.status, str(error))
        except web.RequestPayloadError as error:
            return refusal(400, f"the body cannot be read: {error}")
        except ListRefused as error:
            return refusal(422, f"the model cannot read this list: {error}. Send shorter texts, or fewer.")
        except Busy as error:
            return refusal(429, f"{error}. Come again later.", {"Retry-After": str(error.retry_after_s)})
        except NotReady:
            return refusal(503, "the model is being loaded. Come again later.", {"Retry-After": str(LOADING_AGAIN_S)})
        except RankerDied as error:
            return refusal(500, f"{error}; it is started again")
        except TimeoutError:
            return refusal(504, f"the model took longer than {self.settings.answer_s:g} s; send fewer documents")
        except web.HTTPRequestEntityTooLarge:
            return refusal(413, f"a body may hold {self.settings.most_body_bytes:,} bytes; send fewer documents")
        except web.HTTPException as error:
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return refusal(error.status, f"{error.reason}: {request.method} {request.path[:200]}", allowed)

    def _may(self, request: web.Request) -> bool:
        if self.settings.api_key is None:
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        # Digests, so that not even the length of the key shows in the time it takes.
        theirs = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        ours = hashlib.sha256(self.settings.api_key.get_secret_value().encode()).digest()
        return hmac.compare_digest(theirs, ours) and scheme.lower() == "bearer"


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as both APIs write it."""
    return _json({"message": message, "detail": message}, status, headers)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )
