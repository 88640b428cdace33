"""What the conditions say, in words an owner can act on.

Conclusions are drawn from the status kept so far and from what edges report now. Where nobody reports, the
conclusion is Unknown, and `conditions.merge` keeps what was concluded before: after a restart of the control plane
nothing turns NotReady until an edge says so or its lease has run out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from drtp.api.drtp import ClientStatus, DRTPService, ProgrammingStatus, ServerStatus
from drtp.api.reasons import Aspect, Reason
from drtp.api.reports import LocalState
from drtp.rules.access import unreadable_cidrs
from drtp.rules.conditions import TRUE, UNKNOWN, Conclusion, no, unknown, yes

LEASE = timedelta(seconds=15)
"""An edge is gone when it has not been heard of for this long; heartbeats come every 5 s."""

HOMECOMING = timedelta(seconds=10)
"""What edges get on top after a start of the control plane: a long absence has them dial at most every 20 s."""

# ---- servers -------------------------------------------------------------------------------------------------------


class ServerFacts(NamedTuple):
    """What is known of one tunnel server. `health` None: no report since this control plane started."""

    heard_at: datetime
    connected: bool
    health: int | None
    draining: bool
    unschedulable: bool
    denied: bool = False


def alive(heard_at: datetime, now: datetime) -> bool:
    """Whether an edge last heard of at `heard_at` still holds its lease."""
    return now - heard_at < LEASE


def server_ready(facts: ServerFacts, now: datetime) -> Conclusion:  # noqa: PLR0911 - one line each
    """DRTPServer `Ready`. What was revoked is out at once, whatever it says itself."""
    if facts.denied:
        return no(Aspect.READY, Reason.REVOKED, "The POP's identity was revoked; nobody is sent to it (DRTP-2006).")
    if not alive(facts.heard_at, now):
        silent = int((now - facts.heard_at).total_seconds())
        return no(Aspect.READY, Reason.LEASE_EXPIRED, f"Nothing heard from this server for {silent} s (DRTP-6001).")
    if facts.health is None:
        return unknown(Aspect.READY, Reason.REGISTERING, "The server has not reported yet.")
    if facts.draining:
        return no(Aspect.READY, Reason.DRAINING, "The server is stopping; its agents are moving away.")
    if facts.health < 50:
        return no(Aspect.READY, Reason.UNHEALTHY, f"The server reports health {facts.health} of 100 (DRTP-6001).")
    if facts.unschedulable:
        return yes(Aspect.READY, Reason.CORDONED, "The server serves what it has and takes nothing new.")
    return yes(Aspect.READY, Reason.READY, "The server takes agents.")


# ---- connections ---------------------------------------------------------------------------------------------------


class LocalFacts(NamedTuple):
    """The agent's view of its local service; `state` UNKNOWN where it has not reported."""

    agent: str
    target: str
    state: LocalState
    message: str


def connection_conclusions(
    servers: Sequence[ServerStatus], placed: int, wanted: int, local: LocalFacts, *, enabled: bool, shut_out: int = 0
) -> tuple[Conclusion, ...]:
    """Scheduled, Programmed, Connected, Ready of a DRTPConnection, from the status of its assigned servers.

    `placed`: how many of them are there to stay; the others are cordoned or dead and wait for a successor.
    `shut_out`: how many more there are that policies let carry nobody's bytes.
    """
    scheduled = _scheduled(servers, placed, wanted, shut_out)
    programmed = _programmed(servers)
    connected = _connected(servers, local)
    return (
        scheduled,
        programmed,
        connected,
        _connection_ready((scheduled, programmed, connected), servers, wanted, enabled=enabled),
    )


def _scheduled(servers: Sequence[ServerStatus], placed: int, wanted: int, shut_out: int) -> Conclusion:
    if not servers and shut_out:
        what = f"Policies shut out {shut_out} servers by their `through`, and no other takes connections (DRTP-6030)."
        return no(Aspect.SCHEDULED, Reason.NO_SERVER_ALLOWED, what)
    if not servers:
        return no(Aspect.SCHEDULED, Reason.NO_SERVERS, "No healthy tunnel server takes connections (DRTP-6002).")
    names = ", ".join(server.server_ref.name for server in servers)
    if placed < wanted:
        what = f"Only {placed} of {wanted} servers can be had in different failure domains: {names} (DRTP-6003)."
        if shut_out:
            what += f" Policies shut out {shut_out} by their `through`."
        return yes(Aspect.SCHEDULED, Reason.DEGRADED, what)
    return yes(Aspect.SCHEDULED, Reason.SCHEDULED, f"Assigned to {names}.")


