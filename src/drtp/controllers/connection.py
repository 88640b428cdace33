"""DRTPConnection: placement writes its servers, reports become its status, and long-gone agents are collected.

Status is the memory of what POPs have reported: a report updates it, silence leaves it as it is. Projections read
endpoints from here, so that a restart of the control plane withdraws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from drtp.api.drtp import (
    AssignedServer,
    ClientStatus,
    DRTPAccessPolicy,
    DRTPConnection,
    DRTPConnectionStatus,
    DRTPServer,
    DRTPService,
    LocalServiceStatus,
    LocalState,
    Location,
    ProgrammingStatus,
    ServerStatus,
)
from drtp.api.internal import EdgeIdentity, EdgeRole
from drtp.api.meta import Condition, Key
from drtp.api.reasons import Aspect, Reason
from drtp.api.reports import AgentRegistration, RoundTrips, RouteReport, ServiceReport, SessionState
from drtp.api.snapshots import Access
from drtp.controllers import writing
from drtp.controllers.runtime import Change, Delete, EdgeChange, MapChange, Outcome, World, Write, itself
from drtp.controllers.writing import Turn
from drtp.kit.observe import printable
from drtp.rules import access, asking, conditions, entrykeys, indexes, measures, placement, readiness, renewals
from drtp.rules.conditions import Conclusion
from drtp.rules.placement import Candidate, Placement, Position
from drtp.store.view import View, kind_key

CONNECTION = kind_key(DRTPConnection)
PLACED_BY = "datumapis.com/placed-by"
"""Annotation: `placement` where the servers were chosen here. Servers without it were set by somebody and stay."""

MOVED_AT = "datumapis.com/moved-at"
"""Annotation: when placement last changed its mind by measure alone."""

DWELL = timedelta(minutes=5)
"""So long after that it does not change it again: a path that is slow at times must not drag connections to and fro."""

HOLD_DOWN = timedelta(seconds=30)
"""A silent server keeps its connections for this long: moving them for a hiccup costs more than it saves."""

MESSAGE_MAX = 512
"""Characters of an edge's message that are kept: it says what it likes, and every copy is stored."""

RETURN_AFTER_RESTART = timedelta(minutes=10)
"""Agents come back to a restarted control plane within this; before it, absence proves nothing."""

COLLECT_AFTER = timedelta(hours=24)
"""Connections of agents that are gone for this long are deleted; the service, its name and port stay."""


def declare(view: View) -> None:
    """The index of connections that want more servers than they have."""
    view.add_index(DRTPConnection, "short", _short)


def _short(connection: DRTPConnection) -> Iterable[bool]:
    scheduled = conditions.find(connection.status.conditions, Aspect.SCHEDULED)
    if scheduled is None or scheduled.reason != Reason.SCHEDULED:
        yield True


class _Assigned(NamedTuple):
    """Servers, and how many are there to stay. `look_again_s`: something may change then. `moved`: by measure alone."""

    servers: tuple[AssignedServer, ...]
    placed: int
    look_again_s: float | None = None
    moved: bool = False
    shut_out: int = 0
    """Servers that policies let carry nobody's bytes."""


