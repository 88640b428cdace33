"""Watch: changes as frames of JSON, with bookmarks, initial events (WatchList) and Table rows.

A watcher that does not read costs no memory: the store's watch holds a position, not a queue, and falls out of the
event log (410) or past its write deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import msgspec
from aiohttp import web

from drtp.api.jsonvalue import JsonObject
from drtp.apiserver import tables
from drtp.apiserver.calls import Call, Form
from drtp.apiserver.failures import Failure, expired, invalid_parameter
from drtp.apiserver.reads import Reads
from drtp.apiserver.selectors import compile_selectors
from drtp.kit.clock import Clock
from drtp.store.protocol import EventType, Expired, Select, Store, Stored, Watch, WatchEvent

BOOKMARK_INTERVAL_S = 60.0
"""So that a watcher of quiet kinds does not have to list again after a pause."""

WRITE_DEADLINE_S = 30.0
"""A watcher that takes no bytes for so long is gone."""

TIMEOUT_S = (1800.0, 3600.0)
"""Where the client gives none: a random length, so that watchers do not come back all at once."""

WATCHES_PER_USER_MAX = 1000
"""Informers and `get -w` of one tenant; a flood beyond this is refused."""

INITIAL_END = "k8s.io/initial-events-end"


class _Frame(NamedTuple):
    """One event to send."""

    type: str
    stored: Stored


class _Pace(NamedTuple):
    """How long a watch goes on, and whether it says how far it has come."""

    duration_s: float
    bookmarks: bool


class Watches:
    """Runs every watch of this server, and ends them all at shutdown."""

    def __init__(self, store: Store, reads: Reads, clock: Clock, stands: Callable[[Call], Awaitable[bool]]) -> None:
        """`stands`: whether a caller would be let in to the same watch now."""
        self._store = store
        self._reads = reads
        self._clock = clock
        self._stands = stands
        self._open: dict[Watch, Call] = {}
        self._by_user: Counter[str] = Counter()
        self._closing = False

    async def close(self) -> None:
        """End every watch; clients see a clean end and come back."""
        self._closing = True
        await self.end_all()

    async def end_all(self) -> None:
        """End every watch that is open now."""
        for watch in tuple(self._open):
            await watch.aclose()

    async def end_unless(self, wanted: Callable[[Call], bool], holds: Callable[[Call], Awaitable[bool]]) -> None:
        """End the watches that are `wanted`, but for those of which `holds` is said."""
        for watch, call in tuple(self._open.items()):
            if wanted(call) and not await holds(call):
                await watch.aclose()

    async def run(self, call: Call) -> web.StreamResponse:
        """Serve one watch until it ends. Raises: Failure before the first byte."""
        if self._closing:
            raise Failure(503, "DRTP-1021", "the server is shutting down", details={"retryAfterSeconds": 1})
        user = call.user.uid or call.user.name
        if self._by_user[user] >= WATCHES_PER_USER_MAX:
            details: JsonObject = {"retryAfterSeconds": 10}
            raise Failure(429, "DRTP-1020", "too many watches are open for this user", details=details)
        _check(call)
        self._by_user[user] += 1
        try:
            return await self._serve(call)
        finally:
            self._by_user[user] -= 1
            if not self._by_user[user]:
                del self._by_user[user]

    async def _serve(self, call: Call) -> web.StreamResponse:
        select = compile_selectors(call.info, call.parameter("labelSelector"), call.field_selector)
        duration = min(call.number("timeoutSeconds") or random.uniform(*TIMEOUT_S), TIMEOUT_S[1])  # noqa: S311 - no secret
        if call.user.until is not None:  # whoever has to prove themselves again does so before they see more
            duration = min(duration, max(0.0, (call.user.until - self._clock.now()).total_seconds()))
        initial, watch = await self._begin(call)
        self._open[watch] = call
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            if not await self._stands(call):  # what let them in was taken away before this watch was known here
                await watch.aclose()
                initial = []
            await response.prepare(call.request)
            out = _Output(call, response, self._clock)
            try:
                for stored in initial:
                    await out.send("ADDED", stored)
                if call.flag("sendInitialEvents"):
                    await out.bookmark(watch.revision, initial_end=True)
                await self._follow(watch, out, select, _Pace(duration, call.flag("allowWatchBookmarks")))
            except Expired:
                await out.error(expired())
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            # The watcher is gone or takes nothing; there is nobody to tell.
            if call.request.transport is not None:
                call.request.transport.abort()
        finally:
            self._open.pop(watch, None)
            await watch.aclose()
        return response

    async def _begin(self, call: Call) -> tuple[list[Stored], Watch]:
        """The objects to begin with, and the watch that goes on from there. Raises: Failure 410."""
        namespace = call.target.namespace or None
        wanted = call.number("resourceVersion")
        try:
            if wanted and not call.flag("sendInitialEvents"):
                return [], self._store.watch(call.info.key, namespace, since=wanted)
            listing = await self._reads.listing(call)
            return listing.items, self._store.watch(call.info.key, namespace, since=listing.revision)
        except Expired:
            raise expired() from None

    async def _follow(self, watch: Watch, out: _Output, select: Select | None, pace: _Pace) -> None:
        end = asyncio.get_running_loop().time() + pace.duration_s
        async for event in _paced(watch, end):
            if event is None:
                if pace.bookmarks:
                    await out.bookmark(watch.revision)
            elif (frame := _selected(event, select)) is not None:
                await out.send(frame.type, frame.stored)
        if pace.bookmarks and not self._closing:
            await out.bookmark(watch.revision)


def _check(call: Call) -> None:
    """Raises: Failure 422 for WatchList parameters that do not belong together, as Kubernetes does."""
    match = call.parameter("resourceVersionMatch")
    if "sendInitialEvents" in call.request.query and match != "NotOlderThan":
        raise invalid_parameter("resourceVersionMatch", "must be NotOlderThan with sendInitialEvents")
    if match and "sendInitialEvents" not in call.request.query:
        raise invalid_parameter("resourceVersionMatch", "is forbidden for watch without sendInitialEvents")
    if call.flag("sendInitialEvents") and not call.flag("allowWatchBookmarks"):
        raise invalid_parameter("sendInitialEvents", "needs allowWatchBookmarks")


async def _paced(watch: Watch, end: float) -> AsyncIterator[WatchEvent | None]:
    """Events until `end` (loop time); None whenever a bookmark is due."""
    loop = asyncio.get_running_loop()
    due = loop.time() + BOOKMARK_INTERVAL_S
    while True:
        try:
            # A watch loses nothing when a wait is cut short: it holds a position, not an event.
            async with asyncio.timeout_at(min(due, end)):
                event = await anext(watch, None)
        except TimeoutError:
            if loop.time() >= end:
                return
            due = loop.time() + BOOKMARK_INTERVAL_S
            yield None
            continue
        if event is None:
            return
        yield event
        if loop.time() >= end:
            return


def _selected(event: WatchEvent, select: Select | None) -> _Frame | None:  # noqa: PLR0911 - one line each
    """What this watcher sees of a change: an object that comes into its selection is added, one that leaves deleted."""
    stored = event.stored
    if event.type is EventType.BOOKMARK or stored is None:
        return None
    if select is None or event.type is EventType.ADDED:
        return _Frame(event.type.value, stored) if select is None or select(stored) else None
    if event.type is EventType.DELETED:
        return _Frame("DELETED", stored) if select(event.before or stored) else None
    was = event.before is not None and select(event.before)
    match was, select(stored):
        case True, True:
            return _Frame("MODIFIED", stored)
        case False, True:
            return _Frame("ADDED", stored)
        case True, False:
            return _Frame("DELETED", stored)
        case _:
            return None


class _Output:
    """Writes frames in the form asked for."""

    def __init__(self, call: Call, response: web.StreamResponse, clock: Clock) -> None:
        self._call = call
        self._response = response
        self._clock = clock
        self._form = call.form
        self._include = call.include
        self._columns_said = False

    async def send(self, kind: str, stored: Stored) -> None:
        """One object's event."""
        match self._form:
            case Form.OBJECT:
                body = self._call.raw(stored)
            case Form.PARTIAL:
                body = msgspec.json.encode(tables.partial(stored.object))
            case Form.TABLE:
                body = msgspec.json.encode(self._row(stored))
        await self._write(b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n")

    def _row(self, stored: Stored) -> JsonObject:
        metadata: JsonObject = {"resourceVersion": str(stored.revision)}
        shown = tables.table(self._call.info, [stored], metadata, self._clock.now(), self._include)
        if self._columns_said:
            shown["columnDefinitions"] = None  # kubectl keeps the first ones
        self._columns_said = True
        return shown

    async def bookmark(self, revision: int, *, initial_end: bool = False) -> None:
        """Everything up to `revision` has been said."""
        metadata: JsonObject = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {INITIAL_END: "true"}
        match self._form:
            case Form.OBJECT:
                kind = {"kind": self._call.info.kind, "apiVersion": self._call.info.api_version}
                obj: JsonObject = self._call.as_asked(kind | {"metadata": metadata})
            case Form.PARTIAL:
                obj = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            case Form.TABLE:
                obj = tables.table(self._call.info, [], metadata, self._clock.now(), self._include)
                self._columns_said = True
        await self._write(msgspec.json.encode({"type": "BOOKMARK", "object": obj}) + b"\n")

    async def error(self, failure: Failure) -> None:
        """The last frame of a watch that cannot go on."""
        await self._write(msgspec.json.encode({"type": "ERROR", "object": failure.status()}) + b"\n")

    async def _write(self, frame: bytes) -> None:
        async with asyncio.timeout(WRITE_DEADLINE_S):
            await self._response.write(frame)
