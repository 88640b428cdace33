"""UDP at the gateway: Envoy cannot carry a visitor's address, so the host has the native core listen itself.

The table's UDP exposures become listeners of the core, its POPs the servers that the core keeps sessions with. A
gateway without UDP exposures starts no core and dials nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import msgspec

from drtp.api.drtp import Protocol
from drtp.api.reports import ExposureReport, ExposureState
from drtp.api.snapshots import Backend, Entry, GatewayListener, ListenerProtocol, ProbeTarget, UdpExposure
from drtp.client.epoch import next_epoch
from drtp.gateway.flows import FlowBook
from drtp.gateway.ledger import MESSAGE_MAX, entry_sources
from drtp.gateway.program import Credentials
from drtp.gateway.protos import LogEntry
from drtp.kit.clock import Clock
from drtp.kit.errors import DrtpError
from drtp.kit.latest import Latest
from drtp.kit.observe import logger
from drtp.kit.secret import Secret
from drtp.rules import entrykeys
from drtp.tunnel import (
    Event,
    Fenced,
    FlowEnded,
    FlowRecord,
    GatewayConfig,
    Liveness,
    LocalDown,
    LocalUp,
    Refused,
    RouteBound,
    RouteFailed,
    SessionDown,
    SessionUp,
    TunnelDown,
    TunnelGateway,
    TunnelIdentity,
    TunnelUp,
    delta_between,
)

_log = logger("gateway")

QUICK = Liveness(ping_ms=800, dead_ms=2_500, idle_ping_ms=800, idle_dead_ms=2_500)
"""As POPs have towards agents: the next datagram must go elsewhere within 2.5 s."""
RETRY_S = 5.0
"""A core that could not be started may be had later."""

Json = dict[str, Any]
UdpEntry = UdpExposure | Backend | GatewayListener
Entries = Mapping[str, Entry]


def is_udp(entry: Entry) -> bool:
    """An entry that Envoy has no part in."""
    match entry:
        case UdpExposure() | Backend(protocol=Protocol.UDP) | GatewayListener(protocol=ListenerProtocol.UDP):
            return True
        case _:
            return False


class _Aim(msgspec.Struct, frozen=True):
    """What shall be, of one table: the core's documents, and the table's UDP entries that they were made of."""

    documents: dict[str, Json]
    entries: dict[str, UdpEntry]


def aim_of(entries: Entries) -> _Aim:
    """The table as the core reads it. Pure. No exposure: nothing at all, so that nobody is dialled for nothing."""
    kept: dict[str, UdpEntry] = {
        key: one
        for key, one in entries.items()
        if isinstance(one, UdpExposure | Backend | GatewayListener) and is_udp(one)
    }
    backends = {one.service: one for one in kept.values() if isinstance(one, Backend)}
    exposures = {key: one for key, one in kept.items() if isinstance(one, UdpExposure)}
    documents = {key: _listener(one, backends) for key, one in exposures.items()}
    if exposures:
        targets = (one for one in entries.values() if isinstance(one, ProbeTarget) and one.tunnel_port)
        documents |= {entrykeys.server(one.server): _server(one) for one in targets}
    return _Aim(documents, kept)


def _listener(exposure: UdpExposure, backends: Mapping[str, Backend]) -> Json:
    shares = [
        {
            "namespace": found.namespace,
            "name": found.name,
            "weight": share.weight,
            "endpoints": [
                {"connection": one.connection, "server": one.server, "priority": one.priority}
                for one in found.endpoints
            ],
        }
        for share in exposure.backends
        if (found := backends.get(share.service)) is not None
    ]
    return {
        "type": "listener",
        "address": exposure.address,
        "port": exposure.port,
        "access": msgspec.to_builtins(exposure.access),
        "enabled": exposure.enabled,
        "backends": shares,
    }


def _server(target: ProbeTarget) -> Json:
    return {
        "type": "server",
        "server": target.server,
        "name": target.name,
        "address": target.address,
        "port": target.tunnel_port,
    }


class UdpHost:
    """One core, once there is something for it to do. `changed` counts up with each thing that `conclude` may tell."""

    def __init__(self, epoch: Path, flows: FlowBook, clock: Clock) -> None:
        self._epoch = epoch
        self._flows = flows
        self._clock = clock
        self._credentials: Credentials | None = None
        self._shown: Credentials | None = None
        self._aim = _Aim({}, {})
        self._due: Latest[int] = Latest(0)
        self._core: TunnelGateway | None = None
        self._applied: dict[str, Json] | None = None
        self._faults: dict[str, str] = {}
        self._broken = ""
        """Why the core could not be brought to the table at all; it concerns every entry."""
        self._sessions: set[str] = set()
        self._served: set[str] = set()
        """Entries that a session stood behind once: a later loss of it changes no conclusion."""
        self._services: dict[str, str] = {}
        self.changed: Latest[int] = Latest(0)

    # ---- what shall be ---------------------------------------------------------------------------------------------

    def aim(self, entries: Entries) -> dict[str, str]:
        """Make this table what the core holds. Gives what flows are counted by: name in the log -> service uid."""
        aim = aim_of(entries)
        if aim != self._aim:
            self._aim = aim
            backends = [one for one in aim.entries.values() if isinstance(one, Backend)]
            self._services = {end.connection: one.service for one in backends for end in one.endpoints}
            self._served &= aim.entries.keys()
            self._again()
        return {_cluster(one.service): one.service for one in aim.entries.values() if isinstance(one, Backend)}

    def use(self, credentials: Credentials) -> None:
        """Show these to POPs."""
        self._credentials = credentials
        self._again()

    def _again(self) -> None:
        self._due.set((self._due.value or 0) + 1)

    # ---- what is ---------------------------------------------------------------------------------------------------

    def settled(self) -> bool:
        """The core holds this very table, or cannot: UDP never holds up the others."""
        return not self._aim.documents or bool(self._broken) or self._applied == self._aim.documents

    def conclude(self) -> dict[str, ExposureReport]:
        """Reports of the UDP entries that have their verdict now."""
        if not self.settled():
            return {}
        reports: dict[str, ExposureReport] = {}
        for key, entry in self._aim.entries.items():
            sources = entry_sources(entry)
            fault = self._fault(key, entry)
            if fault:
                reports[key] = ExposureReport(state=ExposureState.FAILED, message=fault[:MESSAGE_MAX], sources=sources)
            elif key in self._served or self._is_served(entry):
                self._served.add(key)
                reports[key] = ExposureReport(state=ExposureState.PROGRAMMED, sources=sources)
        return reports

    def _fault(self, key: str, entry: UdpEntry) -> str:
        """What is wrong with an entry, or "". A listener fails with the socket that its exposure asks for."""
        if isinstance(entry, GatewayListener):
            key = entrykeys.udp(entry.address, entry.port)
        return self._broken if self._aim.documents and self._broken else self._faults.get(key, "")

    def _is_served(self, entry: UdpEntry) -> bool:
        """A visitor who came now would be served, or nobody is there to serve anyway."""
        if isinstance(entry, GatewayListener):
            return True
        if isinstance(entry, UdpExposure):
            shares = {share.service for share in entry.backends}
            behind = [one for one in self._aim.entries.values() if isinstance(one, Backend) and one.service in shares]
        else:
            behind = [entry]
        servers = {end.server for one in behind for end in one.endpoints}
        return not self._aim.documents or not servers or bool(servers & self._sessions)

    async def flows(self) -> int:
        """Visitors that have a flow now, as the core counts them."""
        if self._core is None:
            return 0
        return (await self._core.stats()).streams

    # ---- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: bring the core to what it shall hold, and hear what it says."""
        async with asyncio.TaskGroup() as group:
            async for _change in self._due:
                if self._core is None and not await self._start(group):
                    continue
                await self._bring()

    async def _start(self, group: asyncio.TaskGroup) -> bool:
        if not self._aim.documents or self._credentials is None:
            self._tell()
            return False
        try:
            config = GatewayConfig(epoch=next_epoch(self._epoch, self._clock), liveness=QUICK)
            self._core = TunnelGateway(config, _identity(self._credentials))
        except (DrtpError, OSError) as error:
            self._fail("UDP core not started", str(error))
            group.create_task(self._start_later())
            return False
        self._shown = self._credentials
        group.create_task(self._listen(self._core))
        return True

    async def _start_later(self) -> None:
        await self._clock.sleep(RETRY_S)
        self._again()

    async def _bring(self) -> None:
        core, aim, credentials = self._core, self._aim, self._credentials
        assert core is not None
        try:
            if credentials is not None and credentials != self._shown:
                await core.rotate(_identity(credentials))
                self._shown = credentials
            outcome = await core.apply(delta_between(self._applied, aim.documents))
        except DrtpError as error:
            self._fail("UDP table not taken", error.what)
            return
        self._broken = ""
        for key, entry in outcome.entries.items():
            self._faults.pop(key, None)
            if not entry.ok or entry.error:
                self._faults[key] = entry.error or "not taken"
        self._faults = {key: fault for key, fault in self._faults.items() if key in aim.documents}
        self._applied = aim.documents
        self._tell()

    def _fail(self, event: str, reason: str) -> None:
        _log.error(event, reason=reason)
        self._broken = reason
        self._tell()

    def _tell(self) -> None:
        self.changed.set((self.changed.value or 0) + 1)

    async def _listen(self, core: TunnelGateway) -> None:
        async for batch in core.events():
            ended = [event.flow for event in batch if isinstance(event, FlowEnded)]
            if ended:
                self._flows.take([self._entry(flow) for flow in ended])
            news = [self._note(event) for event in batch]
            if any(news):
                self._tell()

    def _note(self, event: Event) -> bool:
        """Whether a conclusion may follow from it."""
        match event:
            case TunnelUp(server=server):
                self._sessions.add(server)
                return True
            case TunnelDown(server=server, message=message):
                self._sessions.discard(server)
                _log.warning("no session with POP", server=server, reason=message)
            case RouteBound(key=key):
                self._faults.pop(key, None)
                return True
            case RouteFailed(key=key, message=message):
                self._faults[key] = message
                return True
            case Fenced(server=server, message=message):
                _log.error("UDP fenced: another instance of this gateway serves", server=server, reason=message)
            case Refused(subject=subject, reason=reason):
                _log.warning("POP refused this gateway", server=subject, reason=reason)
            case FlowEnded() | SessionUp() | SessionDown() | LocalUp() | LocalDown():
                pass
            case _:
                assert_never(event)
        return False

    def _entry(self, flow: FlowRecord) -> LogEntry:
        visitor, _, port = flow.visitor.rpartition(":")
        return LogEntry(
            at=(flow.ended_unix_ms - flow.duration_ms) / 1000,
            listener=flow.listener,
            event="end",
            stream=flow.stream_id,
            visitor=visitor.strip("[]"),
            visitor_port=int(port or 0),
            cluster=_cluster(self._services.get(flow.connection, "")),
            received_bytes=flow.bytes_in,
            sent_bytes=flow.bytes_out,
            received_datagrams=flow.datagrams_in,
            sent_datagrams=flow.datagrams_out,
            dropped_datagrams=flow.datagrams_dropped,
            duration_s=flow.duration_ms / 1000,
            details=flow.outcome,
        )

    async def close(self) -> None:
        """End the core; its flows end with it."""
        if self._core is not None:
            await self._core.close()


def _cluster(service: str) -> str:
    return f"udp/{service}"


def _identity(credentials: Credentials) -> TunnelIdentity:
    return TunnelIdentity(credentials.chain_pem, Secret(credentials.key_pem), credentials.bundle_pem)