class ConnectionController:
    """Keyed by DRTPConnection."""

    name = "connection"

    def __init__(self) -> None:
        self._started: datetime | None = None

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Connections, the servers and services they name, and the identities behind them."""
        return {
            CONNECTION: itself,
            kind_key(DRTPServer): _of_server,
            kind_key(DRTPService): _of_service,
            kind_key(EdgeIdentity): _of_identity,
            kind_key(DRTPAccessPolicy): _of_policy,
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """POPs and agents speak of connections by uid; an agent that comes or goes concerns all of its own."""
        kind, _, uid = change.part.partition("/")
        if kind in {"route", "service"}:
            stored = world.view.by_uid(uid)
            if stored is not None and stored.key.kind == CONNECTION:
                yield stored.key
        elif change.edge.role is EdgeRole.AGENT and change.part in {"", entrykeys.ROUND_TRIPS}:
            yield from _keys(world.view.indexed(DRTPConnection, "agent", change.edge.uid))

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Place, then conclude; both writes go together, so that one turn does."""
        self._started = self._started or now
        stored, connection = world.view.stored(key), world.view.get(DRTPConnection, key.namespace, key.name)
        if stored is None or connection is None or connection.metadata.deletion_timestamp is not None:
            return Outcome()
        gone_at = _gone_at(connection, world, self._started)
        if gone_at is not None and now - gone_at >= COLLECT_AFTER:
            return Outcome((Delete(key, uid=stored.uid),))
        service = world.view.get(DRTPService, key.namespace, connection.spec.service_ref.name)
        assigned = _place(connection, service, world, now)
        servers = assigned.servers
        writes: tuple[Write, ...] = ()
        generation = connection.metadata.generation
        if servers != connection.spec.servers:
            spec = {"servers": [writing.plain(server) for server in servers] or None}
            moved_at = {MOVED_AT: now.strftime("%Y-%m-%dT%H:%M:%SZ")} if assigned.moved else {}
            writes = writing.respec(stored, spec, {PLACED_BY: "placement"} | moved_at)
            generation += 1
        fresh = _status(connection, service, assigned, world, (generation, now))
        status, figures_wait = measures.refreshed(connection.status, fresh, now)
        collect_in = (gone_at + COLLECT_AFTER - now).total_seconds() if gone_at is not None else None
        identity, connected = _agent(connection, world)
        ends_in = renewals.look_again_s(identity, now, connected=connected)
        return Outcome(
            writes=(*writes, *writing.status(stored, status)),
            requeue_after_s=min(filter(None, (assigned.look_again_s, figures_wait, collect_in, ends_in)), default=None),
            events=writing.transitions(key, Turn(connection.status.conditions, status.conditions)),
        )


# ---- which connections a change concerns ----------------------------------------------------------------------------


def _keys(found: Iterable[DRTPConnection]) -> Iterable[Key]:
    return (Key(CONNECTION, one.metadata.namespace, one.metadata.name) for one in found)


def _of_server(world: World, change: Change) -> Iterable[Key]:
    """Heartbeats and gauges concern nobody; a change of spec or readiness concerns its own and those in want."""
    versions = [world.view.typed(DRTPServer, stored) for stored in change.versions]
    looks = {one and (one.metadata.uid, one.metadata.generation, one.status.health, _ready(one)) for one in versions}
    if change.before is None or change.after is None or len(looks) > 1:
        yield from _keys(world.view.indexed(DRTPConnection, "server", change.key.name))
        yield from _keys(world.view.indexed(DRTPConnection, "short", True))


def _of_service(world: World, change: Change) -> Iterable[Key]:
    generations = {stored.metadata.get("generation") for stored in change.versions}
    if change.before is None or change.after is None or len(generations) > 1:
        yield from _keys(world.view.indexed(DRTPConnection, "service", (change.key.namespace, change.key.name)))


def _of_policy(world: World, change: Change) -> Iterable[Key]:
    """A policy that names carriers may shut servers out, or let them in again."""
    versions = [one for stored in change.versions if (one := world.view.typed(DRTPAccessPolicy, stored))]
    if not any(access.carriage([one]).lists for one in versions):
        return
    for policy in versions:
        for where in indexes.policy_services(policy):
            yield from _keys(world.view.indexed(DRTPConnection, "service", where))
        for connection in world.view.list(DRTPConnection, policy.metadata.namespace):
            own = connection.spec.access_policy_ref
            if own is not None and own.name == policy.metadata.name:
                yield from _keys([connection])


def _of_identity(world: World, change: Change) -> Iterable[Key]:
    """An agent came, went, or is denied; certificates and the like concern none of its connections."""
    versions = [world.view.typed(EdgeIdentity, stored) for stored in change.versions]
    if len(versions) == 2 and len({one and (one.spec.denied, one.spec.namespace) for one in versions}) == 1:
        return
    yield from _keys(world.view.indexed(DRTPConnection, "agent", change.key.name))


# ---- placement ------------------------------------------------------------------------------------------------------


