"""Status of GatewayClass, Gateway and ListenerSet: what stands, what is programmed, how many routes it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from drtp.api import gatewayapi
from drtp.api.core import Secret
from drtp.api.gatewayapi import (
    Gateway,
    GatewayAddress,
    GatewayClass,
    GatewayClassStatus,
    GatewayStatus,
    ListenerSet,
    ListenerSetStatus,
    ListenerStatus,
)
from drtp.api.internal import Claim, EdgeIdentity, EdgeRole
from drtp.api.meta import Key
from drtp.api.reasons import Aspect, Reason
from drtp.controllers import claims, surroundings, writing
from drtp.controllers.runtime import Change, EdgeChange, MapChange, Outcome, World, itself
from drtp.controllers.writing import Turn
from drtp.rules import advice, attachment, certificates, conditions, entrykeys, hostnames, indexes, unsupported
from drtp.rules.attachment import Slot
from drtp.rules.conditions import Conclusion, no, unknown, yes
from drtp.store.view import kind_key

ADDRESSES_MAX = 16
"""As many as Gateway API lets a status hold."""

RECOUNT_S = 1.0
"""`attachedRoutes` follows routes at this pace: a thousand new services are not a thousand writes of one Gateway."""

_CONFLICTS = frozenset({Reason.HOSTNAME_CONFLICT, Reason.PROTOCOL_CONFLICT})

ROUTES_COUNTED_PER_S = 500
"""A Gateway with very many routes is counted more rarely: counting is a courtesy, serving does not wait for it."""

KINDS = (
    gatewayapi.GATEWAY_CLASS,
    gatewayapi.GATEWAY,
    gatewayapi.LISTENER_SET,
    gatewayapi.REFERENCE_GRANT,
    kind_key(EdgeIdentity),
    *(kind_key(model) for model in surroundings.ROUTES),
)


class GatewayClassController:
    """Keyed by GatewayClass."""

    name = "gatewayclass"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """The classes themselves."""
        return {gatewayapi.GATEWAY_CLASS: itself}

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Accepted, where the class names this controller."""
        stored, found = world.view.stored(key), world.view.get(GatewayClass, "", key.name)
        if stored is None or found is None or found.spec.controller_name != attachment.CONTROLLER_NAME:
            return Outcome()
        accepted = yes(Aspect.ACCEPTED, Reason.ACCEPTED, "DRTP programs Gateways of this class.")
        told = [unsupported.gateway_class(found) or accepted]
        merged = conditions.merge(found.status.conditions, told, found.metadata.generation, now)
        emits = writing.transitions(key, Turn(found.status.conditions, merged))
        return Outcome(writing.status(stored, GatewayClassStatus(conditions=merged)), None, emits)


