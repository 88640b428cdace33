"""Units about what visitors reach: routes, HTTP hosts, TCP ports, server names, and the services behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, cast

import msgspec

from drtp.api.drtp import (
    ClientStatus,
    DRTPConnection,
    DRTPServer,
    DRTPService,
    EndpointMode,
    EnforcementPoint,
    ProgrammingStatus,
    Role,
    ServerStatus,
)
from drtp.api.gatewayapi import BackendRef, HTTPRoute, Route
from drtp.api.meta import ObjectMeta
from drtp.api.reasons import Aspect, Reason
from drtp.api.snapshots import (
    Access,
    Backend,
    HttpHost,
    PopEndpoint,
    SniExposure,
    TcpExposure,
    UdpExposure,
    WeightedBackend,
)
from drtp.projections import facts, httprules, visitors
from drtp.projections.cells import Reader, Result, Unit
from drtp.projections.listeners import bound
from drtp.projections.settings import ProjectionSettings
from drtp.rules import access, asking, attachment, conditions, entrykeys, precedence
from drtp.rules.attachment import Slot
from drtp.rules.indexes import parent_key


def route(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """Where one route attaches: it reports to each host, port or server name that it has a part in."""
    found = facts.route_of(read, unit[1], unit[2], unit[3])
    result = Result()
    if found is None or found.metadata.deletion_timestamp is not None:
        return result
    for ref in found.spec.parent_refs:
        parent = parent_key(ref, unit[2])
        if parent is None:
            continue
        slots = parent_slots(read, parent)
        verdict = attachment.attach(found, ref, slots, facts.labels_of(read), facts.claim_of(read))
        for slot, hostnames in verdict.bindings:
            where = (slot.address or "", str(slot.listener.port))
            if slot.family in attachment.BY_PORT:
                result.facts[slot.family.lower(), *where] = True
                continue
            kind = "sni" if unit[1] == "TLSRoute" else "host"
            result.facts.update({(kind, *where, hostname): True for hostname in hostnames})
    return result


def parent_slots(read: Reader, parent: tuple[str, str, str]) -> list[Slot]:
    """The judged slots of a Gateway or ListenerSet."""
    kind = "gateway" if parent[0] == "Gateway" else "listenerset"
    ports = cast("tuple[Unit, ...]", read.value((kind, parent[1], parent[2])) or ())
    slots = [slot for one in ports for slot in cast("Sequence[Slot]", read.value(one) or ())]
    return [slot for slot in slots if slot.parent == parent]


def host(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """One HTTP host on one port: the rules of all its routes in Gateway API's order of precedence."""
    _, address, port, hostname = unit
    result = Result()
    origin: list[ObjectMeta] = []
    rules: list[httprules.Ranked] = []
    for found in _routes(read):
        if isinstance(found, HTTPRoute):
            origin.append(found.metadata)
            above = _above(read, found, (address, port), origin)
            rules.extend(httprules.ranked(found, partial(_backends, _Part(read, found, result, origin, above))))
    if not origin:
        return result
    rules.sort(key=lambda one: one.rank)
    members = visitors.memberships(read, (one.rule.access for one in rules))
    for edge, one in bound(read, address):
        result.entries[edge, entrykeys.http(one, int(port), hostname)] = HttpHost(
            address=one,
            port=int(port),
            hostname=hostname,
            rules=tuple(ranked.rule for ranked in rules),
            memberships=members,
            asks_who=any(asking.asks_who(ranked.rule.access) for ranked in rules),
            sources=facts.sources(origin),
        )
    return result


