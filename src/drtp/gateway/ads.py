"""Delta ADS: drives a `DeltaStream` for each Envoy that connects. Says nothing before the first `serve`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from drtp.gateway.delta import DeltaStream
from drtp.gateway.ledger import Ledger
from drtp.gateway.protos import DiscoveryRequest, DiscoveryResponse
from drtp.gateway.resources import Kind, Resource, Resources
from drtp.kit.clock import Clock
from drtp.kit.observe import logger

_log = logger("gateway")

Write = Callable[[DiscoveryResponse], Awaitable[None]]


class DiscoveryService:
    """What Envoy shall hold, and the streams that tell it. An empty answer would delete every listener: none is given
    before the first `serve`.

    While one Envoy replaces another there are two. The newest one's word counts. The other goes on with the visitors it
    has, so it is told everything but listeners: a new one's port would be bound by the wrong Envoy.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._resources: Resources | None = None
        self._streams: dict[DeltaStream, asyncio.Event] = {}
        self._former_listeners: dict[DeltaStream, dict[str, Resource]] = {}

    @property
    def connected(self) -> bool:
        """An Envoy listens."""
        return bool(self._streams)

    def serve(self, resources: Resources) -> None:
        """This is what Envoy shall hold from now on."""
        self._resources = resources
        self._wake()

    def retry(self) -> None:
        """Offer again what Envoy refused."""
        newest = self._newest
        if newest is not None:
            newest.retry()
            self._wake()

    @property
    def _newest(self) -> DeltaStream | None:
        return next(reversed(self._streams), None)

    def _wake(self) -> None:
        for event in self._streams.values():
            event.set()

    async def stream(self, requests: AsyncIterator[DiscoveryRequest], write: Write) -> None:
        """Serve one Envoy until it goes."""
        stream, wake = DeltaStream(), asyncio.Event()
        before = self._newest
        if before is not None and self._resources is not None:
            self._former_listeners[before] = self._resources[Kind.LISTENER]
        self._streams[stream] = wake
        self._ledger.restart()
        _log.info("envoy subscribed")
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(self._send(stream, wake, write))
                async for request in requests:
                    if request.error is not None:
                        _log.warning(
                            "envoy refused", kind=request.type_url.rpartition(".")[2], error=request.error[:500]
                        )
                    verdicts = stream.receive(request)
                    if stream is self._newest:
                        self._ledger.record(verdicts)
                    wake.set()
                sender.cancel()
        finally:
            self._forget(stream)
            _log.info("envoy unsubscribed")

    def _forget(self, stream: DeltaStream) -> None:
        was_newest = stream is self._newest
        del self._streams[stream]
        self._former_listeners.pop(stream, None)
        newest = self._newest
        if was_newest and newest is not None:
            # The one that was to replace it has gone: this one counts again, and has its listeners to itself.
            self._former_listeners.pop(newest, None)
            newest.retry()
            self._ledger.restart()
            self._ledger.record(newest.verdicts())
            self._wake()

    def _for(self, stream: DeltaStream) -> Resources | None:
        resources, listeners = self._resources, self._former_listeners.get(stream)
        return resources if resources is None or listeners is None else {**resources, Kind.LISTENER: listeners}

    async def _send(self, stream: DeltaStream, wake: asyncio.Event, write: Write) -> None:
        while True:
            wake.clear()
            wait_s: float | None = None
            while (resources := self._for(stream)) is not None:
                response = stream.next(resources, self._clock.monotonic())
                if response is None:
                    wait_s = stream.waits_s(resources, self._clock.monotonic())
                    break
                await write(response)
            try:
                async with asyncio.timeout(wait_s):
                    await wake.wait()
            except TimeoutError:
                continue