class GatewayController:
    """Keyed by Gateway."""

    name = "gateway"

    def __init__(self) -> None:
        self._counted: dict[Key, tuple[int, datetime]] = {}

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Gateways, and everything that their status speaks of."""
        return {
            gatewayapi.GATEWAY: itself,
            gatewayapi.GATEWAY_CLASS: _every_gateway,
            gatewayapi.LISTENER_SET: _set_parent,
            kind_key(EdgeIdentity): _of_gateway_edge,
            kind_key(Secret): _of_secret(Gateway),
            gatewayapi.REFERENCE_GRANT: _every_gateway,
            **{kind_key(model): _of_route("Gateway") for model in surroundings.ROUTES},
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """A gateway came, went, or spoke of a listener."""
        return _from_listener(world, change, gatewayapi.GATEWAY)

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """At once for a new definition, at a pace for what is attached to it."""
        stored, gateway = world.view.stored(key), surroundings.ours(world, key.namespace, key.name)
        if stored is None or gateway is None:
            self._counted.pop(key, None)
            return Outcome()
        generation, counted = self._counted.get(key, (0, now))
        routes = sum(one.attached_routes for one in gateway.status.listeners)
        wait = max(RECOUNT_S, routes / ROUTES_COUNTED_PER_S) - (now - counted).total_seconds()
        if generation == gateway.metadata.generation and wait > 0:
            return Outcome(requeue_after_s=wait)
        self._counted[key] = (gateway.metadata.generation, now)
        listeners = _listeners(world, gateway, gateway.status.listeners, now)
        refused = unsupported.gateway(gateway)
        told = (refused, refused._replace(type=Aspect.PROGRAMMED)) if refused else _summary(gateway, listeners)
        merged = conditions.merge(gateway.status.conditions, told, gateway.metadata.generation, now)
        status = GatewayStatus(
            addresses=tuple(
                GatewayAddress(type="IPAddress", value=address)
                for address in surroundings.shared_addresses(world)[:ADDRESSES_MAX]
            ),
            attached_listener_sets=_attached_sets(world, gateway),
            listeners=listeners,
            conditions=merged,
        )
        again = None if _settled(listeners) else RECOUNT_S
        turns = (*_turns(gateway.status.listeners, listeners), Turn(gateway.status.conditions, merged))
        return Outcome(writing.status(stored, status), again, writing.transitions(key, *turns))


class ListenerSetController:
    """Keyed by ListenerSet."""

    name = "listenerset"

    def __init__(self, suffix: str) -> None:
        """`suffix` of the operator's names, under which some labels are reserved."""
        self._suffix = suffix

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Sets, their Gateways, claims and routes."""
        return {
            gatewayapi.LISTENER_SET: itself,
            gatewayapi.GATEWAY: _sets_of,
            kind_key(Claim): _set_of_claim,
            kind_key(Secret): _of_secret(ListenerSet),
            **{kind_key(model): _of_route("ListenerSet") for model in surroundings.ROUTES},
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """A gateway spoke of a listener."""
        return _from_listener(world, change, gatewayapi.LISTENER_SET)

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """As a Gateway, with the leave of its Gateway."""
        stored, found = world.view.stored(key), world.view.get(ListenerSet, key.namespace, key.name)
        gateway = surroundings.listener_set_parent(world, found) if found else None
        if stored is None or found is None or gateway is None:
            return Outcome()
        if claims.on_the_way(found, world, self._suffix, now):
            return Outcome(requeue_after_s=RECOUNT_S)
        listeners = _listeners(world, found, found.status.listeners, now)
        refused = attachment.set_allowed(found, gateway, surroundings.labels_of(world))
        told = (refused, refused._replace(type=Aspect.PROGRAMMED)) if refused else _summary(found, listeners)
        merged = conditions.merge(found.status.conditions, told, found.metadata.generation, now)
        status = ListenerSetStatus(listeners=listeners, conditions=merged)
        turns = (*_turns(found.status.listeners, listeners), Turn(found.status.conditions, merged))
        return Outcome(writing.status(stored, status), None, writing.transitions(key, *turns))


# ---- conclusions ----------------------------------------------------------------------------------------------------


def _listeners(
    world: World, owner: Gateway | ListenerSet, before: Sequence[ListenerStatus], now: datetime
) -> tuple[ListenerStatus, ...]:
    counts = _attached(world, owner)
    found: dict[str, ListenerStatus] = {}
    for slot in surroundings.judged_slots(world, owner):
        name = slot.listener.name
        held = next((one.conditions for one in before if one.name == name), ())
        kinds, every = attachment.supported_kinds(slot.listener)
        found[name] = ListenerStatus(
            name=name,
            attached_routes=counts.get(name, 0),
            supported_kinds=kinds,
            conditions=conditions.merge(held, _of_slot(world, owner, slot, every), owner.metadata.generation, now),
        )
    return tuple(found[one.name] for one in owner.spec.listeners if one.name in found)


def _of_slot(world: World, owner: Gateway | ListenerSet, slot: Slot, every_kind: bool) -> tuple[Conclusion, ...]:
    refs = _resolved(world, slot, every_kind)
    if slot.refusal is not None:
        clash = no(Aspect.CONFLICTED, Reason.NO_CONFLICTS)
        if slot.refusal.reason in _CONFLICTS:
            clash = slot.refusal._replace(type=Aspect.CONFLICTED, status=conditions.TRUE)
        return (slot.refusal, no(Aspect.PROGRAMMED, Reason.INVALID, slot.refusal.message), refs, clash)
    accepted = yes(Aspect.ACCEPTED, Reason.ACCEPTED, "The listener stands.")
    said = surroundings.said(
        world,
        slot.address,
        lambda address: entrykeys.listener(address, slot.listener.port, udp=slot.is_udp),
        [owner.metadata],
    )
    programmed = unknown(Aspect.PROGRAMMED, Reason.PENDING, "The gateways have not confirmed it yet.")
    if said.state is False:
        programmed = no(
            Aspect.PROGRAMMED, Reason.INVALID, f"The gateway could not bind it: {said.message} (DRTP-6011)."
        )
    elif refs.status is conditions.FALSE and slot.listener.protocol == "HTTPS":
        programmed = no(Aspect.PROGRAMMED, Reason.INVALID, refs.message)
    elif said.state:
        programmed = yes(Aspect.PROGRAMMED, Reason.PROGRAMMED, "Every gateway has it.")
    return (accepted, programmed, refs, no(Aspect.CONFLICTED, Reason.NO_CONFLICTS))


def _resolved(world: World, slot: Slot, every_kind: bool) -> Conclusion:
    if not every_kind:
        return no(
            Aspect.RESOLVED_REFS, Reason.INVALID_ROUTE_KINDS, "A kind in allowedRoutes is not one this listener takes."
        )
    for index, ref in enumerate(slot.listener.tls.certificate_refs if slot.listener.tls else ()):
        namespace = ref.namespace or slot.namespace
        if ref.group or (ref.kind or "Secret") != "Secret":
            return no(
                Aspect.RESOLVED_REFS,
                Reason.INVALID_CERTIFICATE_REF,
                f"{ref.kind} is no certificate; use a core Secret.",
            )
        origin = (gatewayapi.GROUP, slot.parent[0], slot.namespace)
        target = ("", "Secret", namespace, ref.name)
        if not attachment.granted(origin, target, surroundings.grants_in(world)):
            where = f"tls.certificateRefs[{index}] of listener {slot.listener.name}"
            return attachment.not_permitted(where, slot.parent[0])
        secret = world.view.get(Secret, namespace, ref.name)
        host = slot.listener.hostname or hostnames.ANY
        if secret is None or not certificates.serving_names(secret, (host,)):
            why = f"Secret {namespace}/{ref.name} is no certificate and key for {host}."
            return no(Aspect.RESOLVED_REFS, Reason.INVALID_CERTIFICATE_REF, why)
    return yes(Aspect.RESOLVED_REFS, Reason.RESOLVED_REFS, "Everything referred to exists.")


def _summary(owner: Gateway | ListenerSet, listeners: Sequence[ListenerStatus]) -> tuple[Conclusion, ...]:
    """The owner's own conditions from those of its listeners."""
    bad = [one.name for one in listeners if not conditions.holds(one.conditions, Aspect.ACCEPTED)]
    good = len(listeners) - len(bad)
    if good == 0 and owner.spec.listeners:
        accepted = no(Aspect.ACCEPTED, Reason.LISTENERS_NOT_VALID, f"No listener stands: {', '.join(bad)}.")
        return (accepted, no(Aspect.PROGRAMMED, Reason.INVALID, accepted.message))
    accepted = yes(Aspect.ACCEPTED, Reason.LISTENERS_NOT_VALID if bad else Reason.ACCEPTED, f"{good} listeners stand.")
    states = [conditions.find(one.conditions, Aspect.PROGRAMMED) for one in listeners if one.name not in bad]
    if all(state is not None and state.status is conditions.TRUE for state in states):
        return (accepted, yes(Aspect.PROGRAMMED, Reason.PROGRAMMED, "Every gateway has it."))
    failed = next((state for state in states if state is not None and state.status is conditions.FALSE), None)
    if failed is not None:
        return (accepted, no(Aspect.PROGRAMMED, Reason.INVALID, failed.message))
    return (accepted, unknown(Aspect.PROGRAMMED, Reason.PENDING, "The gateways have not confirmed it yet."))