def _place(connection: DRTPConnection, service: DRTPService | None, world: World, now: datetime) -> _Assigned:
    """The servers to assign. Looks again when a hold-down ends, or when it may move by measure again."""
    present = connection.spec.servers
    manual = bool(present) and connection.metadata.annotations.get(PLACED_BY) != "placement"
    if manual or service is None or service.metadata.deletion_timestamp is not None:
        return _Assigned(present, len(present))
    trips = _round_trips(connection, world)
    look_again: float | None = None
    candidates: list[Candidate] = []
    carriage = _carriage(connection, service, world)
    shut_out = 0
    for server in world.view.list(DRTPServer):
        if _is_revoked(server):
            continue  # Nobody stays for the visitors that are left there: they are cut.
        if not asking.may_carry(carriage, access.place_of(server)):
            shut_out += 1
            continue
        candidates.append(_candidate(server, trips.get(server.metadata.name), now))
        held = _held_for(server, now)
        if held is not None and any(one.server_ref.name == server.metadata.name for one in present):
            look_again = min(look_again or held, held)
    names = tuple(one.server_ref.name for one in present)
    chosen = placement.place(candidates, _origin(connection, world), service.spec.server_count, names)
    moved = False
    if _is_settled(connection, chosen, names):
        better, rests_s = placement.improve(candidates, chosen.names), _rests_for(connection, now)
        if better != chosen.names and rests_s is None:
            left = tuple(name for name in chosen.names if name not in better)
            chosen, moved = placement.Placement(better, left, chosen.wanted), True
        elif better != chosen.names:
            look_again = min(filter(None, (look_again, rests_s)))
    live = {one.name for one in candidates if one.keeps}
    settled = frozenset(
        one.server_ref.name
        for one in connection.status.servers
        if readiness.carries(one) and one.server_ref.name in live
    )
    busy = frozenset(name for name in chosen.leaving if _is_busy(connection, name, world))
    return _Assigned(placement.assign(chosen, settled, busy), len(chosen.names), look_again, moved, shut_out)


def _carriage(connection: DRTPConnection, service: DRTPService, world: World) -> Access:
    """What the policies of a connection say of who may carry its visitors' bytes."""
    where = (service.metadata.namespace, service.metadata.name)
    found = [*access.attached(world.view.indexed(DRTPAccessPolicy, "service", where), service)]
    if connection.spec.access_policy_ref is not None:
        own = world.view.get(DRTPAccessPolicy, where[0], connection.spec.access_policy_ref.name)
        found.extend([own] if own else [])
    return access.carriage(found)


def _is_settled(connection: DRTPConnection, chosen: Placement, present: tuple[str, ...]) -> bool:
    """Whether all is as it was placed, nobody leaves, and every path carries: else a move would cost redundancy."""
    carrying = {one.server_ref.name for one in connection.status.servers if readiness.carries(one)}
    return bool(present) and chosen.names == present and not chosen.leaving and carrying >= set(present)


def _rests_for(connection: DRTPConnection, now: datetime) -> float | None:
    """Seconds for which it is not moved by measure again; None where it may be."""
    try:
        moved_at = datetime.fromisoformat(connection.metadata.annotations.get(MOVED_AT, ""))
        left_s = (moved_at + DWELL - now).total_seconds()
    except (ValueError, TypeError):  # none, or somebody's own words
        return None
    return left_s if left_s > 0 else None


def _is_busy(connection: DRTPConnection, name: str, world: World) -> bool:
    """Whether visitors are left on a server that is left. Silence says nothing until its lease is over."""
    server = world.view.get(DRTPServer, "", name)
    ready = _ready(server) if server is not None else None
    if server is None or ready is None or ready.reason == Reason.LEASE_EXPIRED:
        return False
    state = world.observed.edge(server.metadata.uid)
    report = state.reports.get(entrykeys.route(connection.metadata.uid)) if state and state.connected else None
    return not isinstance(report, RouteReport) or report.visitors != 0


def _candidate(server: DRTPServer, round_trip_ms: float | None, now: datetime) -> Candidate:
    spec, status = server.spec, server.status
    ready = _ready(server)
    up = ready is not None and ready.status is conditions.TRUE and (status.health or 0) >= placement.HEALTH_MIN
    room = spec.max_connections is None or (status.connections or 0) < spec.max_connections
    leaving = spec.unschedulable or (ready is not None and ready.reason == Reason.DRAINING)
    return Candidate(
        name=server.metadata.name,
        failure_domain=spec.failure_domain or f"server/{server.metadata.name}",
        accepts=up and room and not leaving,
        keeps=not leaving and (up or _held_for(server, now) is not None),
        position=placement.position_of(spec.location),
        round_trip_ms=round_trip_ms,
        load=float(status.connections or 0),
    )


