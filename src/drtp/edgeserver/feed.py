"""One edge's feed, server side: its own snapshot down, its reports up; the newest state only, never a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import aiohttp
import msgspec
from aiohttp import web

from drtp.api import skew
from drtp.api.feed import (
    HEARTBEAT_INTERVAL_S,
    Applied,
    EdgeRole,
    FromEdge,
    Goodbye,
    Heartbeat,
    Hello,
    Renew,
    RenewRefused,
    ReportDelta,
    SnapshotDelta,
    ToEdge,
    Trust,
    Trusting,
    digest,
)
from drtp.api.reports import (
    ExposureReport,
    GatewayReport,
    PeerPaths,
    PopReport,
    Report,
    RoundTrips,
    RouteReport,
    ServiceReport,
    TunnelReport,
)
from drtp.api.snapshots import Generation, Snapshot
from drtp.edgeserver.identities import Identities
from drtp.edgeserver.lag import BYTES, Lag
from drtp.issuers.authority import Offer
from drtp.issuers.requests import proven_key
from drtp.kit.buckets import Buckets
from drtp.kit.clock import Clock
from drtp.kit.errors import DrtpError, Refused
from drtp.kit.latest import Latest
from drtp.kit.observe import logger
from drtp.store.observed import EdgeRef, Observed

log = logger("edgeserver")

SILENCE_MAX_S = 3 * HEARTBEAT_INTERVAL_S
SEND_TIMEOUT_S = 10.0
"""An edge that reads nothing for so long is gone; its newest snapshot waits for it at the next connection."""

REPORTS_MAX: dict[EdgeRole, int] = {
    EdgeRole.AGENT: 2_000,
    EdgeRole.POP: 100_000,
    EdgeRole.GATEWAY: 200_000,
    EdgeRole.CONNECTOR: 0,
}
MESSAGE_BYTES_MAX: dict[EdgeRole, int] = {
    EdgeRole.AGENT: 1 << 20,
    EdgeRole.POP: 32 << 20,
    EdgeRole.GATEWAY: 32 << 20,
    EdgeRole.CONNECTOR: 1 << 20,
}
"""A whole report set fits, and what a stranger with one certificate can make us hold is bounded."""

_MAY_SAY: dict[EdgeRole, tuple[type[Report], ...]] = {
    EdgeRole.AGENT: (ServiceReport, TunnelReport, RoundTrips),
    EdgeRole.POP: (RouteReport, PopReport, PeerPaths),
    EdgeRole.GATEWAY: (ExposureReport, GatewayReport),
    EdgeRole.CONNECTOR: (),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other end: read from the verified leaf, never from a message."""

    edge: EdgeRef
    key_fingerprint: str
    not_after: datetime
    remote: str


def delta(generation: Generation, base: Snapshot | None, entries: Snapshot) -> SnapshotDelta:
    """What brings an edge that holds `base` (None: nothing) to `entries`."""
    if base is None:
        return SnapshotDelta(generation=generation, upsert=entries.entries)
    old, new = base.entries, entries.entries
    # Unchanged entries are the same objects, so that this costs a pointer comparison each.
    upsert = {key: entry for key, entry in new.items() if (known := old.get(key)) is not entry and known != entry}
    return SnapshotDelta(
        generation=generation, base=base.generation, upsert=upsert, remove=tuple(old.keys() - new.keys())
    )