def _turns(before: Sequence[ListenerStatus], after: Sequence[ListenerStatus]) -> Iterator[Turn]:
    """What is wrong with a listener, or was; its owner tells of what is well."""
    for one in after:
        held = next((known.conditions for known in before if known.name == one.name), ())
        faults = {condition.type for condition in (*held, *one.conditions) if advice.is_bad(condition)}
        told = [condition for condition in one.conditions if condition.type in faults]
        yield Turn(held, told, f"Listener {one.name}: ")


def _settled(listeners: Sequence[ListenerStatus]) -> bool:
    return all(
        state is None or state.status is not conditions.UNKNOWN
        for one in listeners
        for state in (conditions.find(one.conditions, Aspect.PROGRAMMED),)
    )


def _attached(world: World, owner: Gateway | ListenerSet) -> Mapping[str, int]:
    """How many routes each listener has."""
    counts: dict[str, int] = {}
    slots = surroundings.judged_slots(world, owner)
    parent = (owner.kind, owner.metadata.namespace, owner.metadata.name)
    labels_of, claim_of = surroundings.labels_of(world), surroundings.claim_of(world)
    for model in surroundings.ROUTES:
        for route in world.view.indexed(model, "parent", parent):
            names: set[str] = set()
            for ref in route.spec.parent_refs:
                if indexes.parent_key(ref, route.metadata.namespace) == parent:
                    verdict = attachment.attach(route, ref, slots, labels_of, claim_of)
                    names.update(binding.slot.listener.name for binding in verdict.bindings)
            for name in names:
                counts[name] = counts.get(name, 0) + 1
    return counts


