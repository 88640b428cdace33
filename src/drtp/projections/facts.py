"""What several units ask of the View: edges, services with their access, claims, grants, labels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import msgspec

from drtp.api import quotas
from drtp.api.core import Namespace, ResourceQuota, home_of
from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection, DRTPServer, DRTPService, EnforcementPoint, Transport
from drtp.api.gatewayapi import (
    Gateway,
    HTTPRoute,
    ListenerSet,
    ReferenceGrant,
    Route,
    TCPRoute,
    TLSRoute,
    UDPRoute,
)
from drtp.api.internal import Claim, ClaimKind, EdgeIdentity, EdgeRole
from drtp.api.meta import ObjectMeta
from drtp.api.snapshots import Access, AccessList, DenyEntry, Limits, Share, Source
from drtp.projections.cells import Index, Reader, Unit
from drtp.rules import access, attachment, catalogue_grants, indexes, vending
from drtp.rules.attachment import Slot
from drtp.rules.candidates import ServerPlace
from drtp.store.observed import EdgeRef

ROUTES: Mapping[str, type[HTTPRoute | TCPRoute | TLSRoute | UDPRoute]] = {
    "HTTPRoute": HTTPRoute,
    "TCPRoute": TCPRoute,
    "TLSRoute": TLSRoute,
    "UDPRoute": UDPRoute,
}

GATEWAYS: Unit = ("gateways",)
POPS: Unit = ("pops",)
DENIED_POPS: Unit = ("denied-pops",)
SERVERS: Unit = ("servers",)

INDEXES = (
    Index(DRTPConnection, "service", indexes.connection_service),
    Index(DRTPServer, "all", lambda _server: (True,)),
    Index(DRTPAccessPolicy, "service", indexes.policy_services),
    Index(DRTPAccessPolicy, "target", indexes.policy_targets),
    Index(EdgeIdentity, "role", indexes.identity_role),
    Index(EdgeIdentity, "denied", indexes.identity_denied),
    Index(EdgeIdentity, "former", indexes.identity_former),
    Index(ResourceQuota, "namespace", lambda quota: (quota.metadata.namespace,)),
    Index(ReferenceGrant, "namespace", lambda grant: (grant.metadata.namespace,)),
    *(Index(model, "backend", indexes.route_backends) for model in ROUTES.values()),
)


class GatewayEdge(NamedTuple):
    """A gateway that may be told things, and the shared addresses it receives visitors on."""

    edge: EdgeRef
    addresses: tuple[str, ...]


def source(metadata: ObjectMeta) -> Source:
    """An object as an entry names it."""
    return Source(metadata.uid, metadata.generation)


def sources(objects: Iterable[ObjectMeta]) -> tuple[Source, ...]:
    """Each object once, in a stable order."""
    return tuple(sorted({source(one) for one in objects}, key=lambda one: (one.uid, one.generation)))


def gateways(read: Reader) -> Sequence[GatewayEdge]:
    """Every gateway that is not denied."""
    return cast("Sequence[GatewayEdge]", read.value(GATEWAYS) or ())


class PopDenials(NamedTuple):
    """POPs (uids) that nobody believes any more; those in good standing that have left keys behind, and the keys."""

    uids: tuple[str, ...] = ()
    rejoined: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def entry(self) -> DenyEntry | None:
        """What those who dial POPs are told."""
        # That any generation counts is said of those who are back: an edge from before keys were listed needs the map.
        generations = dict.fromkeys(self.rejoined, 0) | dict.fromkeys(self.uids, -1)
        return DenyEntry(generations, self.keys) if generations else None


def denied_pops(read: Reader) -> PopDenials:
    """Which POPs' certificates prove nothing."""
    return cast("PopDenials", read.value(DENIED_POPS) or PopDenials())


def former_keys(identities: Iterable[EdgeIdentity]) -> tuple[str, ...]:
    """What these have left behind, sorted."""
    return tuple(sorted(former.key for one in identities for former in one.spec.former_keys))


class Standing(NamedTuple):
    """Of an identity's record, what the many connections that depend on it must know."""

    role: EdgeRole
    namespace: str
    denied: bool


