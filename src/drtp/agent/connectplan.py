"""The ConnectPlan as this connector reads it, and what the core is given: POPs to dial, and ports with their ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from drtp.agent.connectview import PortView
from drtp.agent.view import PopView
from drtp.api.drtp import ClientStatus, Protocol
from drtp.api.snapshots import DenyEntry, PlanConnect, PlanServer, Snapshot
from drtp.tunnel import ConnectionStats, Stats

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Who may connect to a local port where nothing else is said: this machine."""

_REASONS = {
    "NotAllowed": ("DRTP-4060", "There is no service {service} that this user may connect to."),
    "AgentAway": ("DRTP-4061", "No agent serves {service} now."),
    "UdpNotSealed": ("DRTP-4070", "{service} is a UDP service, which this control plane lets no connector carry yet."),
    "Disabled": ("DRTP-4067", "{service} is disabled by its owner."),
    "NoDatagrams": ("DRTP-4064", "{service} is a UDP service: no datagram comes by a path or by standard input."),
    "NoConnections": ("DRTP-4064", "{service} is no UDP service, and a UDP port was asked for."),
    "TooOld": ("DRTP-4070", "No tunnel server of {service} that is connected carries UDP to a connector yet."),
}


@dataclass(frozen=True, slots=True)
class Port:
    """One service to present, `<namespace>/<name>`, at an address and port (0: a free one), or at a path.

    `allow`: who may use an address, CIDRs. `datagrams`: a UDP port was asked for; else it is one when the service is
    known to be UDP, and a TCP port until then.
    """

    service: str
    address: str = "127.0.0.1"
    port: int = 0
    path: Path | None = None
    allow: tuple[str, ...] = LOOPBACK
    datagrams: bool = False

    @property
    def key(self) -> str:
        """Of its entry in the core: one for each place, for a service may have several."""
        place = self.path or f"{self.address}/{self.port}"
        return f"port/{self.service}/{place}/udp" if self.datagrams else f"port/{self.service}/{place}"

    @property
    def written(self) -> str:
        """The place that was asked for."""
        return str(self.path) if self.path else f"{'udp://' * self.datagrams}{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ConnectPlan:
    """`documents`: entries for the core, by key. `told`: the control plane's word on each service, by its name.

    `datagrams`: services that are UDP as far as was ever told; who may not connect is told nothing of that any more.
    """

    servers: tuple[PlanServer, ...] = ()
    told: Mapping[str, PlanConnect] = field(default_factory=dict[str, PlanConnect])
    documents: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    datagrams: frozenset[str] = frozenset()

    def protocol(self, port: Port) -> Protocol:
        """What comes to a port."""
        is_udp = port.datagrams or (port.service in self.datagrams and port.path is None)
        return Protocol.UDP if is_udp else Protocol.TCP

    def misfit(self, port: Port) -> str:
        """Why a port is none for its service; "" where it is, or where nothing is known of the service."""
        is_udp = port.service in self.datagrams
        if port.path is not None and is_udp:
            return "NoDatagrams"
        plan = self.told.get(port.service)
        return "NoConnections" if port.datagrams and plan is not None and plan.service and not is_udp else ""


def read_connect_plan(
    snapshot: Snapshot | None, ports: Sequence[Port], before: ConnectPlan | None = None
) -> ConnectPlan:
    """What the core is to hold. Without a snapshot the ports are there already, and lead nowhere yet.

    `before`: what it holds.
    """
    entries = snapshot.entries if snapshot else {}
    servers = tuple(sorted((one for one in entries.values() if isinstance(one, PlanServer)), key=lambda one: one.name))
    told = {f"{one.namespace}/{one.name}": one for one in entries.values() if isinstance(one, PlanConnect)}
    core = (PlanServer, DenyEntry)
    documents: dict[str, dict[str, Any]] = {
        key: msgspec.to_builtins(one) for key, one in entries.items() if isinstance(one, core)
    }
    plan = ConnectPlan(servers, told, documents, _datagrams(told, before or ConnectPlan()))
    for port in ports:
        bind = {"path": str(port.path)} if port.path else {"address": port.address, "port": port.port}
        reached = told.get(port.service) if not plan.misfit(port) else None
        documents[port.key] = {
            "type": "port",
            "service": port.service,
            "protocol": plan.protocol(port).value,
            "bind": bind,
            "allow": list(port.allow),
            "ways": [
                {"connection": way.connection, "agent": way.agent, "server": server}
                for way in (reached.ways if reached else ())
                for server in way.servers
            ],
        }
    return plan


