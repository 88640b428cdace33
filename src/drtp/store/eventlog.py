"""The recent past of a store: one log for all watches, capped in bytes.

A watch is a position in the log, not a queue: a thousand slow readers cost nothing, and one that falls out of the log
is told so (Expired) instead of being buffered for.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable

from drtp.store.protocol import EventType, Expired, WatchEvent

LOG_BYTES_MAX = 4 * 1024 * 1024
"""About 1,600 changes of 2 KB: minutes of a busy control plane, so that a reconnecting watch rarely lists again."""
OVERHEAD_BYTES = 600
"""Of an event and its object in memory, beside the JSON."""
DROPPED_SHARE = 16
"""A sixteenth of the cap goes at once: a deletion at the front of a list costs its whole length."""
FRESH = 64
"""Changes whose objects stay decoded, for whoever follows closely. A decoded object is several times its JSON."""


class EventLog:
    """Events in revision order. `floor`: the revision below which nothing is known."""

    def __init__(self, revision: int = 0, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._events: list[WatchEvent] = []
        self._revisions: list[int] = []
        self._first = 0
        self._bytes = 0
        self._bytes_max = bytes_max
        self._waiting: set[asyncio.Future[None]] = set()
        self.floor = revision
        self.revision = revision

    def append(self, events: Iterable[WatchEvent]) -> None:
        """Publish the events of one transaction and wake every watch."""
        for event in events:
            self._events.append(event)
            if len(self._events) > FRESH:
                _settle(self._events[-FRESH - 1])
            self._revisions.append(event.revision)
            self._bytes += _size(event)
            self.revision = event.revision
        if self._bytes > self._bytes_max:
            self._shorten()
        waiting, self._waiting = self._waiting, set()
        for woken in waiting:
            if not woken.done():
                woken.set_result(None)

    def _shorten(self) -> None:
        dropped = 0
        while dropped < len(self._events) and self._bytes > self._bytes_max - self._bytes_max // DROPPED_SHARE:
            self._bytes -= _size(self._events[dropped])
            self.floor = self._revisions[dropped]
            dropped += 1
        del self._events[:dropped], self._revisions[:dropped]
        self._first += dropped

    def watch(self, kind: str | None, namespace: str | None, since: int | None) -> LogWatch:
        """A reader that starts after `since`. Raises: Expired."""
        start = self.revision if since is None else since
        if not self.floor <= start <= self.revision:
            raise Expired(start, self.floor)
        position = self._first + bisect_right(self._revisions, start)
        return LogWatch(self, kind, namespace, position, start)

    def at(self, position: int) -> WatchEvent | None:
        """The event at an absolute position; None at the end. Raises: Expired."""
        if position < self._first:
            raise Expired(self.floor, self.floor)
        index = position - self._first
        return self._events[index] if index < len(self._events) else None

    async def grown(self, waiting: asyncio.Future[None]) -> None:
        """Wait for more, or until `waiting` is resolved by somebody else."""
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)


class LogWatch:
    """A position in the log. One reader at a time."""

    def __init__(self, log: EventLog, kind: str | None, namespace: str | None, position: int, start: int) -> None:
        self._log = log
        self._kind = kind
        self._namespace = namespace
        self._position = position
        self._revision = start
        self._caught_up = False
        self._closed = False
        self._waiting: asyncio.Future[None] | None = None

    @property
    def revision(self) -> int:
        """Everything selected up to here has been given."""
        return self._revision

    def __aiter__(self) -> LogWatch:
        """Itself."""
        return self

    async def __anext__(self) -> WatchEvent:
        """The next event. Raises: Expired, StopAsyncIteration once closed."""
        while not self._closed:
            event = self._next_now()
            if event is not None:
                return event
            self._waiting = asyncio.get_running_loop().create_future()
            await self._log.grown(self._waiting)
        raise StopAsyncIteration

    def _next_now(self) -> WatchEvent | None:
        while (event := self._log.at(self._position)) is not None:
            self._position += 1
            self._revision = event.revision
            if self._selects(event):
                return event
        self._revision = self._log.revision
        if not self._caught_up:
            self._caught_up = True
            return WatchEvent(EventType.BOOKMARK, self._revision, None)
        return None

    def _selects(self, event: WatchEvent) -> bool:
        if event.stored is None:
            return False
        key = event.stored.key
        return self._kind in (None, key.kind) and self._namespace in (None, key.namespace)

    async def aclose(self) -> None:
        """End it; a waiting reader stops."""
        self._closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _settle(event: WatchEvent) -> None:
    """Nobody holds what was replaced or deleted but this log: its JSON suffices."""
    for stored in (event.before, event.stored if event.type is EventType.DELETED else None):
        if stored is not None:
            stored.forget_decoded()


def _size(event: WatchEvent) -> int:
    # The object before is what the event before it holds, and so is counted once.
    return OVERHEAD_BYTES + (len(event.stored.raw) if event.stored else 0)