class FeedSession:
    """One WebSocket after its Hello was accepted."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        peer: Peer,
        snapshots: Latest[Snapshot],
        *,
        observed: Observed,
        identities: Identities,
        renewals: Buckets,
        offers: Latest[Offer],
        renew_within: Callable[[], float],
        clock: Clock,
    ) -> None:
        """`offers`: the roots to trust; `renew_within`: seconds over which all edges renew, when all have to."""
        self.peer = peer
        self.sent: Snapshot | None = None
        """What the edge holds now, for the next connection's delta."""
        self._socket = socket
        self._snapshots = snapshots
        self._observed = observed
        self._identities = identities
        self._renewals = renewals
        self._offers = offers
        self._renew_within = renew_within
        self._trusting = ""
        self._clock = clock
        self._ended: Latest[Goodbye] = Latest()
        self._keys: set[str] = set()
        self._lag = Lag(peer.edge.role, clock)

    def end(self, goodbye: Goodbye) -> None:
        """Close in order, from outside: replaced, revoked, or the server stops."""
        if self._ended.value is None:
            self._ended.set(goodbye)

    @property
    def ended(self) -> bool:
        """Whether this session counts no more: a newer one does."""
        return self._ended.value is not None

    async def run(self, hello: Hello, before: Snapshot | None) -> None:
        """Talk until either side ends it. `before`: what was sent to this edge last."""
        try:
            await self._talk(hello, before)
        finally:
            self._lag.over()

    async def _talk(self, hello: Hello, before: Snapshot | None) -> None:
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(self._push(hello, before))
            beating = group.create_task(self._beat())
            reading = group.create_task(self._read())
            ending = group.create_task(self._part())
            offering = group.create_task(self._offer(hello))
            tasks = {beating, reading, ending, pushing, offering}
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks - done:
                task.cancel()

    async def _part(self) -> None:
        goodbye = await self._ended.first()
        await self._send(goodbye)
        await self._socket.close()

    async def _push(self, hello: Hello, before: Snapshot | None) -> None:
        version, snapshot = await self._snapshots.newer(0)
        held = _held(hello, before, snapshot)
        behind = held is None or held.generation < snapshot.generation
        if behind and not await self._send(delta(snapshot.generation, held, snapshot)):
            return
        self.sent = snapshot
        while True:
            version, newest = await self._snapshots.newer(version)
            if not await self._send(delta(newest.generation, self.sent, newest)):
                return
            self.sent = newest

    async def _offer(self, hello: Hello) -> None:
        """Tell the edge the roots, and to renew, whenever it lacks what counts now. Never returns by itself."""
        self._trusting = hello.bundle
        async for offer in self._offers:
            renew = await self._identities.is_outdated(self.peer.edge.uid)
            if renew or self._trusting != offer.digest:
                within_s = self._renew_within() if renew else None
                await self._send(Trust(bundle_pem=offer.bundle_pem.decode(), renew_within_s=within_s))

    async def _beat(self) -> None:
        while await self._send(Heartbeat()):
            if self._clock.now() >= self.peer.not_after:
                self.end(Goodbye(code="DRTP-2009", message="The certificate has expired.", retry_within_s=1.0))
                await self._clock.sleep(SEND_TIMEOUT_S)
                return
            await self._clock.sleep(HEARTBEAT_INTERVAL_S)

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_MAX_S):
                    frame = await self._socket.receive()
            except TimeoutError:
                log.info("feed silent", uid=self.peer.edge.uid)
                return
            if frame.type is not aiohttp.WSMsgType.TEXT:
                return
            try:
                BYTES.labels(self.peer.edge.role.value, "up").inc(len(frame.data))
                message, unreadable = skew.from_edge(frame.data)
                if unreadable:
                    first = next(iter(unreadable.items()))
                    log.info(
                        "reports unreadable", uid=self.peer.edge.uid, count=len(unreadable), first=": ".join(first)
                    )
                if message is not None:
                    await self._take(message)
            except (msgspec.DecodeError, Refused) as error:
                reason = error.what if isinstance(error, Refused) else str(error)
                log.warning("feed ended for a bad message", uid=self.peer.edge.uid, reason=reason)
                self.end(Goodbye(code="DRTP-3004", message=reason, retry_within_s=60.0))
                await self._clock.sleep(SEND_TIMEOUT_S)
                return

    async def _take(self, message: FromEdge) -> None:
        if self.ended:
            return
        uid, now = self.peer.edge.uid, self._clock.now()
        match message:
            case ReportDelta():
                self._check(message)
                self._observed.take_report(uid, message, now)
            case Applied():
                self._lag.applied(message.generation)
                self._observed.take_applied(uid, message, now)
            case Heartbeat():
                self._observed.heartbeat(uid, now)
            case Renew():
                await self._renew(message)
            case Trusting():
                self._trusting = message.bundle[:64]
                await self._identities.trusts(uid, self._trusting)
            case Hello():
                raise Refused("DRTP-3004", "A second hello.")

    def _check(self, report: ReportDelta) -> None:
        """An edge speaks of its own kind of things, and not without bound (GHSA-7868-235p-7497)."""
        allowed = _MAY_SAY[self.peer.edge.role]
        for key, said in report.upsert.items():
            if not isinstance(said, allowed):
                raise Refused("DRTP-3004", f"This role does not report {type(said).__name__}.")
            if isinstance(said, RouteReport | ServiceReport) and key.rpartition("/")[2] != said.connection:
                raise Refused("DRTP-3004", "A report under another object's key.")
        self._keys = (set() if report.whole else self._keys - set(report.remove)) | report.upsert.keys()
        if len(self._keys) > REPORTS_MAX[self.peer.edge.role]:
            raise Refused("DRTP-3004", "More reports than an edge can have.")

    async def _renew(self, message: Renew) -> None:
        uid = self.peer.edge.uid
        # What we have asked for ourselves is not held against the edge.
        if not await self._identities.is_outdated(uid) and not self._renewals.take(uid):
            await self._send(RenewRefused(code="DRTP-2018", message="Renewed a moment ago.", terminal=False))
            return
        try:
            key = proven_key(message.csr_pem)
            presented, remote = self.peer.key_fingerprint, self.peer.remote
            await self._send(await self._identities.renew(uid, presented, key, message.generation, remote=remote))
        except Refused as error:
            terminal = error.code in ("DRTP-2006", "DRTP-2007", "DRTP-2008")
            await self._send(RenewRefused(code=error.code, message=error.what, terminal=terminal))
        except DrtpError as error:
            await self._send(RenewRefused(code=error.code, message=error.what, terminal=False))

    async def _send(self, message: ToEdge) -> bool:
        data = msgspec.json.encode(message)
        if isinstance(message, SnapshotDelta):
            self._lag.sent(message.generation)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send_str(data.decode())
        except (ConnectionError, TimeoutError, RuntimeError):
            return False  # aiohttp raises RuntimeError for a socket that is closing.
        BYTES.labels(self.peer.edge.role.value, "down").inc(len(data))
        return True


def _held(hello: Hello, before: Snapshot | None, now: Snapshot) -> Snapshot | None:
    """The state the edge holds, if it is one that we can tell the difference to."""
    if hello.holds is None:
        return None
    if before is not None and before.generation == hello.holds and digest(before.entries) == hello.digest:
        return before
    if digest(now.entries) == hello.digest:
        return Snapshot(generation=hello.holds, entries=now.entries)
    return None