def standing(read: Reader, uid: str) -> Standing | None:
    """How an agent's or a POP's identity stands; None for one that never was."""
    return cast("Standing | None", read.value(("identity", uid)))


def tunnel_server(read: Reader, name: str) -> DRTPServer | None:
    """A tunnel server, unless its POP is denied: nobody is sent to that one, whatever is assigned to it."""
    found = read.get(DRTPServer, "", name)
    its = standing(read, found.metadata.uid) if found else None
    return None if its is not None and its.denied else found


def server_places(read: Reader) -> Sequence[ServerPlace]:
    """Every tunnel server that is not cordoned, by name."""
    return cast("Sequence[ServerPlace]", read.value(SERVERS) or ())


def shared_addresses(read: Reader) -> frozenset[str]:
    """Addresses that all tenants of a gateway share."""
    return frozenset(address for gateway in gateways(read) for address in gateway.addresses)


def labels_of(read: Reader) -> attachment.LabelsOf:
    """Namespace labels by name."""

    def labels(name: str) -> Mapping[str, str]:
        namespace = read.get(Namespace, "", name)
        return namespace.metadata.labels if namespace else {}

    return labels


def claim_of(read: Reader) -> attachment.ClaimOf:
    """Claims by what they hold."""

    def claim(kind: ClaimKind, value: str) -> Claim | None:
        return read.get(Claim, "", vending.claim_name(kind, value))

    return claim


def grants_in(read: Reader) -> attachment.GrantsIn:
    """ReferenceGrants by namespace."""
    return lambda namespace: read.indexed(ReferenceGrant, "namespace", namespace)


def references(read: Reader) -> attachment.References:
    """What lets routes lead to services of other namespaces."""
    return attachment.References(grants_in(read), functools.partial(catalogue_grants.may_publish, read))


def service_of(read: Reader) -> attachment.ServiceOf:
    """DRTPServices by namespace and name."""
    return lambda namespace, name: read.get(DRTPService, namespace, name)


def route_of(read: Reader, kind: str, namespace: str, name: str) -> Route | None:
    """A route of any kind."""
    return read.get(ROUTES[kind], namespace, name)


def policies(read: Reader, service: DRTPService) -> Sequence[DRTPAccessPolicy]:
    """Policies attached to a service, by name."""
    where = (service.metadata.namespace, service.metadata.name)
    return access.attached(read.indexed(DRTPAccessPolicy, "service", where), service)


def service_access(read: Reader, service: DRTPService, point: EnforcementPoint) -> tuple[Access, list[ObjectMeta]]:
    """What `point` evaluates for a service, and the objects that it came from."""
    attached = policies(read, service)
    compiled = access.compile_access(service, attached, point, exposed=exposed(read, service))
    if read.unreadable(DRTPAccessPolicy, service.metadata.namespace):
        # Nobody knows which service an unreadable policy is meant for, so it closes those of its namespace.
        compiled = Access(lists=(*compiled.lists, access.NOBODY))
    return compiled, [service.metadata, *(policy.metadata for policy in attached)]


def connection_policies(read: Reader, found: DRTPConnection, service: DRTPService) -> list[DRTPAccessPolicy | None]:
    """The policies of a connection's service, and the one that it names itself: None where nobody has that."""
    of_service = policies(read, service)
    if found.spec.access_policy_ref is None:
        return [*of_service]
    return [*of_service, read.get(DRTPAccessPolicy, found.metadata.namespace, found.spec.access_policy_ref.name)]


def carriage(read: Reader, found: DRTPConnection, service: DRTPService) -> Access:
    """What a connection's policies say of carriers."""
    return access.carriage(one for one in connection_policies(read, found, service) if one is not None)


def is_under_policy(read: Reader, parent: indexes.Parent) -> bool:
    """Whether a policy is on the Gateway that a route's parent is or adds to, or may be: one that cannot be read."""
    kind, namespace, name = parent
    found = read.get(ListenerSet, namespace, name) if kind == "ListenerSet" else None
    where = next(indexes.listener_set_gateway(found)) if found else (namespace, name)
    return bool(read.indexed(DRTPAccessPolicy, "target", ("Gateway", *where))) or read.unreadable(
        DRTPAccessPolicy, where[0]
    )


