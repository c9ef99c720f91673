"""The stand-in teacher's `/v1/files`: what is uploaded for a batch, and what a batch leaves behind.

Files live in memory and are gone with the server. Ids are random, so that an id kept from an earlier server is
unknown here and never another file's.

Absent on purpose: purposes other than batch, upload in parts, files that expire.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from inference.standin.faults import error_response

Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]


@dataclass(frozen=True)
class StoredFile:
    """One file and its contents."""

    id: str
    filename: str
    purpose: str
    created_at: int
    data: bytes

    def shown(self) -> dict[str, Any]:
        """The file object of the API."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": self.created_at,
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass
class Files:
    """The files of one server, in the order in which they came."""

    _kept: dict[str, StoredFile] = field(default_factory=dict)

    def add(self, filename: str, purpose: str, data: bytes) -> StoredFile:
        """Keep a file under a new id."""
        file = StoredFile(f"file-{secrets.token_hex(12)}", filename, purpose, int(time.time()), data)
        self._kept[file.id] = file
        return file

    def get(self, file_id: str) -> StoredFile | None:
        """The file of an id, if there is one."""
        return self._kept.get(file_id)

    def routes(self) -> list[Route]:
        """Method, path and handler of all that is spoken here."""
        return [
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list),
            ("GET", "/v1/files/{id}", self._show),
            ("GET", "/v1/files/{id}/content", self._content),
            ("DELETE", "/v1/files/{id}", self._delete),
        ]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "multipart/form-data":
            return error_response(400, "Invalid Content-Type: expected multipart/form-data.")
        purpose, filename, data = "", "", None
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "purpose":
                purpose = await part.text()
            elif isinstance(part, BodyPartReader) and part.name == "file":
                filename, data = part.filename or "", bytes(await part.read())
        if data is None:
            return error_response(400, "Missing required parameter: 'file'.", "missing_required_parameter", "file")
        if purpose != "batch":
            return error_response(
                400, f"Invalid value for 'purpose': {purpose!r}. Only 'batch' is kept here.", None, "purpose"
            )
        if not filename.endswith(".jsonl"):
            return error_response(400, "Invalid file format for Batch API. Must be .jsonl")
        return web.json_response(self.add(filename, purpose, data).shown())

    async def _list(self, request: web.Request) -> web.StreamResponse:
        wanted = request.query.get("purpose")
        return page(request, [f.shown() for f in self._kept.values() if wanted in (None, f.purpose)], 10_000)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        file = self.get(request.match_info["id"])
        return _no_file(request) if file is None else web.json_response(file.shown())

    async def _content(self, request: web.Request) -> web.StreamResponse:
        file = self.get(request.match_info["id"])
        return _no_file(request) if file is None else web.Response(body=file.data)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        file = self._kept.pop(request.match_info["id"], None)
        if file is None:
            return _no_file(request)
        return web.json_response({"id": file.id, "object": "file", "deleted": True})


def page(request: web.Request, oldest_first: Sequence[dict[str, Any]], limit: int) -> web.Response:
    """A page of a list, newest first unless `order=asc`; a client goes on with `after`."""
    rows = list(oldest_first if request.query.get("order") == "asc" else reversed(oldest_first))
    after = request.query.get("after")
    if after is not None:
        places = [i for i, row in enumerate(rows) if row["id"] == after]
        rows = rows[places[0] + 1 :] if places else []
    try:
        wanted = int(request.query.get("limit", limit))
    except ValueError:
        wanted = 0
    if wanted < 1:
        return error_response(400, "Invalid 'limit': expected a whole number above 0.", "invalid_type", "limit")
    shown = rows[:wanted]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return web.json_response({"object": "list", "data": shown, **ends, "has_more": len(rows) > len(shown)})


def _no_file(request: web.Request) -> web.Response:
    return error_response(404, f"No such File object: {request.match_info['id']}", None, "id")