def _ready(server: DRTPServer) -> Condition | None:
    return conditions.find(server.status.conditions, Aspect.READY)


def _is_revoked(server: DRTPServer) -> bool:
    ready = _ready(server)
    return ready is not None and ready.reason == Reason.REVOKED


def _held_for(server: DRTPServer, now: datetime) -> float | None:
    """Seconds for which a server that is not ready keeps what it has; None where it is ready or that time is over."""
    ready = _ready(server)
    if ready is None or ready.status is conditions.TRUE:
        return None
    left = (ready.last_transition_time + HOLD_DOWN - now).total_seconds()
    return left if left > 0 else None


def _round_trips(connection: DRTPConnection, world: World) -> Mapping[str, float]:
    agent = connection.spec.client.agent_id
    report = world.observed.report(agent, entrykeys.ROUND_TRIPS) if agent else None
    return report.millis if isinstance(report, RoundTrips) else {}


def _origin(connection: DRTPConnection, world: World) -> Position | None:
    """Where the agent is: as registered in the object, else as it says of itself."""
    given = placement.position_of(connection.spec.client.location)
    agent = connection.spec.client.agent_id
    state = world.observed.edge(agent) if agent else None
    said = state.registration if state else None
    if given is None and isinstance(said, AgentRegistration) and said.latitude and said.longitude:
        return placement.position_of(
            msgspec.convert({"latitude": said.latitude, "longitude": said.longitude}, Location)
        )
    return given


# ---- status ---------------------------------------------------------------------------------------------------------


def _status(
    connection: DRTPConnection,
    service: DRTPService | None,
    assigned: _Assigned,
    world: World,
    at: tuple[int, datetime],
) -> DRTPConnectionStatus:
    """`at`: the generation that is concluded about, and now."""
    found = tuple(_server_status(connection, one, world) for one in assigned.servers)
    if service is None:
        what = f"DRTPService {connection.spec.service_ref.name} does not exist."
        told = [
            conditions.no(Aspect.SCHEDULED, Reason.SERVICE_NOT_FOUND, what),
            conditions.no(Aspect.READY, Reason.SERVICE_NOT_FOUND, what),
        ]
    else:
        told = list(
            readiness.connection_conclusions(
                found,
                assigned.placed,
                service.spec.server_count,
                _local(connection, service, world),
                enabled=service.spec.enabled,
                shut_out=assigned.shut_out,
            )
        )
        told = _remember_local(connection, told, world)
    identity, connected = _agent(connection, world)
    told += renewals.conclusions(identity, at[1], connected=connected)
    return DRTPConnectionStatus(
        servers=found,
        local=_local_status(connection, world),
        observed_generation=at[0],
        conditions=conditions.merge(connection.status.conditions, told, *at),
    )


def _server_status(connection: DRTPConnection, assigned: AssignedServer, world: World) -> ServerStatus:
    """What is known of one assigned server: its POP's report, else what was known before."""
    name = assigned.server_ref.name
    before = next((one for one in connection.status.servers if one.server_ref.name == name), None)
    known = before or ServerStatus(
        role=assigned.role,
        server_ref=assigned.server_ref,
        programming_status=ProgrammingStatus.INIT,
        client_status=ClientStatus.WAITING,
    )
    known = msgspec.structs.replace(known, role=assigned.role)
    server = world.view.get(DRTPServer, "", name)
    if server is None:
        return msgspec.structs.replace(known, message="No such server.")
    ready = _ready(server)
    if _is_revoked(server):
        return msgspec.structs.replace(known, client_status=ClientStatus.DISCONNECTED, message="Its POP was revoked.")
    if ready is not None and ready.reason == Reason.LEASE_EXPIRED:
        return msgspec.structs.replace(known, client_status=ClientStatus.DISCONNECTED, message="The server is silent.")
    state = world.observed.edge(server.metadata.uid)
    report = state.reports.get(entrykeys.route(connection.metadata.uid)) if state and state.connected else None
    if not isinstance(report, RouteReport):
        return known
    fresh = ServerStatus(
        role=assigned.role,
        server_ref=assigned.server_ref,
        programming_status=report.programming,
        client_status=report.session.status,
        pod_address=report.address or None,
        pod_port=report.port or None,
        pod_path=report.path or None,
        pod_introductions=report.introductions or None,
        endpoint_mode=report.mode,
        message=_said(report.message) or None,
    )
    return _measured(fresh, report.session, known)