def _programmed(servers: Sequence[ServerStatus]) -> Conclusion:
    done = [server for server in servers if server.programming_status is ProgrammingStatus.PROGRAMMED]
    failed = [server for server in servers if server.programming_status is ProgrammingStatus.FAILED]
    if failed and not done:
        first = failed[0]
        return no(
            Aspect.PROGRAMMED,
            Reason.ENDPOINT_FAILED,
            f"{first.server_ref.name} could not open an endpoint: {first.message or 'no reason given'} (DRTP-6004).",
        )
    if not done:
        return no(Aspect.PROGRAMMED, Reason.PROGRAMMING, "No tunnel server has opened an endpoint yet.")
    if len(done) < len(servers):
        return yes(
            Aspect.PROGRAMMED, Reason.PARTLY_PROGRAMMED, f"{len(done)} of {len(servers)} servers have an endpoint."
        )
    return yes(Aspect.PROGRAMMED, Reason.PROGRAMMED, "Every assigned server has an endpoint.")


def _connected(servers: Sequence[ServerStatus], local: LocalFacts) -> Conclusion:
    if local.state is LocalState.UNREACHABLE and local.message.startswith(_TARGET_REFUSED):
        code, _, why = local.message.partition(": ")
        return no(Aspect.CONNECTED, Reason.TARGET_REFUSED, f"The agent {local.agent} serves nobody: {why} ({code}).")
    # What an agent said last of its local service means nothing once it is gone.
    gone = bool(servers) and all(server.client_status is ClientStatus.DISCONNECTED for server in servers)
    if local.state is LocalState.UNREACHABLE and not gone:
        said = f'gets "{local.message}" from' if local.message else "cannot reach"
        what = f"The agent {local.agent} {said} {local.target} (DRTP-6005)."
        return no(Aspect.CONNECTED, Reason.LOCAL_SERVICE_UNREACHABLE, what)
    live = [server for server in servers if server.client_status is ClientStatus.CONNECTED]
    if not live and all(server.client_status in _NOT_YET for server in servers):
        return no(
            Aspect.CONNECTED, Reason.CONNECTING, f"The agent {local.agent} has not reached its servers yet (DRTP-6007)."
        )
    if not live:
        return no(
            Aspect.CONNECTED,
            Reason.AGENT_DISCONNECTED,
            f"The agent {local.agent} has no tunnel to any assigned server (DRTP-6007).",
        )
    names = ", ".join(server.server_ref.name for server in live)
    return yes(Aspect.CONNECTED, Reason.CONNECTED, f"The agent {local.agent} is connected to {names}.")


def _connection_ready(
    parts: Sequence[Conclusion], servers: Sequence[ServerStatus], wanted: int, *, enabled: bool
) -> Conclusion:
    for one in parts:
        if one.status is not TRUE:
            return one._replace(type=Aspect.READY)
    if not enabled:
        return no(Aspect.READY, Reason.DISABLED, "The service is disabled; enable it to admit visitors.")
    paths = sum(carries(server) for server in servers)
    if paths < wanted:
        return yes(Aspect.READY, Reason.DEGRADED, f"Visitors are served over {paths} of {wanted} tunnels (DRTP-6003).")
    return yes(Aspect.READY, Reason.READY, f"Visitors are served over {paths} tunnels.")


_TARGET_REFUSED = ("DRTP-4012: ", "DRTP-4017: ")
"""What an agent's message begins with that was started for another target than the service names, or for one that no
agent dials.
"""

LOCAL_FAULTS = frozenset({Reason.LOCAL_SERVICE_UNREACHABLE, Reason.TARGET_REFUSED})
"""Reasons of `Connected` that come from the agent's own side."""

