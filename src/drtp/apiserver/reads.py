"""Get and list. Stored bytes are the final JSON, so a list is their concatenation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec
from aiohttp import web

from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Key
from drtp.apiserver import tables
from drtp.apiserver.calls import Call, Form
from drtp.apiserver.failures import Failure, bad_request, expired, invalid_parameter
from drtp.apiserver.selectors import compile_selectors
from drtp.kit.clock import Clock
from drtp.store.protocol import Listing, Select, Stored

CHUNK_BYTES = 256 * 1024
"""A list beyond this is sent in pieces, so that a slow reader does not hold it all in buffers."""

LIMIT_MAX = 10_000
"""The largest page; more is asked for with `continue`."""


class Readable(Protocol):
    """What get and list are answered from: a store, or something computed."""

    @property
    def revision(self) -> int:
        """The newest visible revision."""
        ...

    async def get(self, key: Key) -> Stored:
        """One object. Raises: store.NotFound."""
        ...

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        limit: int = 0,
        after: str | None = None,
        select: Select | None = None,
    ) -> Listing:
        """As `Store.list`."""
        ...


class Reads:
    """Answers get and list from the store."""

    def __init__(self, store: Readable, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def get(self, call: Call) -> web.Response:
        """One object. Raises: store.NotFound."""
        return self.shown(call, await self._store.get(call.key))

    def shown(self, call: Call, stored: Stored, status: int = 200) -> web.Response:
        """One object in the form asked for."""
        match call.form:
            case Form.OBJECT:
                body = call.raw(stored)
            case Form.PARTIAL:
                body = msgspec.json.encode(tables.partial(stored.object))
            case Form.TABLE:
                metadata: JsonObject = {"resourceVersion": str(stored.revision)}
                shown = tables.table(call.info, [stored], metadata, self._clock.now(), call.include)
                body = msgspec.json.encode(shown)
        return web.Response(body=body, status=status, content_type="application/json")

    async def list(self, call: Call) -> web.StreamResponse:
        """A collection, or a page of it."""
        listing = await self.listing(call)
        metadata: JsonObject = {"resourceVersion": str(listing.revision)}
        if listing.continue_token is not None:
            metadata["continue"] = listing.continue_token
        match call.form:
            case Form.OBJECT:
                return await _streamed(call, listing, metadata)
            case Form.PARTIAL:
                body: JsonObject = {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": [tables.partial(stored.object) for stored in listing.items],
                }
            case Form.TABLE:
                body = tables.table(call.info, listing.items, metadata, self._clock.now(), call.include)
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def listing(self, call: Call) -> Listing:
        """What a list, or the beginning of a watch, asks for. Raises: Failure, store.Expired."""
        self._check_revision(call)
        select = compile_selectors(call.info, call.parameter("labelSelector"), call.field_selector)
        return await self._store.list(
            call.info.key,
            call.target.namespace or None,
            limit=min(call.number("limit"), LIMIT_MAX),
            after=call.parameter("continue") or None,
            select=select,
        )

    def _check_revision(self, call: Call) -> None:
        """Reads are always the newest state; what cannot be had that way is refused, not guessed."""
        wanted = call.number("resourceVersion")
        match = call.parameter("resourceVersionMatch")
        if match and match not in {"Exact", "NotOlderThan"}:
            raise invalid_parameter(
                "resourceVersionMatch", 'Unsupported value: supported values: "Exact", "NotOlderThan"'
            )
        if match and not call.parameter("resourceVersion") and not call.flag("sendInitialEvents"):
            raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
        if wanted > self._store.revision:
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            details: JsonObject = {"causes": causes, "retryAfterSeconds": 1}
            raise Failure(504, "DRTP-1017", f"Too large resource version: {wanted}", details=details)
        if match == "Exact" and wanted != self._store.revision and not call.parameter("continue"):
            raise expired()


async def _streamed(call: Call, listing: Listing, metadata: JsonObject) -> web.StreamResponse:
    pieces = list(_pieces(call, listing, metadata))
    if sum(map(len, pieces)) <= CHUNK_BYTES:
        return web.Response(body=b"".join(pieces), content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(call.request)
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            await response.write(b"".join(waiting))
            waiting, size = [], 0
    await response.write(b"".join(waiting))
    await response.write_eof()
    return response


def _pieces(call: Call, listing: Listing, metadata: JsonObject) -> Iterator[bytes]:
    group = f"{call.info.group}/" if call.info.group else ""
    head: JsonObject = {
        "kind": f"{call.info.kind}List",
        "apiVersion": f"{group}{call.target.version}",
        "metadata": metadata,
    }
    yield msgspec.json.encode(head)[:-1] + b',"items":['
    for index, stored in enumerate(listing.items):
        yield b"," + call.raw(stored) if index else call.raw(stored)
    yield b"]}"