def tcp(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """One TCP port: the oldest route there has it."""
    return _port(unit, read, entrykeys.tcp, TcpExposure)


def udp(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """One UDP port: as for TCP."""
    return _port(unit, read, entrykeys.udp, UdpExposure)


def _port(
    unit: Unit, read: Reader, key: Callable[[str, int], str], kind: type[TcpExposure] | type[UdpExposure]
) -> Result:
    found = _first(read)
    result = Result()
    if found is None:
        return result
    origin = [found.metadata]
    above = _above(read, found, (unit[1], unit[2]), origin)
    backends, guarded = _backends(_Part(read, found, result, origin, above), _refs(found))
    for edge, address in bound(read, unit[1]):
        result.entries[edge, key(address, int(unit[2]))] = kind(
            address=address,
            port=int(unit[2]),
            access=guarded,
            backends=backends,
            enabled=_is_enabled(read, found),
            sources=facts.sources(origin),
        )
    return result


def sni(unit: Unit, read: Reader, _settings: ProjectionSettings) -> Result:
    """One server name on one port: the oldest route there has it."""
    found = _first(read)
    result = Result()
    if found is None:
        return result
    origin = [found.metadata]
    above = _above(read, found, (unit[1], unit[2]), origin)
    backends, guarded = _backends(_Part(read, found, result, origin, above), _refs(found))
    for edge, address in bound(read, unit[1]):
        result.entries[edge, entrykeys.sni(address, int(unit[2]), unit[3])] = SniExposure(
            address=address,
            port=int(unit[2]),
            hostname=unit[3],
            access=guarded,
            backends=backends,
            sources=facts.sources(origin),
        )
    return result


def _routes(read: Reader) -> list[Route]:
    """The routes that reported to this unit, oldest first."""
    found = [facts.route_of(read, sender[1], sender[2], sender[3]) for sender in read.facts()]
    present = [one for one in found if one is not None]
    return sorted(
        present,
        key=lambda one: (precedence.age(one.metadata.creation_timestamp), one.metadata.namespace, one.metadata.name),
    )


def _first(read: Reader) -> Route | None:
    return next(iter(_routes(read)), None)


def _is_enabled(read: Reader, found: Route) -> bool:
    """Whether a service behind the route is enabled. One that leads nowhere is not disabled: it refuses visitors."""
    resolved = [
        attachment.resolve(found, ref, facts.references(read), facts.service_of(read)).service for ref in _refs(found)
    ]
    return any(service is None or service.spec.enabled for service in resolved) or not resolved


def _refs(found: Route) -> list[BackendRef]:
    return [ref for rule in found.spec.rules for ref in rule.backend_refs]


def _above(read: Reader, found: Route, where: tuple[str, str], origin: list[ObjectMeta]) -> Access:
    """The lists of policies on the route, and on the Gateways it is on at `where`. Adds them to `origin`."""
    slots: list[Slot] = []
    for ref in found.spec.parent_refs:
        parent = parent_key(ref, found.metadata.namespace)
        # Where no policy is on the Gateway, its many slots are not looked at, and their changes concern nobody here.
        if parent is None or not facts.is_under_policy(read, parent):
            continue
        verdict = attachment.attach(found, ref, parent_slots(read, parent), facts.labels_of(read), facts.claim_of(read))
        slots += [slot for slot, _ in verdict.bindings if (slot.address or "", str(slot.listener.port)) == where]
    compiled, used = facts.policies_above(read, found, slots)
    origin.extend(used)
    return compiled


class _Part(NamedTuple):
    """What one route contributes to a unit; `result` and `origin` are added to."""

    read: Reader
    found: Route
    result: Result
    origin: list[ObjectMeta]
    above: Access


def _backends(part: _Part, refs: Iterable[BackendRef]) -> tuple[tuple[WeightedBackend, ...], Access]:
    """Resolve references: shares of traffic, and who may pass (every service's lists together, and those `above`).

    Adds what was read to `origin`, and asks for the services' Backend entries by facts in `result`.
    """
    read, found, result, origin, above = part
    shares: list[WeightedBackend] = []
    guards: list[Access] = []
    for ref in refs:
        weight = 1 if ref.weight is None else ref.weight
        resolved = attachment.resolve(found, ref, facts.references(read), facts.service_of(read))
        service = None if ref.filters else resolved.service
        if service is None or service.metadata.deletion_timestamp is not None:
            shares.append(WeightedBackend(service="", weight=weight))
            continue
        compiled, used = facts.service_access(read, service, EnforcementPoint.GATEWAY)
        origin.extend(used)
        guards.append(compiled)
        shares.append(WeightedBackend(service=service.metadata.uid, weight=weight))
        result.facts["backend", service.metadata.namespace, service.metadata.name] = True
    guarded = access.every(guards)
    return tuple(shares), Access(lists=(*guarded.lists, *above.lists))


def backend(unit: Unit, read: Reader, settings: ProjectionSettings) -> Result:
    """One service that something exposes: every POP endpoint of its connections."""
    service = read.get(DRTPService, unit[1], unit[2])
    if service is None or not read.facts():
        return Result()
    origin = [service.metadata]
    endpoints: list[PopEndpoint] = []
    if service.spec.enabled and service.metadata.deletion_timestamp is None:
        for found in read.indexed(DRTPConnection, "service", (unit[1], unit[2])):
            if found.metadata.deletion_timestamp is None and (mine := _endpoints(read, settings, found, service)):
                origin.append(found.metadata)
                endpoints.extend(mine)
    expose = service.spec.expose
    entry = Backend(
        service=service.metadata.uid,
        namespace=unit[1],
        name=unit[2],
        protocol=service.spec.protocol,
        app_protocol=service.spec.local.app_protocol,
        host_header=expose.host_header if expose else None,
        endpoints=_contiguous(endpoints),
        sources=facts.sources(origin),
    )
    key = entrykeys.backend(service.metadata.uid)
    return Result({(gateway.edge, key): entry for gateway in facts.gateways(read)})


def _endpoints(
    read: Reader, settings: ProjectionSettings, found: DRTPConnection, service: DRTPService
) -> list[PopEndpoint]:
    """Endpoints that POPs have opened for a connection.

    Source: the connection's status, which is the memory of reports: it outlives a restart of the control plane. An
    endpoint whose agent is away stays, as the last resort: the POP refuses its handshake and Envoy tries the next.
    """
    assigned = {one.server_ref.name for one in found.spec.servers}
    carriage = facts.carriage(read, found, service)
    endpoints: list[PopEndpoint] = []
    for status in found.status.servers:
        name = status.server_ref.name
        server = facts.tunnel_server(read, name) if name in assigned else None
        if server is None or status.programming_status not in _OPEN:
            continue
        if not asking.may_carry(carriage, access.place_of(server)):
            continue  # No visitor's bytes may pass there.
        if (status.endpoint_mode or EndpointMode.MTLS) not in {EndpointMode.MTLS, settings.endpoint_mode}:
            continue  # A POP does not choose that gateways reach it, or whoever it names, without proof (threat 5).
        endpoints.append(
            PopEndpoint(
                connection=found.metadata.uid,
                server=server.metadata.uid,
                server_name=settings.server_name(name),
                mode=status.endpoint_mode or EndpointMode.MTLS,
                address=status.pod_address or "",
                port=status.pod_port or 0,
                path=status.pod_path or "",
                priority=_priority(status, server),
                introductions=bool(status.pod_introductions),
            )
        )
    return endpoints


_OPEN = frozenset({ProgrammingStatus.PROGRAMMED, ProgrammingStatus.DRAINING})
"""A draining endpoint still takes visitors: better than none, where there is no other."""


def _priority(status: ServerStatus, server: DRTPServer) -> int:
    """0 and 1 for paths that work, 2 while the agent is away, 3 for servers that are going or gone."""
    ready = conditions.find(server.status.conditions, Aspect.READY)
    draining = status.programming_status is ProgrammingStatus.DRAINING or status.role is Role.LEAVING
    if draining or (ready is not None and ready.reason == Reason.LEASE_EXPIRED):
        return 3
    if status.client_status is not ClientStatus.CONNECTED:
        return 2
    return 0 if status.role is Role.PRIMARY else 1


def _contiguous(endpoints: Sequence[PopEndpoint]) -> tuple[PopEndpoint, ...]:
    """Priorities renumbered from 0 without gaps, as Envoy wants them; a stable order."""
    levels = sorted({one.priority for one in endpoints})
    renumbered = [msgspec.structs.replace(one, priority=levels.index(one.priority)) for one in endpoints]
    return tuple(sorted(renumbered, key=lambda one: (one.priority, one.server_name, one.connection)))
