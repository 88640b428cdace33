"""Claims: hand-written routes and listeners get theirs, owners that are gone let go, quarantine ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from drtp.api import gatewayapi
from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import ListenerSet, Route
from drtp.api.internal import Claim, ClaimKind
from drtp.api.meta import Key
from drtp.controllers import exposing, surroundings
from drtp.controllers.runtime import Change, Delete, EdgeChange, MapChange, Outcome, World, Write
from drtp.rules import attachment, hostnames, indexes, vending
from drtp.store.view import kind_key

CLAIM = kind_key(Claim)
_ROUTES = {kind_key(model): model for model in surroundings.ROUTES}
KINDS = (CLAIM, *_ROUTES, gatewayapi.LISTENER_SET, gatewayapi.GATEWAY, gatewayapi.GATEWAY_CLASS)


Want = tuple[ClaimKind, str]
"""What to hold: kind and value."""


class ClaimController:
    """Keyed by Claim, by route and by ListenerSet."""

    name = "claims"

    def __init__(self, suffix: str) -> None:
        """`suffix` of the operator's names, under which some labels are reserved."""
        self._suffix = suffix

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Claims, whatever may hold one, and the listeners that routes attach to."""
        return {
            CLAIM: _of_claim,
            kind_key(DRTPService): _of_owner,
            gatewayapi.LISTENER_SET: _of_listeners,
            gatewayapi.GATEWAY: _of_listeners,
            **dict.fromkeys(_ROUTES, _of_owner),
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """By kind of key."""
        if key.kind == CLAIM:
            return _claim(key, world, now)
        model = ListenerSet if key.kind == gatewayapi.LISTENER_SET else _ROUTES[key.kind]
        owner = world.view.get(model, key.namespace, key.name)
        return _keep(owner, wants(owner, world, self._suffix), world, now) if owner else Outcome()


def wants(owner: Route | ListenerSet, world: World, suffix: str) -> list[Want]:
    """What a hand-written object has to hold; names that nobody gets are not among it."""
    found = _listener_set_wants(owner, world) if isinstance(owner, ListenerSet) else _route_wants(owner, world)
    return [one for one in found if one[0] is not ClaimKind.HOSTNAME or not vending.reserved(one[1], suffix)]


def on_the_way(owner: Route | ListenerSet, world: World, suffix: str, now: datetime) -> bool:
    """Whether a claim is about to be made for it: to judge it before would be to blame it for a moment."""
    claim_of = surroundings.claim_of(world)
    return any(
        not attachment.owns(claim_of(kind, value), owner.metadata.namespace)
        and exposing.available(kind, value, owner, world, now)
        for kind, value in wants(owner, world, suffix)
    )


def _claim(key: Key, world: World, now: datetime) -> Outcome:
    """Release where the owner is gone; delete when quarantine is over."""
    claim, stored = world.view.get(Claim, "", key.name), world.view.stored(key)
    if claim is None or stored is None:
        return Outcome()
    if claim.spec.released_at is not None:
        if vending.over(claim, now):
            return Outcome((Delete(key, resource_version=claim.metadata.resource_version),))
        return Outcome(requeue_after_s=(claim.spec.released_at + vending.QUARANTINE - now).total_seconds() + 1)
    if claim.spec.owner_uid and world.view.by_uid(claim.spec.owner_uid) is None:
        return Outcome(tuple(exposing.releases([claim], (), world, now)))
    return Outcome()


def _keep(owner: Route | ListenerSet, wanted: Iterable[Want], world: World, now: datetime) -> Outcome:
    """Take what may be had, and let go of what is not wanted any more. A service's own claims serve its routes too."""
    writes: list[Write] = []
    keep: list[str] = []
    claim_of = surroundings.claim_of(world)
    for kind, value in wanted:
        keep.append(vending.claim_name(kind, value))
        held = attachment.owns(claim_of(kind, value), owner.metadata.namespace)
        if not held and exposing.available(kind, value, owner, world, now):
            writes.extend(exposing.claim_write(kind, value, owner, world, now))
    found = [one for one in world.view.indexed(Claim, "owner", owner.metadata.uid) if one.spec.released_at is None]
    writes.extend(exposing.releases(found, keep, world, now))
    return Outcome(tuple(writes))