_NOT_YET = frozenset({ClientStatus.WAITING, ClientStatus.CONNECTING})


def carries(server: ServerStatus) -> bool:
    """Whether a path through that server works: endpoint open, agent connected."""
    return server.programming_status is ProgrammingStatus.PROGRAMMED and server.client_status is ClientStatus.CONNECTED


# ---- services ------------------------------------------------------------------------------------------------------


class ExposureFacts(NamedTuple):
    """What gateways say of one public place. `state` True programmed with exactly this, False refused, None unsaid."""

    place: str
    state: bool | None
    message: str = ""


def service_accepted(service: DRTPService, refusals: Sequence[Conclusion] = ()) -> Conclusion:
    """DRTPService `Accepted`; `refusals` come from vending (a hostname or port that is somebody else's)."""
    spec = service.spec
    faults = unreadable_cidrs(spec.edge_allowlist or (), "spec.edgeAllowlist")
    if faults:
        what = f"{faults[0]}; nobody is admitted until it is mended (DRTP-6009)."
        return no(Aspect.ACCEPTED, Reason.UNREADABLE_ALLOWLIST, what)
    for refusal in refusals:
        return refusal._replace(type=Aspect.ACCEPTED)
    return yes(Aspect.ACCEPTED, Reason.ACCEPTED, "The definition is in force.")


def service_connected(connections: Sequence[tuple[str, Conclusion]]) -> Conclusion:
    """DRTPService `Connected` from its connections' (name, Connected) conclusions."""
    if not connections:
        return no(Aspect.CONNECTED, Reason.NO_AGENT, "No agent has registered; run `datumctl serve` (DRTP-6010).")
    live = [name for name, one in connections if one.status is TRUE]
    if live:
        return yes(Aspect.CONNECTED, Reason.CONNECTED, f"{len(live)} of {len(connections)} agents are connected.")
    for _, one in connections:
        if one.reason in LOCAL_FAULTS:
            return one
    return connections[0][1]


def service_exposed(service: DRTPService, places: Sequence[ExposureFacts], pending: Conclusion | None) -> Conclusion:
    """DRTPService `Exposed`. `pending`: why there is no place yet, where there is none."""
    if not service.spec.enabled:
        return no(Aspect.EXPOSED, Reason.DISABLED, "The service is disabled; its name and port stay reserved.")
    if pending is not None:
        return pending
    return _places_exposed(places)


def _places_exposed(places: Sequence[ExposureFacts]) -> Conclusion:
    if not places:
        return no(Aspect.EXPOSED, Reason.NOT_REQUESTED, "Neither spec.expose nor a route asks for a public address.")
    for place in places:
        if place.state is False:
            why = place.message or "no reason given"
            return no(
                Aspect.EXPOSED, Reason.GATEWAY_FAILED, f"The gateway could not serve {place.place}: {why} (DRTP-6011)."
            )
    if any(place.state is None for place in places):
        return unknown(Aspect.EXPOSED, Reason.PROGRAMMING, "The gateway has not confirmed the public address yet.")
    return yes(
        Aspect.EXPOSED, Reason.EXPOSED, f"Visitors are received at {', '.join(place.place for place in places)}."
    )


def service_ready(service: DRTPService, parts: Sequence[Conclusion], paths: int) -> Conclusion:
    """DRTPService `Ready`: what a visitor would find. `parts`: Accepted, Connected, and Exposed if it is asked for."""
    wanted = service.spec.server_count
    parts = [one for one in parts if one.reason != Reason.NOT_REQUESTED]
    for one in parts:
        if one.status is not TRUE and one.status is not UNKNOWN:
            return one._replace(type=Aspect.READY)
    if not service.spec.enabled:
        return no(Aspect.READY, Reason.DISABLED, "The service is disabled; enable it to admit visitors.")
    for one in parts:
        if one.status is UNKNOWN:
            return one._replace(type=Aspect.READY)
    if paths < wanted:
        return yes(Aspect.READY, Reason.DEGRADED, f"Visitors are served over {paths} of {wanted} tunnels (DRTP-6003).")
    return yes(Aspect.READY, Reason.READY, "Visitors are served.")
