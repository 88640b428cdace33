"""What several controllers ask of the world: gateways, listeners, claims, grants, and where a route is received."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from drtp.api.core import Namespace
from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection, DRTPServer, DRTPService
from drtp.api.gatewayapi import (
    Gateway,
    GatewayClass,
    GRPCRoute,
    HTTPRoute,
    ListenerSet,
    ReferenceGrant,
    Route,
    TCPRoute,
    TLSRoute,
    UDPRoute,
)
from drtp.api.internal import Claim, ClaimKind, EdgeIdentity, EdgeRole, EnrolmentSecret
from drtp.api.meta import Key, ObjectMeta
from drtp.api.reports import ExposureReport, ExposureState
from drtp.api.snapshots import Source
from drtp.controllers.runtime import World
from drtp.rules import attachment, catalogue_grants, entrykeys, hostnames, indexes, vending
from drtp.rules.attachment import Slot
from drtp.rules.readiness import HOMECOMING
from drtp.store.view import View, kind_key

SYSTEM_NAMESPACE = "datum-system"
ROUTES: tuple[type[HTTPRoute | GRPCRoute | TCPRoute | TLSRoute | UDPRoute], ...] = (
    HTTPRoute,
    GRPCRoute,
    TCPRoute,
    TLSRoute,
    UDPRoute,
)


EntryKey = Callable[[str], str]
"""The key of an entry at an address."""


class Place(NamedTuple):
    """One public place of a route: a listener's protocol, address and port, and the hostname there (`*`: none)."""

    protocol: str
    address: str | None
    port: int
    hostname: str


def declare(view: View) -> None:
    """Declare every index that controllers look things up by."""
    view.add_index(DRTPConnection, "service", indexes.connection_service)
    view.add_index(DRTPConnection, "server", indexes.connection_servers)
    view.add_index(DRTPConnection, "agent", indexes.connection_agent)
    view.add_index(DRTPAccessPolicy, "service", indexes.policy_services)
    view.add_index(DRTPAccessPolicy, "target", indexes.policy_targets)
    view.add_index(EdgeIdentity, "role", indexes.identity_role)
    view.add_index(EnrolmentSecret, "service", indexes.secret_service)
    view.add_index(Claim, "owner", indexes.claim_owner)
    view.add_index(Claim, "above", indexes.claim_above)
    view.add_index(ListenerSet, "gateway", indexes.listener_set_gateway)
    view.add_index(ListenerSet, "claims", indexes.listener_set_claims)
    view.add_index(ListenerSet, "port", indexes.listener_set_ports)
    view.add_index(Gateway, "secret", indexes.listener_secrets)
    view.add_index(ListenerSet, "secret", indexes.listener_secrets)
    for model in ROUTES:
        view.add_index(model, "backend", indexes.route_backends)
        view.add_index(model, "parent", indexes.route_parents)
        view.add_index(model, "hostname", indexes.route_hostnames)


def of_claim(world: World, value: str) -> tuple[list[Key], list[Key]]:
    """(routes, ListenerSets) that a claim of `value` may matter to."""
    sets = [
        Key(kind_key(ListenerSet), one.metadata.namespace, one.metadata.name)
        for one in world.view.indexed(ListenerSet, "claims", value)
    ]
    routes: dict[Key, None] = {}
    for model in ROUTES:
        found = [*world.view.indexed(model, "hostname", value)]
        # A route on a listener's own terms may wait for any name.
        found += world.view.indexed(model, "hostname", hostnames.ANY) if model in {HTTPRoute, TLSRoute} else ()
        for one in sets:
            found += world.view.indexed(model, "parent", ("ListenerSet", one.namespace, one.name))
        routes.update((Key(kind_key(model), one.metadata.namespace, one.metadata.name), None) for one in found)
    return list(routes), sets


def ours(world: World, namespace: str, name: str) -> Gateway | None:
    """A Gateway that DRTP programs."""
    gateway = world.view.get(Gateway, namespace, name)
    kind = world.view.get(GatewayClass, "", gateway.spec.gateway_class_name) if gateway else None
    return gateway if kind and kind.spec.controller_name == attachment.CONTROLLER_NAME else None


def gateways(world: World) -> list[EdgeIdentity]:
    """Every gateway identity that is not denied."""
    found = world.view.indexed(EdgeIdentity, "role", EdgeRole.GATEWAY.value)
    return [one for one in found if not one.spec.denied]


