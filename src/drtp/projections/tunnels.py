"""Units about tunnels: connections for POPs and agents, servers for agents and gateways, trust and denial."""

from __future__ import annotations

from typing import NamedTuple, cast

import msgspec

from drtp.api.drtp import (
    PEERS_MAX,
    AssignedServer,
    DRTPAccessPolicy,
    DRTPConnection,
    DRTPServer,
    DRTPService,
    EnforcementPoint,
    Role,
)
from drtp.api.internal import EdgeIdentity, EdgeRole
from drtp.api.meta import ConditionStatus
from drtp.api.reasons import Aspect
from drtp.api.snapshots import (
    Access,
    DenyEntry,
    Entry,
    MeasureTarget,
    PlanServer,
    PlanService,
    ProbeTarget,
    RouteEntry,
    Source,
    TrustEntry,
)
from drtp.projections import connects, facts, visitors
from drtp.projections.cells import Reader, Result, Unit
from drtp.projections.settings import ProjectionSettings
from drtp.rules import access, asking, callers, conditions, entrykeys
from drtp.rules.candidates import CANDIDATES_MAX, ServerPlace, nearby
from drtp.rules.placement import ROLES, Position, position_of
from drtp.store.observed import EdgeRef


class _Told(NamedTuple):
    """What a connection tells its agent's unit: servers with their roles for it, and where the agent is."""

    servers: tuple[tuple[str, Role], ...]
    origin: Position | None