def _attached_sets(world: World, gateway: Gateway) -> int:
    where = (gateway.metadata.namespace, gateway.metadata.name)
    found = world.view.indexed(ListenerSet, "gateway", where)
    labels_of = surroundings.labels_of(world)
    return sum(attachment.set_allowed(one, gateway, labels_of) is None for one in found)


# ---- which keys a change concerns -----------------------------------------------------------------------------------


def _every_gateway(world: World, _change: Change) -> Iterable[Key]:
    return world.view.keys(gatewayapi.GATEWAY)


def _of_gateway_edge(world: World, change: Change) -> Iterable[Key]:
    if any(stored.object["spec"].get("role") == EdgeRole.GATEWAY.value for stored in change.versions):
        yield from world.view.keys(gatewayapi.GATEWAY)


def _set_parent(world: World, change: Change) -> Iterable[Key]:
    for stored in change.versions:
        found = world.view.typed(ListenerSet, stored)
        if found is not None:
            yield from (Key(gatewayapi.GATEWAY, *where) for where in indexes.listener_set_gateway(found))


def _sets_of(world: World, change: Change) -> Iterable[Key]:
    generations = {stored.metadata.get("generation") for stored in change.versions}
    if change.before is None or change.after is None or len(generations) > 1:
        for one in world.view.indexed(ListenerSet, "gateway", (change.key.namespace, change.key.name)):
            yield Key(gatewayapi.LISTENER_SET, one.metadata.namespace, one.metadata.name)


def _set_of_claim(world: World, change: Change) -> Iterable[Key]:
    """Sets that stand on the claim, or wait for it."""
    return surroundings.of_claim(world, change.versions[0].object["spec"]["value"])[1]


def _of_secret(model: type[Gateway] | type[ListenerSet]) -> MapChange:
    def of(world: World, change: Change) -> Iterable[Key]:
        for one in world.view.indexed(model, "secret", (change.key.namespace, change.key.name)):
            yield Key(kind_key(model), one.metadata.namespace, one.metadata.name)

    return of


def _of_route(kind: str) -> MapChange:
    def of(world: World, change: Change) -> Iterable[Key]:
        model = next(one for one in surroundings.ROUTES if kind_key(one) == change.key.kind)
        for stored in change.versions:
            route = world.view.typed(model, stored)
            for parent in indexes.route_parents(route) if route else ():
                if parent[0] == kind:
                    yield Key(f"{kind}.{gatewayapi.GROUP}", parent[1], parent[2])

    return of


def _from_listener(world: World, change: EdgeChange, kind: str) -> Iterable[Key]:
    if change.edge.role is not EdgeRole.GATEWAY or not (change.part == "" or change.part.startswith("listener/")):
        return
    if change.part == "":
        yield from world.view.keys(kind)
        return
    port = entrykeys.listener_port(change.part)
    if kind == gatewayapi.GATEWAY:
        yield from world.view.keys(kind)
        return
    for gateway in world.view.list(Gateway):
        where = (gateway.metadata.namespace, gateway.metadata.name, port)
        for one in world.view.indexed(ListenerSet, "port", where):
            yield Key(kind, one.metadata.namespace, one.metadata.name)