def gateways_silent(world: World, started: datetime, now: datetime) -> timedelta | None:
    """For how long no gateway at all has been heard of; None while one is connected, or where none is enrolled."""
    heard: list[datetime] = []
    for one in gateways(world):
        state = world.observed.edge(one.metadata.name)
        if state is not None and state.connected:
            return None
        heard.append(max(started, state.last_seen) if state else started + HOMECOMING)
    return now - max(heard) if heard else None


def shared_addresses(world: World) -> tuple[str, ...]:
    """Addresses that the gateways receive everybody's visitors on."""
    return tuple(dict.fromkeys(address for one in gateways(world) for address in one.spec.addresses))


def labels_of(world: World) -> attachment.LabelsOf:
    """Namespace labels by name."""

    def labels(name: str) -> Mapping[str, str]:
        namespace = world.view.get(Namespace, "", name)
        return namespace.metadata.labels if namespace else {}

    return labels


def tenant_of(world: World, name: str) -> vending.Tenant:
    """The tenant that has the namespace now."""
    namespace = world.view.get(Namespace, "", name)
    return vending.Tenant(name, namespace.metadata.uid if namespace else "")


def claim_of(world: World) -> attachment.ClaimOf:
    """Claims by what they hold."""

    def claim(kind: ClaimKind, value: str) -> Claim | None:
        return world.view.get(Claim, "", vending.claim_name(kind, value))

    return claim


def grants_in(world: World) -> attachment.GrantsIn:
    """ReferenceGrants by namespace."""
    return lambda namespace: world.view.list(ReferenceGrant, namespace)


def references(world: World) -> attachment.References:
    """What lets routes lead to services of other namespaces."""
    return attachment.References(grants_in(world), functools.partial(catalogue_grants.may_publish, world.view))


def service_of(world: World) -> attachment.ServiceOf:
    """DRTPServices by namespace and name."""
    return lambda namespace, name: world.view.get(DRTPService, namespace, name)


def listener_set_parent(world: World, listener_set: ListenerSet) -> Gateway | None:
    """The Gateway of ours that a ListenerSet adds to."""
    if listener_set.spec.parent_ref.kind not in {None, "Gateway"}:
        return None
    (where,) = indexes.listener_set_gateway(listener_set)
    return ours(world, *where)


def own_slots(world: World, owner: Gateway | ListenerSet) -> tuple[Slot, ...]:
    """The slots of a Gateway or ListenerSet before arbitration."""
    shared = frozenset(shared_addresses(world))
    if isinstance(owner, Gateway):
        found = ours(world, owner.metadata.namespace, owner.metadata.name)
        return attachment.gateway_slots(found, shared) if found else ()
    gateway = listener_set_parent(world, owner)
    if gateway is None:
        return ()
    return attachment.listener_set_slots(owner, gateway, shared, labels_of(world), claim_of(world))


def judged_slots(world: World, owner: Gateway | ListenerSet) -> tuple[Slot, ...]:
    """The slots of a Gateway or ListenerSet, held against everything else on the same ports."""
    mine = own_slots(world, owner)
    judged: list[Slot] = []
    for address, port, udp in dict.fromkeys((slot.address, slot.listener.port, slot.is_udp) for slot in mine):
        rivals = [slot for slot in _on_port(world, port) if (slot.address, slot.is_udp) == (address, udp)]
        judged.extend(slot for slot in attachment.arbitrate(rivals) if slot.parent == mine[0].parent)
    return tuple(judged)


def _on_port(world: World, port: int) -> Iterable[Slot]:
    for gateway in world.view.list(Gateway):
        for slot in own_slots(world, gateway):
            if slot.listener.port == port:
                yield slot
        where = (gateway.metadata.namespace, gateway.metadata.name, port)
        for listener_set in world.view.indexed(ListenerSet, "port", where):
            for slot in own_slots(world, listener_set):
                if slot.listener.port == port:
                    yield slot


def parent_slots(world: World, parent: indexes.Parent) -> tuple[Slot, ...]:
    """The judged slots of what a route attaches to."""
    kind, namespace, name = parent
    owner = world.view.get(Gateway if kind == "Gateway" else ListenerSet, namespace, name)
    return judged_slots(world, owner) if owner else ()


def verdicts(world: World, route: Route) -> tuple[attachment.ParentVerdict, ...]:
    """How each parentRef of a route comes out; left out are parents that are not ours, or not its to see."""
    found: list[attachment.ParentVerdict] = []
    for ref in route.spec.parent_refs:
        parent = indexes.parent_key(ref, route.metadata.namespace)
        slots = parent_slots(world, parent) if parent else ()
        if attachment.visible(route, slots, labels_of(world)):
            found.append(attachment.attach(route, ref, slots, labels_of(world), claim_of(world)))
    return tuple(found)