def gateways(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Every gateway that is not denied, with its addresses."""
    found = [
        facts.GatewayEdge(EdgeRef(EdgeRole.GATEWAY, one.metadata.name), one.spec.addresses)
        for one in read.indexed(EdgeIdentity, "role", EdgeRole.GATEWAY.value)
        if not one.spec.denied
    ]
    return Result(value=tuple(found))


def pops(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Every POP that is not denied."""
    found = [
        EdgeRef(EdgeRole.POP, one.metadata.name)
        for one in read.indexed(EdgeIdentity, "role", EdgeRole.POP.value)
        if not one.spec.denied
    ]
    return Result(value=tuple(found))


def trust(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Which gateways every POP believes."""
    trusted = tuple(sorted(gateway.edge.uid for gateway in facts.gateways(read)))
    entry = TrustEntry(gateways=trusted)
    return Result({(pop, entrykeys.TRUST): entry for pop in read.value(facts.POPS) or ()})


def deny(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Whose certificates no POP accepts any more, and which people neither POPs nor gateways let in."""
    denied = {one.metadata.name: -1 for one in read.indexed(EdgeIdentity, "denied", True)}
    people = visitors.shut_out(read)
    keys = facts.former_keys(read.indexed(EdgeIdentity, "former", True))
    entry = DenyEntry(minimum_generation=denied, keys=keys, people=people)
    result = Result({(pop, entrykeys.DENY): entry for pop in read.value(facts.POPS) or ()})
    since = visitors.reinstated(read)
    for gateway in facts.gateways(read) if people or since else ():
        result.entries[gateway.edge, entrykeys.DENY] = DenyEntry(people=people, since=since)
    return result


def denied_pops(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """What those who dial POPs must know of them."""
    denied = (one for one in read.indexed(EdgeIdentity, "denied", True) if one.spec.role is EdgeRole.POP)
    former = [one for one in read.indexed(EdgeIdentity, "former", True) if one.spec.role is EdgeRole.POP]
    uids, rejoined = (tuple(sorted(one.metadata.name for one in held)) for held in (denied, former))
    return Result(value=facts.PopDenials(uids, rejoined, facts.former_keys(former)))


def connection(unit: Unit, read: Reader, settings: ProjectionSettings) -> Result:
    """One connection: its endpoint on each assigned POP, and the service in its agent's plan."""
    found = read.get(DRTPConnection, unit[1], unit[2])
    if found is None or found.metadata.deletion_timestamp is not None:
        return Result()
    result = Result()
    agent = facts.agent_of(read, found)
    service = read.get(DRTPService, unit[1], found.spec.service_ref.name)
    carriage = facts.carriage(read, found, service) if service else Access()
    allowed = [one for one in found.spec.servers if _may_carry(read, one, carriage)]
    if agent is not None:
        result.facts["agent", agent.uid] = _Told(
            tuple((one.server_ref.name, one.role) for one in allowed),
            position_of(found.spec.client.location),
        )
    if service is None or service.metadata.deletion_timestamp is not None:
        return result
    route = _route(read, settings, found, service, agent)
    servers: list[str] = []
    for assigned in allowed:
        server = facts.tunnel_server(read, assigned.server_ref.name)
        if server is not None:
            servers.append(server.metadata.uid)
            place = access.place_of(server) if carriage.lists else None
            entry = msgspec.structs.replace(route, leaving=assigned.role is Role.LEAVING, place=place)
            result.entries[EdgeRef(EdgeRole.POP, server.metadata.uid), entrykeys.route(found.metadata.uid)] = entry
    if agent is not None:
        held = [one.metadata for one in facts.connection_policies(read, found, service) if one is not None]
        result.entries[agent, entrykeys.service(found.metadata.uid)] = msgspec.structs.replace(
            _plan(found, service, tuple(servers)),
            callers=route.callers,
            conditional=route.conditional,
            caller_access=route.caller_access,
            sealed_only=not route.access.lists or access.NOBODY in route.access.lists,
            sources=facts.sources([found.metadata, service.metadata, *held]),
        )
    return result


def _may_carry(read: Reader, assigned: AssignedServer, carriage: Access) -> bool:
    """Whether policies let anybody's bytes pass there. A server that is not known yet is nowhere yet."""
    server = read.get(DRTPServer, "", assigned.server_ref.name) if carriage.lists else None
    return not carriage.lists or (server is not None and asking.may_carry(carriage, access.place_of(server)))


def identity(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """How one identity stands. A connector's own unit is sent what it asks for, those of such services who it is."""
    known = read.get(EdgeIdentity, "", unit[1])
    if known is None:
        return Result()
    spec = known.spec
    result = Result(value=facts.Standing(spec.role, spec.namespace, spec.denied))
    if spec.role is EdgeRole.CONNECTOR and spec.caller is not None and not spec.denied:
        result.facts["connector", unit[1]] = connects.Asks(spec.wants, spec.datagrams)
        for wanted in callers.wanted_names(spec.wants):
            result.facts[connects.asked_for(*wanted)] = spec.caller
    return result


def _route(
    read: Reader, settings: ProjectionSettings, found: DRTPConnection, service: DRTPService, agent: EdgeRef | None
) -> RouteEntry:
    compiled, origin = facts.service_access(read, service, EnforcementPoint.TUNNEL)
    usual = facts.limits(read, found.metadata.namespace, settings.limits)
    limits = access.narrowed(usual, filter(None, facts.connection_policies(read, found, service)))
    if found.spec.access_policy_ref is not None:
        own = read.get(DRTPAccessPolicy, found.metadata.namespace, found.spec.access_policy_ref.name)
        # A connection that names a policy nobody has is closed, not open.
        passed_through = access.is_passed_through(service)
        named = access.visitors_lists(own, passed_through=passed_through) if own else (access.NOBODY,)
        compiled = Access(lists=(*compiled.lists, *named))
        origin.extend([own.metadata] if own else [])
    called = connects.called(read, service, found)
    return RouteEntry(
        connection=found.metadata.uid,
        service=service.metadata.uid,
        namespace=found.metadata.namespace,
        name=service.metadata.name,
        agents=(agent.uid,) if agent else (),
        access=compiled,
        protocol=service.spec.protocol,
        mode=settings.endpoint_mode,
        plain_from=settings.plain_from,
        enabled=service.spec.enabled,
        limits=limits,
        shares=facts.shares(read, found.metadata.namespace),
        callers=called.certain,
        conditional=called.conditional,
        caller_access=called.access,
        memberships=visitors.memberships(read, [compiled]),
        sources=facts.sources([found.metadata, *origin]),
    )


def _plan(found: DRTPConnection, service: DRTPService, servers: tuple[str, ...]) -> PlanService:
    ready = conditions.find(service.status.conditions, Aspect.READY)
    return PlanService(
        connection=found.metadata.uid,
        connection_name=found.metadata.name,
        service=service.metadata.uid,
        namespace=found.metadata.namespace,
        name=service.metadata.name,
        protocol=service.spec.protocol,
        local=service.spec.local,
        proxy_protocol=service.spec.proxy_protocol,
        enabled=service.spec.enabled,
        servers=servers,
        addresses=service.status.addresses,
        ready=ready is not None and ready.status is ConditionStatus.TRUE,
        reason=ready.reason if ready else "",
        message=ready.message if ready else "",
    )


def agent(unit: Unit, read: Reader, settings: ProjectionSettings) -> Result:
    """The tunnel servers an agent keeps sessions with: those of all its connections, each in its foremost role.

    And those that it measures, because it may be given them, and the POPs that it must believe no more.
    """
    uid = unit[1]
    told = [cast("_Told", fact) for fact in read.facts().values()]
    origin = next((one.origin for one in told if one.origin is not None), None)
    result = Result(_measures(EdgeRef(EdgeRole.AGENT, uid), read, origin, CANDIDATES_MAX) if told else {})
    roles: dict[str, Role] = {}
    for name, assigned in (pair for one in told for pair in one.servers):
        # To an agent a server that leaves is a last one: it keeps the session that visitors are on.
        role = Role.TERTIARY if assigned is Role.LEAVING else assigned
        roles[name] = min(roles.get(name, role), role, key=ROLES.index)
    for name, role in roles.items():
        server = facts.tunnel_server(read, name)
        port = facts.tunnel_port(server) if server else None
        if server is None or port is None:
            continue
        result.entries[EdgeRef(EdgeRole.AGENT, uid), entrykeys.server(server.metadata.uid)] = PlanServer(
            server=server.metadata.uid,
            name=settings.server_name(name),
            pop=server.spec.pop,
            address=server.spec.server_ip,
            port=port,
            role=role,
            sources=facts.sources([server.metadata]),
        )
    if told and (entry := facts.denied_pops(read).entry):
        result.entries[EdgeRef(EdgeRole.AGENT, uid), entrykeys.DENY] = entry
    return result


def servers(_unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Where tunnel servers are: of each its record's few words that do not change with every heartbeat."""
    found = [
        ServerPlace(
            uid=one.metadata.uid,
            generation=one.metadata.generation,
            name=one.metadata.name,
            address=one.spec.server_ip,
            port=port,
            failure_domain=one.spec.failure_domain or one.metadata.name,
            position=position_of(one.spec.location),
        )
        for one in read.indexed(DRTPServer, "all", True)
        if not one.spec.unschedulable
        and (port := facts.tunnel_port(one)) is not None
        and one.metadata.uid not in facts.denied_pops(read).uids
    ]
    return Result(value=tuple(sorted(found, key=lambda one: one.name)))


def _measures(
    edge: EdgeRef, read: Reader, origin: Position | None, most: int, besides: str = ""
) -> dict[tuple[EdgeRef, str], Entry]:
    """What `edge`, at `origin`, measures: up to `most` servers near it, but for the one with the uid `besides`."""
    places = [one for one in facts.server_places(read) if one.uid != besides]
    return {
        (edge, entrykeys.measure(one.uid)): MeasureTarget(
            server=one.uid,
            name=one.name,
            address=one.address,
            port=one.port,
            sources=(Source(one.uid, one.generation),),
        )
        for one in nearby(places, origin, most)
    }


def server(unit: Unit, read: Reader, settings: ProjectionSettings) -> Result:
    """A POP that every gateway probes by itself, and that measures others near it."""
    found = facts.tunnel_server(read, unit[1])
    if found is None:
        return Result()
    uid = found.metadata.uid
    result = Result(
        _measures(EdgeRef(EdgeRole.POP, uid), read, position_of(found.spec.location), PEERS_MAX, besides=uid)
    )
    if found.spec.health_port is None:
        return result
    target = ProbeTarget(
        server=found.metadata.uid,
        name=settings.server_name(found.metadata.name),
        address=found.spec.server_ip,
        health_port=found.spec.health_port,
        tunnel_port=facts.tunnel_port(found) or 0,
        sockets=found.spec.sockets.directory if found.spec.sockets else "",
        sockets_mark=found.spec.sockets.mark if found.spec.sockets else "",
        sources=facts.sources([found.metadata]),
    )
    result.entries |= {(gateway.edge, entrykeys.pop(uid)): target for gateway in facts.gateways(read)}
    return result
