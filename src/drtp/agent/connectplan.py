"""The ConnectPlan as this connector reads it, and what the core is given: POPs to dial, and ports with their ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from drtp.agent.connectview import PortView
from drtp.agent.view import PopView
from drtp.api.drtp import ClientStatus
from drtp.api.snapshots import DenyEntry, PlanConnect, PlanServer, Snapshot
from drtp.tunnel import ConnectionStats, Stats

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Who may connect to a local port where nothing else is said: this machine."""

_REASONS = {
    "NotAllowed": ("DRTP-4060", "There is no service {service} that this user may connect to."),
    "AgentAway": ("DRTP-4061", "No agent serves {service} now."),
    "UdpNotSealed": ("DRTP-4064", "{service} is a UDP service, which connect does not carry."),
    "Disabled": ("DRTP-4067", "{service} is disabled by its owner."),
}


@dataclass(frozen=True, slots=True)
class Port:
    """One service to present, `<namespace>/<name>`, at an address and port (0: a free one), or at a path.

    `allow`: who may connect to a TCP port, CIDRs.
    """

    service: str
    address: str = "127.0.0.1"
    port: int = 0
    path: Path | None = None
    allow: tuple[str, ...] = LOOPBACK

    @property
    def key(self) -> str:
        """Of its entry in the core: one for each place, for a service may have several."""
        return f"port/{self.service}/{self.path or f'{self.address}/{self.port}'}"

    @property
    def written(self) -> str:
        """The place that was asked for."""
        return str(self.path) if self.path else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ConnectPlan:
    """`documents`: entries for the core, by key. `told`: the control plane's word on each service, by its name."""

    servers: tuple[PlanServer, ...] = ()
    told: Mapping[str, PlanConnect] = field(default_factory=dict[str, PlanConnect])
    documents: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


def read_connect_plan(snapshot: Snapshot | None, ports: Sequence[Port]) -> ConnectPlan:
    """What the core is to hold. Without a snapshot the ports are there already, and lead nowhere yet."""
    entries = snapshot.entries if snapshot else {}
    servers = tuple(sorted((one for one in entries.values() if isinstance(one, PlanServer)), key=lambda one: one.name))
    told = {f"{one.namespace}/{one.name}": one for one in entries.values() if isinstance(one, PlanConnect)}
    core = (PlanServer, DenyEntry)
    documents: dict[str, dict[str, Any]] = {
        key: msgspec.to_builtins(one) for key, one in entries.items() if isinstance(one, core)
    }
    for port in ports:
        bind = {"path": str(port.path)} if port.path else {"address": port.address, "port": port.port}
        plan = told.get(port.service)
        ways = [
            {"connection": way.connection, "agent": way.agent, "server": server}
            for way in (plan.ways if plan else ())
            for server in way.servers
        ]
        entry = {"type": "port", "service": port.service, "bind": bind, "allow": list(port.allow), "ways": ways}
        documents[port.key] = entry
    return ConnectPlan(servers, told, documents)


def port_views(
    ports: Sequence[Port], plan: ConnectPlan, stats: Stats, pops: Sequence[PopView], bound: Mapping[str, str]
) -> tuple[PortView, ...]:
    """One for each port, in the order they were asked for. `bound`: where each listens, by key."""
    counts = {one.connection: one for one in stats.connections}
    return tuple(_port_view(port, plan.told.get(port.service), counts.get(port.key), pops, bound) for port in ports)


def _port_view(
    port: Port,
    told: PlanConnect | None,
    counts: ConnectionStats | None,
    pops: Sequence[PopView],
    bound: Mapping[str, str],
) -> PortView:
    served = {server for way in told.ways for server in way.servers if server not in way.away} if told else set[str]()
    up = tuple(pop.server_name for pop in pops if pop.server in served and pop.state is ClientStatus.CONNECTED)
    counts = counts or ConnectionStats(connection=port.key, service=port.service)
    away = told is not None and bool(told.ways) and not served
    code, message = _obstacle(port.service, told, up, away=away)
    return PortView(
        service=port.service,
        local=bound.get(port.key, ""),
        ready=not code and port.key in bound,
        reason=_reason(told, away=away) if code else "",
        code=code,
        message=message,
        pops=up,
        streams=counts.streams,
        streams_total=counts.streams_total,
        denied_total=counts.denied_total,
        bytes_in=counts.bytes_in,
        bytes_out=counts.bytes_out,
    )


def _reason(told: PlanConnect | None, *, away: bool) -> str:
    if told is None:
        return "Waiting"
    return told.reason or ("AgentAway" if away else "NotConnected")


def _obstacle(service: str, told: PlanConnect | None, up: tuple[str, ...], *, away: bool) -> tuple[str, str]:
    """Code and words; "" where nothing is in the way. `away`: it has agents, and none of them has a session."""
    if told is None:
        return "DRTP-4066", f"The control plane has not said yet how {service} is reached."
    if told.reason or away:
        reason = _reason(told, away=away)
        code, words = _REASONS.get(reason, ("DRTP-4061", "{service} cannot be reached: " + reason + "."))
        return code, words.format(service=service)
    if not up:
        return "DRTP-4066", f"No tunnel server of {service} is connected yet."
    return "", ""