def _route_wants(route: Route, world: World) -> list[Want]:
    found: dict[str, None] = {}
    for ref in route.spec.parent_refs:
        parent = indexes.parent_key(ref, route.metadata.namespace)
        slots = surroundings.parent_slots(world, parent) if parent else ()
        aimed = [
            slot
            for slot in slots
            if (ref.section_name in {None, slot.listener.name}) and (ref.port in {None, slot.listener.port})
        ]
        wanted = attachment.wanted_hostnames(route, aimed, surroundings.labels_of(world))
        found.update(dict.fromkeys(wanted))
    return [(ClaimKind.HOSTNAME, host) for host in found]


def _listener_set_wants(owner: ListenerSet, world: World) -> list[Want]:
    """Ports of the pool, and hostnames, where the Gateway lets the set in. Whole addresses go by `spec.expose` only."""
    gateway = surroundings.listener_set_parent(world, owner)
    if gateway is None or owner.metadata.namespace == gateway.metadata.namespace:
        return []
    if attachment.set_allowed(owner, gateway, surroundings.labels_of(world)) is not None:
        return []
    found: list[Want] = []
    shared = attachment.ADDRESS not in owner.metadata.annotations
    for one in owner.spec.listeners:
        if one.protocol not in attachment.SUPPORTED_KINDS:
            continue
        if shared and not attachment.shares_port(one, gateway) and vending.in_pool(one.port):
            found.append((ClaimKind.PORT, attachment.port_value(one.port)))
        if one.protocol not in attachment.BY_PORT and one.hostname and not _over_the_operators(one.hostname, gateway):
            found.append((ClaimKind.HOSTNAME, one.hostname))
    return found


def _over_the_operators(host: str, gateway: gatewayapi.Gateway) -> bool:
    """A wildcard over all that a listener of the operator offers: whoever held it would keep everybody else out."""
    offered = (
        one.hostname or hostnames.ANY for one in gateway.spec.listeners if one.protocol not in attachment.BY_PORT
    )
    return hostnames.is_wildcard(host) and any(hostnames.covers(host, name) for name in offered)


# ---- which keys a change concerns -----------------------------------------------------------------------------------


def _of_claim(world: World, change: Change) -> Iterable[Key]:
    """The claim; routes and sets that hold it; and when it is let go, those that may have waited for it."""
    yield change.key
    for stored in change.versions:
        owner = world.view.by_uid(stored.object["spec"].get("ownerUid") or "")
        if owner is not None and owner.key.kind in {*_ROUTES, gatewayapi.LISTENER_SET}:
            yield owner.key
    if change.before is None or (change.after is not None and "releasedAt" not in change.after.object["spec"]):
        return
    for keys in surroundings.of_claim(world, change.before.object["spec"]["value"]):
        yield from keys


def _of_owner(world: World, change: Change) -> Iterable[Key]:
    """The route itself; and what an object that is gone has held."""
    if change.key.kind != kind_key(DRTPService):
        yield change.key
    if change.after is None and change.before is not None:
        for claim in world.view.indexed(Claim, "owner", change.before.uid):
            yield Key(CLAIM, "", claim.metadata.name)


def _of_listeners(world: World, change: Change) -> Iterable[Key]:
    generations = {stored.metadata.get("generation") for stored in change.versions}
    if change.before is not None and change.after is not None and len(generations) == 1:
        return
    if change.key.kind == gatewayapi.LISTENER_SET:
        yield from _of_owner(world, change)
    parent = (change.key.kind.partition(".")[0], change.key.namespace, change.key.name)
    for kind, model in _ROUTES.items():
        for route in world.view.indexed(model, "parent", parent):
            yield Key(kind, route.metadata.namespace, route.metadata.name)