def policies_above(read: Reader, route: Route, slots: Iterable[Slot]) -> tuple[Access, list[ObjectMeta]]:
    """What policies on a route, and on the Gateways of the `slots` that it is on, add to its visitors' lists."""
    namespace = route.metadata.namespace
    targets: dict[tuple[str, str, str], set[str]] = {(route.kind, namespace, route.metadata.name): set()}
    for slot in slots:
        targets.setdefault(("Gateway", *slot.gateway), set()).add(slot.listener.name)
    lists: list[AccessList] = []
    origin: list[ObjectMeta] = []
    for target, listeners in targets.items():
        for policy in sorted(read.indexed(DRTPAccessPolicy, "target", target), key=lambda one: one.metadata.name):
            if access.is_on(policy, target, listeners) and access.holds_at(policy, EnforcementPoint.GATEWAY):
                lists.extend(access.visitors_lists(policy, passed_through=route.kind == "TLSRoute"))
                origin.append(policy.metadata)
        if read.unreadable(DRTPAccessPolicy, target[1]):
            lists.append(access.NOBODY)
    return Access(lists=tuple(dict.fromkeys(lists))), origin


def limits(read: Reader, namespace: str, usual: Limits) -> Limits:
    """What quotas of a project and of its organisation leave each of its connections at one POP; else the usual.

    What all have together none has more of: a POP that knows no shares of visitors holds that much.
    """
    common = shares(read, namespace)
    return msgspec.structs.replace(
        usual,
        streams_max=_least([usual.streams_max, *(one.streams_max for one in common)]),
        new_streams_per_s=_least([usual.new_streams_per_s, *(one.new_streams_per_s for one in common)]),
    )


def shares(read: Reader, namespace: str) -> tuple[Share, ...]:
    """What quotas let all connections of a project have together at one POP, and all of its organisation."""

    def project(name: str) -> Namespace | None:
        return read.get(Namespace, "", name)

    places = dict.fromkeys(filter(None, (namespace, home_of(project(namespace), project))))
    return tuple(share for place in places if (share := _share(read, place)) != Share(place))


def _share(read: Reader, place: str) -> Share:
    """The lowest of each that quotas in `place` say."""
    found = [quotas.counts(quota.spec.hard) for quota in read.indexed(ResourceQuota, "namespace", place)]

    def least(name: str) -> int:
        return _least([one[name] for one in found if name in one])

    return Share(place, least(quotas.BYTES), least(quotas.STREAMS), least(quotas.NEW_STREAMS))


def _least(said: Sequence[int]) -> int:
    """The lowest of those that limit; 0, which limits nothing, where none does."""
    return min((one for one in said if one > 0), default=0)


def exposed(read: Reader, service: DRTPService) -> bool:
    """Whether somebody who may has asked for a public place: `spec.expose`, or a route that leads here."""
    if service.spec.expose is not None:
        return True
    where = (service.metadata.namespace, service.metadata.name)
    for model in ROUTES.values():
        for route in read.indexed(model, "backend", where):
            for ref in indexes.backend_refs(route):
                found = attachment.resolve(route, ref, references(read), service_of(read)).service
                if found is not None and found.metadata.uid == service.metadata.uid:
                    return True
    return False


def identity(read: Reader, uid: str) -> EdgeIdentity | None:
    """An edge that is not denied."""
    found = read.get(EdgeIdentity, "", uid)
    return None if found is None or found.spec.denied else found


def agent_of(read: Reader, found: DRTPConnection) -> EdgeRef | None:
    """The agent that may serve a connection: an identity of that role and tenant, not denied. A claim is no proof."""
    uid = found.spec.client.agent_id
    wanted = Standing(EdgeRole.AGENT, found.metadata.namespace, denied=False)
    return EdgeRef(EdgeRole.AGENT, uid) if uid and standing(read, uid) == wanted else None


def tunnel_port(server: DRTPServer) -> int | None:
    """Where a tunnel server takes lanes."""
    return next((one.port for one in server.spec.listeners if one.transport is Transport.TLS), None)


def listeners_owner(read: Reader, kind: str, namespace: str, name: str) -> Gateway | ListenerSet | None:
    """A Gateway or ListenerSet."""
    return read.get(Gateway if kind == "Gateway" else ListenerSet, namespace, name)
