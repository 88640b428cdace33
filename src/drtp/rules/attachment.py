"""How listeners, routes, backends and grants meet: Gateway API's rules of attachment, with ownership added.

Everything here judges one object against what it is handed. Controllers turn the judgements into conditions,
projections into snapshot entries, so both always agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from drtp.api.drtp import GROUP as DRTP_GROUP
from drtp.api.drtp import DRTPService, Protocol
from drtp.api.gatewayapi import GROUP as GATEWAY_GROUP
from drtp.api.gatewayapi import (
    BackendRef,
    FromNamespaces,
    Gateway,
    LabelSelector,
    Listener,
    ListenerSet,
    ParentRef,
    ReferenceGrant,
    Route,
    RouteGroupKind,
)
from drtp.api.internal import Claim, ClaimKind
from drtp.api.reasons import Aspect, Reason
from drtp.rules import hostnames, unsupported, vending
from drtp.rules.conditions import Conclusion, no, yes
from drtp.rules.indexes import Name, Parent, parent_key

CONTROLLER_NAME = "datumapis.com/drtp-gateway"
"""GatewayClass.spec.controllerName of Gateways that DRTP programs."""

DEDICATED_ADDRESSES = "datumapis.com/dedicated-addresses"
"""On a Gateway: comma-separated addresses and networks from which whole addresses are vended."""

ADDRESS = "datumapis.com/address"
"""On a ListenerSet: the dedicated address its listeners are bound to, instead of the Gateway's shared ones."""

SUPPORTED_KINDS: Mapping[str, tuple[str, ...]] = {
    "HTTP": ("HTTPRoute",),
    "HTTPS": ("HTTPRoute",),
    "TLS": ("TLSRoute",),
    "TCP": ("TCPRoute",),
    "UDP": ("UDPRoute",),
}
"""Listener protocol -> route kinds."""

BY_PORT = frozenset({"TCP", "UDP"})
"""Protocols whose visitors name no host: a port has one listener and one route."""

ClaimOf = Callable[[ClaimKind, str], Claim | None]
LabelsOf = Callable[[str], Mapping[str, str]]
GrantsIn = Callable[[str], Iterable[ReferenceGrant]]
SubscribedTo = Callable[[str, str, str], bool]
"""Whether a project may publish the service (namespace, name) of another one, by the catalogue."""
ServiceOf = Callable[[str, str], DRTPService | None]


class References(NamedTuple):
    """What lets a route lead to a service of another namespace: a grant there, or a subscription here."""

    grants_in: GrantsIn
    subscribed_to: SubscribedTo


class Slot(NamedTuple):
    """One listener of one Gateway, whoever contributed it. `address` None: the Gateway's shared addresses."""

    gateway: Name
    parent: Parent
    listener: Listener
    address: str | None
    since: datetime | None
    refusal: Conclusion | None = None

    @property
    def namespace(self) -> str:
        """Where the listener is written."""
        return self.parent[1]

    @property
    def family(self) -> str:
        """Protocols of one family share a socket: HTTPS and TLS by server name."""
        return _family(self.listener.protocol)

    @property
    def is_udp(self) -> bool:
        """UDP has the ports of an address for itself: a TCP listener of the same number is no conflict."""
        return self.listener.protocol == "UDP"

    @property
    def order(self) -> tuple[bool, float, Parent]:
        """Precedence: the Gateway itself, then ListenerSets by age, then by name."""
        age = self.since.timestamp() if self.since else float("inf")
        return (self.parent[0] != "Gateway", age, self.parent)


def _family(protocol: str) -> str:
    return "TLS" if protocol in {"HTTPS", "TLS"} else protocol


def gateway_slots(gateway: Gateway, shared: frozenset[str]) -> tuple[Slot, ...]:
    """The listeners of the Gateway itself, on each address it names, or on the gateways' `shared` ones."""
    namespace, name = gateway.metadata.namespace, gateway.metadata.name
    asked = [one.value for one in gateway.spec.addresses if one.value and (one.type or "IPAddress") == "IPAddress"]
    refused = unsupported.gateway(gateway)
    named = list(dict.fromkeys(None if address in shared else address for address in asked))
    return tuple(
        Slot(
            (namespace, name), ("Gateway", namespace, name), one, address, gateway.metadata.creation_timestamp, refused
        )
        for one in gateway.spec.listeners
        for address in (named or [None])
    )