def _datagrams(told: Mapping[str, PlanConnect], before: ConnectPlan) -> frozenset[str]:
    known = {name: one.protocol is Protocol.UDP for name, one in told.items() if one.service}
    return frozenset(name for name, udp in known.items() if udp) | (before.datagrams - known.keys())


def port_views(
    ports: Sequence[Port], plan: ConnectPlan, stats: Stats, pops: Sequence[PopView], bound: Mapping[str, str]
) -> tuple[PortView, ...]:
    """One for each port, in the order they were asked for. `bound`: where each listens, by key."""
    counts = {one.connection: one for one in stats.connections}
    met = [pop for pop in pops if pop.state is ClientStatus.CONNECTED]
    bearing = frozenset(one.peer for one in stats.sessions if one.carries_datagrams)
    return tuple(_port_view(port, plan, counts.get(port.key), _Met(met, bearing), bound) for port in ports)


class _Met(NamedTuple):
    """POPs that a session is with, and the uids of those that carry sealed datagrams."""

    pops: Sequence[PopView]
    bearing: frozenset[str]


def _port_view(
    port: Port,
    plan: ConnectPlan,
    counts: ConnectionStats | None,
    met: _Met,
    bound: Mapping[str, str],
) -> PortView:
    told, protocol = plan.told.get(port.service), plan.protocol(port)
    served = {server for way in told.ways for server in way.servers if server not in way.away} if told else set[str]()
    there = [pop for pop in met.pops if pop.server in served]
    up = tuple(pop.server_name for pop in there if protocol is not Protocol.UDP or pop.server in met.bearing)
    counts = counts or ConnectionStats(connection=port.key, service=port.service)
    reason = plan.misfit(port) or _reason(told, served, up, too_old=bool(there))
    code, message = _obstacle(port.service, reason)
    return PortView(
        service=port.service,
        local=bound.get(port.key, ""),
        protocol=protocol,
        ready=not code and port.key in bound,
        reason=reason,
        code=code,
        message=message,
        pops=up,
        streams=counts.streams,
        streams_total=counts.streams_total,
        denied_total=counts.denied_total,
        bytes_in=counts.bytes_in,
        bytes_out=counts.bytes_out,
        datagrams_in=counts.datagrams_in,
        datagrams_out=counts.datagrams_out,
        datagrams_dropped=counts.datagrams_dropped,
    )


def _reason(told: PlanConnect | None, served: set[str], up: tuple[str, ...], *, too_old: bool) -> str:
    """Why nothing can flow; "" where something can. `served`: POPs where an agent has a session, `up` ours too."""
    if told is None:
        return "Waiting"
    if told.reason:
        return told.reason
    if told.ways and not served:
        return "AgentAway"
    if up:
        return ""
    return "TooOld" if too_old else "NotConnected"


def _obstacle(service: str, reason: str) -> tuple[str, str]:
    """Code and words; "" where nothing is in the way."""
    match reason:
        case "":
            return "", ""
        case "Waiting":
            return "DRTP-4066", f"The control plane has not said yet how {service} is reached."
        case "NotConnected":
            return "DRTP-4066", f"No tunnel server of {service} is connected yet."
        case _:
            code, words = _REASONS.get(reason, ("DRTP-4061", "{service} cannot be reached: " + reason + "."))
            return code, words.format(service=service)