def _measured(fresh: ServerStatus, session: SessionState, known: ServerStatus) -> ServerStatus:
    """With the session's figures. One that is not said yet leaves what was known, while the agent is there."""
    before = known if session.status is ClientStatus.CONNECTED else fresh
    return msgspec.structs.replace(
        fresh,
        round_trip_millis=_whole(session.round_trip_ms, before.round_trip_millis),
        round_trip_floor_millis=_whole(session.round_trip_floor_ms, before.round_trip_floor_millis),
        jitter_millis=_whole(session.jitter_ms, before.jitter_millis),
        loss_permille=before.loss_permille if session.loss is None else round(session.loss * 1000),
    )


def _whole(millis: float | None, before: int | None) -> int | None:
    return before if millis is None else round(millis)


def _said(message: str) -> str:
    """An edge's words, as they may stand in an object that others read."""
    return printable(message)[:MESSAGE_MAX]


def _local(connection: DRTPConnection, service: DRTPService, world: World) -> readiness.LocalFacts:
    client = connection.spec.client
    target = f"{service.spec.local.host}:{service.spec.local.port}"
    report = _local_report(connection, world)
    return readiness.LocalFacts(
        agent=client.hostname or connection.metadata.name,
        target=target,
        state=report.local if report else LocalState.UNKNOWN,
        message=_said(report.message) if report else "",
    )


def _local_status(connection: DRTPConnection, world: World) -> LocalServiceStatus | None:
    """What the agent says of its local service; silence leaves what it said last."""
    report, before = _local_report(connection, world), connection.status.local
    if report is None or (before is None and report.local is LocalState.UNKNOWN):
        return before
    known = before or LocalServiceStatus()
    return LocalServiceStatus(
        state=report.local,
        connect_millis=_whole(report.connect_ms, known.connect_millis),
        jitter_millis=_whole(report.jitter_ms, known.jitter_millis),
        failures=known.failures if report.failures is None else report.failures,
    )


def _local_report(connection: DRTPConnection, world: World) -> ServiceReport | None:
    agent = connection.spec.client.agent_id
    report = world.observed.report(agent, entrykeys.service(connection.metadata.uid)) if agent else None
    return report if isinstance(report, ServiceReport) else None


def _remember_local(connection: DRTPConnection, told: list[Conclusion], world: World) -> list[Conclusion]:
    """An agent that has not spoken since this control plane started leaves its last word on the local service."""
    before = conditions.find(connection.status.conditions, Aspect.CONNECTED)
    silent = _local_report(connection, world) is None
    if before is None or before.reason not in readiness.LOCAL_FAULTS or not silent:
        return told
    said = {Aspect.CONNECTED, Aspect.READY}
    return [
        one._replace(status=conditions.UNKNOWN) if one.type in said and one.status is conditions.TRUE else one
        for one in told
    ]


def _agent(connection: DRTPConnection, world: World) -> tuple[EdgeIdentity | None, bool]:
    """Its record, and whether it is connected."""
    agent = connection.spec.client.agent_id
    state = world.observed.edge(agent) if agent else None
    return (world.view.get(EdgeIdentity, "", agent) if agent else None), state is not None and state.connected


def _gone_at(connection: DRTPConnection, world: World, started: datetime) -> datetime | None:
    """Since when the agent is gone; None while it is there, or where no agent has registered this connection."""
    agent = connection.spec.client.agent_id
    state = world.observed.edge(agent) if agent else None
    connected = conditions.find(connection.status.conditions, Aspect.CONNECTED)
    if not agent or (state and state.connected) or (connected and connected.status is conditions.TRUE):
        return None
    moments = (started, state.last_seen if state else None, connected.last_transition_time if connected else None)
    if state is None and connected is not None and connected.reason in {Reason.AGENT_DISCONNECTED, Reason.CONNECTING}:
        return max(connected.last_transition_time, started + RETURN_AFTER_RESTART - COLLECT_AFTER)
    return max(moment for moment in moments if moment is not None)