def listener_set_slots(
    listener_set: ListenerSet, gateway: Gateway, shared: frozenset[str], labels_of: LabelsOf, claim_of: ClaimOf
) -> tuple[Slot, ...]:
    """The listeners of a ListenerSet, each refused where its Gateway or its owner's claims do not permit it."""
    namespace, name = listener_set.metadata.namespace, listener_set.metadata.name
    asked = listener_set.metadata.annotations.get(ADDRESS)
    address = None if asked in shared else asked
    allowed = set_allowed(listener_set, gateway, labels_of) or unsupported.gateway(gateway)
    return tuple(
        Slot(
            (gateway.metadata.namespace, gateway.metadata.name),
            ("ListenerSet", namespace, name),
            one,
            address,
            listener_set.metadata.creation_timestamp,
            allowed
            or unsupported.listener(one, SUPPORTED_KINDS)
            or _claim_refusal(one, address, namespace, gateway, claim_of),
        )
        for one in listener_set.spec.listeners
    )


def set_allowed(listener_set: ListenerSet, gateway: Gateway, labels_of: LabelsOf) -> Conclusion | None:
    """None where the Gateway lets this ListenerSet in; otherwise its Accepted condition."""
    rule = gateway.spec.allowed_listeners
    own, other = gateway.metadata.namespace, listener_set.metadata.namespace
    if rule is not None and _namespace_allowed(rule.namespaces, "None", own, other, labels_of):
        return None
    return no(
        Aspect.ACCEPTED, Reason.NOT_ALLOWED, f"Gateway {own}/{gateway.metadata.name} takes no listeners from {other}."
    )


def _claim_refusal(
    listener: Listener, address: str | None, namespace: str, gateway: Gateway, claim_of: ClaimOf
) -> Conclusion | None:
    """A tenant's listener must stand on a claim of that tenant; the Gateway's own namespace is the operator's."""
    if namespace == gateway.metadata.namespace:
        return None
    if address is not None and not owns(claim_of(ClaimKind.ADDRESS, address), namespace):
        return no(Aspect.ACCEPTED, Reason.ADDRESS_NOT_CLAIMED, f"The address {address} is not claimed by {namespace}.")
    if address is None and not shares_port(listener, gateway):
        if not vending.in_pool(listener.port):
            reach = f"{vending.PORT_MIN}-{vending.PORT_MAX}"
            return no(Aspect.ACCEPTED, Reason.PORT_UNAVAILABLE, f"Ports on a shared address come from {reach}.")
        if not owns(claim_of(ClaimKind.PORT, port_value(listener.port)), namespace):
            return no(Aspect.ACCEPTED, Reason.PORT_UNAVAILABLE, f"Port {listener.port} is not claimed by {namespace}.")
    if listener.protocol in {"HTTP", "HTTPS", "TLS"}:
        host = listener.hostname or hostnames.ANY
        if host == hostnames.ANY or not owns(claim_of(ClaimKind.HOSTNAME, host), namespace):
            return no(Aspect.ACCEPTED, Reason.HOSTNAME_CLAIMED, f"The hostname {host} is not claimed by {namespace}.")
    return None


def shares_port(listener: Listener, gateway: Gateway) -> bool:
    """Whether a tenant's listener is on a port that the Gateway itself offers to many names; any other is one's own.

    A port of the pool taken without a claim would block the tenant it is vended to, and one outside is the operator's.
    """
    return listener.protocol not in BY_PORT and any(
        one.port == listener.port and _family(one.protocol) == _family(listener.protocol)
        for one in gateway.spec.listeners
    )


def port_value(port: int) -> str:
    """What a claim of a port on the shared addresses says: they are one space, whatever Gateway a listener is for."""
    return f"shared:{port}"


def owns(claim: Claim | None, namespace: str) -> bool:
    """Whether the claim stands and is the namespace's."""
    return claim is not None and claim.spec.released_at is None and claim.spec.owner_namespace == namespace


