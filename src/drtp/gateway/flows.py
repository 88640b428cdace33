"""Visitors as Envoy tells of them: counted per service, written to a bounded log, offered live to whoever watches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path

import msgspec

from drtp.api.visiting import SIGNED_IN_PATH
from drtp.gateway.protos import LogDecoder, LogEntry
from drtp.kit.observe import logger, printable

_log = logger("gateway")

WATCHER_ENTRIES_MAX = 1000
OPEN_FLOWS_MAX = 200_000


class ServiceCounts(msgspec.Struct):
    """Of one service since this host started; `active` counts TCP visitors now."""

    visitors: int = 0
    refused: int = 0
    active: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class RotatingLog:
    """JSON lines in one file; at `bytes_max` it becomes `.1`, and so on; the oldest of `kept` goes."""

    def __init__(self, path: Path, bytes_max: int, kept: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._kept = kept

    def write(self, entries: list[LogEntry]) -> None:
        """Append; control characters in what strangers sent are escaped."""
        lines = b"".join(msgspec.json.encode(_escaped(entry)) + b"\n" for entry in entries)
        if self.size() + len(lines) > self._bytes_max:
            self.rotate()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(lines)

    def size(self) -> int:
        """Bytes in the present file."""
        return self._path.stat().st_size if self._path.exists() else 0

    def rotate(self) -> None:
        """Move each file one on."""
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)


def _escaped(entry: LogEntry) -> LogEntry:
    # What a browser brings back from the sign-in is as good as a password for an hour.
    path = SIGNED_IN_PATH if entry.path.startswith(SIGNED_IN_PATH) else printable(entry.path)
    return msgspec.structs.replace(
        entry, server_name=printable(entry.server_name), host=printable(entry.host), path=path,
        method=printable(entry.method), details=printable(entry.details),
    )  # fmt: skip


class FlowBook:
    """Takes entries from Envoy's streams; one event loop."""

    def __init__(self, log: RotatingLog) -> None:
        self._log = log
        self._services: Mapping[str, str] = {}
        self._open: dict[str, str] = {}
        self._watchers: set[asyncio.Queue[LogEntry]] = set()
        self.counts: dict[str, ServiceCounts] = {}
        """By service uid."""
        self.refused_at_accept = 0

    def name_services(self, services: Mapping[str, str]) -> None:
        """Which service each cluster is of. Services that are gone are forgotten."""
        self._services = services
        known = set(services.values())
        self.counts = {uid: counts for uid, counts in self.counts.items() if uid in known}

    def envoy_gone(self) -> None:
        """Its visitors are gone with it."""
        self._open.clear()
        for counts in self.counts.values():
            counts.active = 0

    def take(self, entries: list[LogEntry]) -> None:
        """Count, write and offer."""
        for entry in entries:
            self._count(entry)
            for watcher in self._watchers:
                if watcher.full():
                    watcher.get_nowait()
                watcher.put_nowait(entry)
        try:
            self._log.write(entries)
        except OSError as error:
            _log.error("access log not written", error=str(error))

    async def watch(self) -> AsyncGenerator[LogEntry]:
        """Entries from now on. Who reads too slowly loses the oldest."""
        queue: asyncio.Queue[LogEntry] = asyncio.Queue(WATCHER_ENTRIES_MAX)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def _count(self, entry: LogEntry) -> None:
        if entry.event == "end":
            self._forget(entry.stream)  # whether its service is there still or not
        service = self._services.get(entry.cluster)
        if service is None:
            self.refused_at_accept += "no_route_found" in entry.flags
            return
        counts = self.counts.setdefault(service, ServiceCounts())
        if entry.event == "connected" and len(self._open) < OPEN_FLOWS_MAX:
            self._open[entry.stream] = service
            counts.active += 1
        elif entry.event == "end":
            counts.visitors += 1
            counts.received_bytes += entry.received_bytes
            counts.sent_bytes += entry.sent_bytes
            counts.refused += bool({"unauthorized_details", "no_healthy_upstream"} & set(entry.flags))

    async def stream(self, requests: AsyncIterator[bytes]) -> None:
        """Take one stream of Envoy's until it ends."""
        decoder = LogDecoder()
        told: dict[str, None] = {}
        try:
            async for data in requests:
                entries = decoder.read(data)
                self.take(entries)
                for entry in entries:
                    if entry.event == "connected":
                        told[entry.stream] = None
                    elif entry.event == "end":
                        told.pop(entry.stream, None)
        finally:
            # An Envoy that ends says nothing of those whom it cuts.
            for visitor in told:
                self._forget(visitor)

    def _forget(self, visitor: str) -> None:
        service = self._open.pop(visitor, None)
        if service is not None and service in self.counts:
            self.counts[service].active -= 1