def routes_to(world: World, service: DRTPService) -> list[Route]:
    """Routes that lead to a service and may."""
    where = (service.metadata.namespace, service.metadata.name)
    found: list[Route] = []
    for model in ROUTES:
        for route in world.view.indexed(model, "backend", where):
            refs = indexes.backend_refs(route)
            resolved = (attachment.resolve(route, ref, references(world), service_of(world)).service for ref in refs)
            if any(one is not None and one.metadata.uid == service.metadata.uid for one in resolved):
                found.append(route)
    return found


def places(world: World, route: Route) -> tuple[Place, ...]:
    """Every public place where a route is attached."""
    found: dict[Place, None] = {}
    for verdict in verdicts(world, route):
        for slot, names in verdict.bindings:
            for hostname in names:
                found[Place(slot.listener.protocol, slot.address, slot.listener.port, hostname)] = None
    return tuple(found)


def gateway_of(world: World, parent: indexes.Parent) -> indexes.Parent:
    """The Gateway that a route's parent is, or adds to."""
    kind, namespace, name = parent
    found = world.view.get(ListenerSet, namespace, name) if kind == "ListenerSet" else None
    where = next(indexes.listener_set_gateway(found)) if found else (namespace, name)
    return ("Gateway", *where)


def places_on(world: World, gateway: Gateway, listener: str | None) -> list[Place]:
    """Every public place of routes on a Gateway, its ListenerSets included; of one listener where it is named."""
    own = (gateway.metadata.namespace, gateway.metadata.name)
    sets = world.view.indexed(ListenerSet, "gateway", own)
    parents = [("Gateway", *own), *(("ListenerSet", one.metadata.namespace, one.metadata.name) for one in sets)]
    found: dict[Place, None] = {}
    for route in (
        route for model in ROUTES for parent in parents for route in world.view.indexed(model, "parent", parent)
    ):
        for verdict in verdicts(world, route):
            for slot, names in verdict.bindings:
                if slot.gateway == own and listener in {None, slot.listener.name}:
                    for hostname in names:
                        found[Place(slot.listener.protocol, slot.address, slot.listener.port, hostname)] = None
    return list(found)


def place_key(place: Place, address: str) -> str:
    """The key of the entry that a gateway has for a place."""
    if place.protocol == "TCP":
        return entrykeys.tcp(address, place.port)
    if place.protocol == "UDP":
        return entrykeys.udp(address, place.port)
    if place.protocol == "TLS":
        return entrykeys.sni(address, place.port, place.hostname)
    return entrykeys.http(address, place.port, place.hostname)


class Said(NamedTuple):
    """What the live gateways say of one thing. `state` None: not all of them have spoken of exactly this."""

    state: bool | None
    message: str = ""


def said(world: World, address: str | None, key_at: EntryKey, origin: Sequence[ObjectMeta]) -> Said:
    """Whether each connected gateway has programmed the entry `key_at(address)` from exactly `origin`."""
    wanted = [Source(one.uid, one.generation) for one in origin]
    answers: list[bool] = []
    for gateway in gateways(world):
        state = world.observed.edge(gateway.metadata.name)
        if state is None or not state.connected:
            continue
        for one in (address,) if address else gateway.spec.addresses:
            report = state.reports.get(key_at(one))
            if not isinstance(report, ExposureReport) or any(source not in report.sources for source in wanted):
                return Said(None)
            if report.state is ExposureState.FAILED:
                return Said(False, report.message if _private(world, report, origin) else NOT_YOURS)
            answers.append(True)
    return Said(True if answers else None)


NOT_YOURS = "others stand there too, so its words are in the operator's gateway log"


def _private(world: World, report: ExposureReport, origin: Sequence[ObjectMeta]) -> bool:
    """Whether all that a gateway speaks of is one tenant's: its words about a shared port may name others."""
    found = (world.view.by_uid(source.uid) for source in report.sources)
    namespaces = {stored.key.namespace for stored in found if stored is not None}
    return namespaces <= {SYSTEM_NAMESPACE, *(one.namespace for one in origin)}


def server_uid(world: World, name: str) -> str | None:
    """A tunnel server's uid, which is its edge's too."""
    server = world.view.get(DRTPServer, "", name)
    return server.metadata.uid if server else None


def claim_key(name: str) -> Key:
    """Where a Claim lives."""
    return Key(kind_key(Claim), "", name)