def arbitrate(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Slots of one address and port in precedence order; one in conflict with an accepted one before it is refused."""
    accepted: list[Slot] = []
    judged: list[Slot] = []
    for slot in sorted(slots, key=lambda one: one.order):
        found = slot.refusal or unsupported.listener(slot.listener, SUPPORTED_KINDS) or _conflict(slot, accepted)
        judged.append(slot._replace(refusal=found))
        if found is None:
            accepted.append(slot)
    return tuple(judged)


def _conflict(slot: Slot, accepted: Sequence[Slot]) -> Conclusion | None:
    for other in accepted:
        # Another tenant's names show in no message.
        where = "/".join(other.parent) if other.namespace == slot.namespace else "Another listener"
        if other.family != slot.family or slot.family in BY_PORT:
            return no(
                Aspect.ACCEPTED, Reason.PROTOCOL_CONFLICT, f"{where} uses this port for {other.listener.protocol}."
            )
        if (other.listener.hostname or "") == (slot.listener.hostname or ""):
            return no(Aspect.ACCEPTED, Reason.HOSTNAME_CONFLICT, f"{where} has this port and hostname.")
    return None


def supported_kinds(listener: Listener) -> tuple[tuple[RouteGroupKind, ...], bool]:
    """(supportedKinds, whether every kind asked for is one of them)."""
    offered = SUPPORTED_KINDS.get(listener.protocol, ())
    asked = listener.allowed_routes.kinds
    if not asked:
        return tuple(RouteGroupKind(kind=kind) for kind in offered), True
    good = [kind for kind in asked if (kind.group or GATEWAY_GROUP) == GATEWAY_GROUP and kind.kind in offered]
    return tuple(RouteGroupKind(kind=kind.kind) for kind in good), len(good) == len(asked)


# ---- routes --------------------------------------------------------------------------------------------------------


class Binding(NamedTuple):
    """A route on one listener: `hostnames` it gets there (`*` where neither names one)."""

    slot: Slot
    hostnames: tuple[str, ...]


class ParentVerdict(NamedTuple):
    """How one parentRef came out."""

    ref: ParentRef
    accepted: Conclusion
    bindings: tuple[Binding, ...] = ()


def attach(
    route: Route, ref: ParentRef, slots: Sequence[Slot], labels_of: LabelsOf, claim_of: ClaimOf
) -> ParentVerdict:
    """Judge one parentRef against the judged slots of that parent.

    Reasons: UnsupportedValue, NoMatchingParent, NotAllowedByListeners, NoMatchingListenerHostname, HostnameClaimed.
    """
    namespace = route.metadata.namespace
    parent = parent_key(ref, namespace)
    slots = visible(route, slots, labels_of)
    bad = unsupported.rules(route)
    if bad and len(bad) == len(route.spec.rules):
        return ParentVerdict(ref, no(Aspect.ACCEPTED, Reason.UNSUPPORTED_VALUE, f"{bad[0]}, which is not carried out."))
    aimed = [
        slot
        for slot in slots
        if slot.parent == parent
        and (ref.section_name is None or ref.section_name == slot.listener.name)
        and (ref.port is None or ref.port == slot.listener.port)
    ]
    if not aimed:
        return ParentVerdict(
            ref, no(Aspect.ACCEPTED, Reason.NO_MATCHING_PARENT, "No listener has this section name and port.")
        )
    allowed = [slot for slot in aimed if slot.refusal is None and _route_allowed(route, slot, labels_of)]
    if not allowed:
        return ParentVerdict(
            ref,
            no(
                Aspect.ACCEPTED,
                Reason.NOT_ALLOWED_BY_LISTENERS,
                f"No listener there admits a {route.kind} of {namespace}.",
            ),
        )
    met = [Binding(slot, names) for slot in allowed if (names := _names(route, slot))]
    if not met:
        return ParentVerdict(
            ref,
            no(Aspect.ACCEPTED, Reason.NO_MATCHING_LISTENER_HOSTNAME, "No listener there has any of these hostnames."),
        )
    return _own(route, ref, met, claim_of)


def visible(route: Route, slots: Iterable[Slot], labels_of: LabelsOf) -> tuple[Slot, ...]:
    """The slots that a route's tenant may know of: another's ListenerSet shows only listeners for this namespace.

    Gateways are the operator's, and everybody may read them.
    """
    own = route.metadata.namespace
    return tuple(slot for slot in slots if slot.parent[0] == "Gateway" or _namespace_admitted(slot, own, labels_of))


def _own(route: Route, ref: ParentRef, met: Sequence[Binding], claim_of: ClaimOf) -> ParentVerdict:
    """Leave only hostnames that the route's namespace may use."""
    owned: list[Binding] = []
    foreign: list[str] = []
    for slot, names in met:
        good = tuple(name for name in names if may_use(name, route, slot, claim_of))
        foreign.extend(name for name in names if name not in good and name not in foreign)
        if good:
            owned.append(Binding(slot, good))
    refused = f"{', '.join(foreign)} is not this namespace's to use (DRTP-6006)"
    if owned:
        what = f"The route is attached, but {refused}." if foreign else "The route is attached."
        return ParentVerdict(ref, yes(Aspect.ACCEPTED, Reason.ACCEPTED, what), tuple(owned))
    return ParentVerdict(ref, no(Aspect.ACCEPTED, Reason.HOSTNAME_CLAIMED, f"{refused}; choose another."))


def may_use(name: str, route: Route, slot: Slot, claim_of: ClaimOf) -> bool:
    """Whether the route's namespace may answer for `name` on this listener.

    The Gateway's own namespace is the operator's and needs no claim. TCP and UDP are guarded by the port's claim.
    """
    namespace = route.metadata.namespace
    if slot.family in BY_PORT or namespace == slot.gateway[0]:
        return True
    return name != hostnames.ANY and owns(claim_of(ClaimKind.HOSTNAME, name), namespace)


def _names(route: Route, slot: Slot) -> tuple[str, ...]:
    if slot.family in BY_PORT:
        return (hostnames.ANY,)
    return hostnames.intersect(slot.listener.hostname, route.spec.hostnames)


def wanted_hostnames(route: Route, slots: Iterable[Slot], labels_of: LabelsOf) -> tuple[str, ...]:
    """Hostnames that a route needs claims for: what it would get, where nobody else's claim stood in the way."""
    namespace = route.metadata.namespace
    found: dict[str, None] = {}
    for slot in slots:
        if slot.family in BY_PORT or namespace == slot.gateway[0] or slot.refusal is not None:
            continue
        if _route_allowed(route, slot, labels_of):
            found.update(dict.fromkeys(name for name in _names(route, slot) if not _whole_wildcard(name, slot)))
            if slot.parent[0] == "ListenerSet" and slot.namespace == namespace:
                found.update(dict.fromkeys(_names(route, slot)))
    found.pop(hostnames.ANY, None)
    return tuple(found)


def _whole_wildcard(name: str, slot: Slot) -> bool:
    """All of an operator's wildcard: nobody's to claim."""
    return hostnames.is_wildcard(name) and name == (slot.listener.hostname or hostnames.ANY)


def _route_allowed(route: Route, slot: Slot, labels_of: LabelsOf) -> bool:
    kinds, _ = supported_kinds(slot.listener)
    if all(kind.kind != route.kind for kind in kinds):
        return False
    return _namespace_admitted(slot, route.metadata.namespace, labels_of)


def _namespace_admitted(slot: Slot, namespace: str, labels_of: LabelsOf) -> bool:
    return _namespace_allowed(slot.listener.allowed_routes.namespaces, "Same", slot.namespace, namespace, labels_of)


def _namespace_allowed(rule: FromNamespaces, default: str, own: str, other: str, labels_of: LabelsOf) -> bool:
    match rule.from_ or default:
        case "All":
            return True
        case "Same":
            return own == other
        case "Selector":
            return rule.selector is not None and selects(rule.selector, labels_of(other))
        case _:
            return False


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """metav1.LabelSelector; an operator this version does not know selects nothing."""
    if any(labels.get(name) != value for name, value in selector.match_labels.items()):
        return False
    for one in selector.match_expressions:
        match one.operator:
            case "In":
                good = labels.get(one.key) in one.values
            case "NotIn":
                good = labels.get(one.key) not in one.values
            case "Exists":
                good = one.key in labels
            case "DoesNotExist":
                good = one.key not in labels
            case _:
                good = False
        if not good:
            return False
    return True


# ---- references ----------------------------------------------------------------------------------------------------


class Resolution(NamedTuple):
    """Where a backendRef leads; `refusal` is the ResolvedRefs condition where it leads nowhere."""

    service: DRTPService | None
    refusal: Conclusion | None = None


_CARRIES: Mapping[str, frozenset[Protocol]] = {
    "HTTPRoute": frozenset({Protocol.HTTP, Protocol.HTTPS, Protocol.TCP}),
    "GRPCRoute": frozenset({Protocol.HTTP, Protocol.HTTPS, Protocol.TCP}),
    "TCPRoute": frozenset({Protocol.TCP, Protocol.HTTP, Protocol.HTTPS, Protocol.TLS}),
    "TLSRoute": frozenset({Protocol.TLS, Protocol.TCP}),
    "UDPRoute": frozenset({Protocol.UDP}),
}


def resolve(route: Route, ref: BackendRef, references: References, service_of: ServiceOf) -> Resolution:
    """Follow a backendRef. Reasons: InvalidKind, RefNotPermitted, BackendNotFound, UnsupportedProtocol."""
    if ref.group != DRTP_GROUP or ref.kind != "DRTPService":
        what = f"{ref.group or 'core'}/{ref.kind or 'Service'}"
        return Resolution(
            None, no(Aspect.RESOLVED_REFS, Reason.INVALID_KIND, f"{what} is no backend; use datumapis.com/DRTPService.")
        )
    project, namespace = route.metadata.namespace, ref.namespace or route.metadata.namespace
    target = (DRTP_GROUP, "DRTPService", namespace, ref.name)
    by_grant = granted((GATEWAY_GROUP, route.kind, project), target, references.grants_in)
    if not by_grant and not references.subscribed_to(project, namespace, ref.name):
        return Resolution(None, not_permitted(_where(route, ref), route.kind))
    service = service_of(namespace, ref.name)
    if service is None:
        return Resolution(
            None,
            no(Aspect.RESOLVED_REFS, Reason.BACKEND_NOT_FOUND, f"DRTPService {namespace}/{ref.name} does not exist."),
        )
    if service.spec.protocol not in _CARRIES[route.kind]:
        why = f"A {route.kind} cannot carry {service.spec.protocol.value} to {namespace}/{ref.name}."
        return Resolution(None, no(Aspect.RESOLVED_REFS, Reason.UNSUPPORTED_PROTOCOL, why))
    return Resolution(service)


def not_permitted(where: str, kind: str) -> Conclusion:
    """A reference to another namespace without a grant, named by where it is written: the rest is another's to tell."""
    why = f"{where} is in another namespace, and no ReferenceGrant there lets this {kind} refer to it (DRTP-6020)."
    return no(Aspect.RESOLVED_REFS, Reason.REF_NOT_PERMITTED, why)


def _where(route: Route, ref: BackendRef) -> str:
    return next(
        f"spec.rules[{position}].backendRefs[{index}]"
        for position, rule in enumerate(route.spec.rules)
        for index, one in enumerate(rule.backend_refs)
        if one == ref
    )


def granted(origin: tuple[str, str, str], target: tuple[str, str, str, str], grants_in: GrantsIn) -> bool:
    """Whether (group, kind, namespace) may refer to (group, kind, namespace, name). Within one namespace always."""
    if origin[2] == target[2]:
        return True
    group, kind, namespace, name = target
    return any(
        any((one.group, one.kind, one.namespace) == origin for one in grant.spec.from_)
        and any(one.group == group and one.kind == kind and one.name in {None, "", name} for one in grant.spec.to)
        for grant in grants_in(namespace)
    )


def resolved_refs(refusals: Iterable[Conclusion | None]) -> Conclusion:
    """The ResolvedRefs condition of a route: the first refusal, or True."""
    return next(
        (one for one in refusals if one is not None),
        yes(Aspect.RESOLVED_REFS, Reason.RESOLVED_REFS, "Every backend exists."),
    )
