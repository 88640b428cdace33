"""Status of routes: how each parent of ours took them, and whether what they refer to exists."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime

from drtp.api import gatewayapi
from drtp.api.catalogue import DRTPApproval, DRTPPublication, DRTPSubscription
from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import ParentRef, ReferenceGrant, Route, RouteParentStatus, RouteStatus
from drtp.api.internal import Claim
from drtp.api.meta import Condition, Key
from drtp.api.reasons import Aspect, Reason
from drtp.controllers import claims, surroundings, writing
from drtp.controllers.runtime import Change, EdgeChange, MapChange, Outcome, World, itself, on_spec
from drtp.controllers.writing import Turn
from drtp.rules import attachment, conditions, indexes, unsupported
from drtp.store.view import kind_key

CLAIM_SOON_S = 1.0
"""A claim's arrival gives its route a turn; this is for one that went to somebody else meanwhile."""

_INSTEAD = "A rule with such a filter answers 500; what cannot be matched is left out."

_ROUTES = {kind_key(model): model for model in surroundings.ROUTES}


class RouteController:
    """Keyed by route, of every kind."""

    name = "routes"

    def __init__(self, suffix: str) -> None:
        """`suffix` of the operator's names, under which some labels are reserved."""
        self._suffix = suffix

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Routes, their parents and backends, grants, claims, and the catalogue."""
        return {
            **dict.fromkeys(_ROUTES, itself),
            gatewayapi.GATEWAY: on_spec(_of_parent),
            gatewayapi.LISTENER_SET: on_spec(_of_parent),
            kind_key(DRTPService): on_spec(_of_service),
            kind_key(Claim): on_spec(_of_claim),
            kind_key(ReferenceGrant): _of_grant,
            kind_key(DRTPPublication): _of_publication,
            kind_key(DRTPSubscription): _of_subscription,
            kind_key(DRTPApproval): _of_approval,
            "Namespace": _of_namespace,
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing: routes have no Programmed condition."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """One entry for each parent of ours; other controllers' entries stay as they are."""
        stored, route = world.view.stored(key), world.view.get(_ROUTES[key.kind], key.namespace, key.name)
        if stored is None or route is None:
            return Outcome()
        found = tuple(_verdicts(route, world))
        claimed = any(one.accepted.reason == Reason.HOSTNAME_CLAIMED for one in found)
        if claimed and claims.on_the_way(route, world, self._suffix, now):
            return Outcome(requeue_after_s=CLAIM_SOON_S)
        mine = tuple(_parent(route, verdict, world, now) for verdict in found)
        others = tuple(one for one in route.status.parents if one.controller_name != attachment.CONTROLLER_NAME)
        turns = (Turn(_held(route, one.parent_ref), one.conditions) for one in mine)
        return Outcome(
            writing.status(stored, RouteStatus(parents=(*others, *mine))), None, writing.transitions(key, *turns)
        )


def _verdicts(route: Route, world: World) -> Iterable[attachment.ParentVerdict]:
    """Those of parents that are ours; a GRPCRoute too: it is told that no listener takes it."""
    return surroundings.verdicts(world, route)


def _parent(route: Route, verdict: attachment.ParentVerdict, world: World, now: datetime) -> RouteParentStatus:
    references, services = surroundings.references(world), surroundings.service_of(world)
    refusals = (attachment.resolve(route, ref, references, services).refusal for ref in indexes.backend_refs(route))
    told = [verdict.accepted, attachment.resolved_refs(refusals)]
    bad = (*unsupported.rules(route), *unsupported.matches(route))
    if bad and verdict.accepted.status is conditions.TRUE:
        # Gateway API wants the sentence to begin like this.
        what = f"Dropped Rule: {', '.join(bad[:4])}, which is not carried out. {_INSTEAD}"
        told.append(conditions.yes(Aspect.PARTIALLY_INVALID, Reason.UNSUPPORTED_VALUE, what))
    return RouteParentStatus(
        parent_ref=verdict.ref,
        controller_name=attachment.CONTROLLER_NAME,
        conditions=conditions.merge(_held(route, verdict.ref), told, route.metadata.generation, now),
    )


def _held(route: Route, ref: ParentRef) -> tuple[Condition, ...]:
    """What was concluded about a parent before."""
    ours = (one for one in route.status.parents if one.controller_name == attachment.CONTROLLER_NAME)
    return next((one.conditions for one in ours if one.parent_ref == ref), ())


# ---- which routes a change concerns ---------------------------------------------------------------------------------


def _in(world: World, namespace: str) -> Iterable[Key]:
    """Every route of a namespace."""
    for kind in _ROUTES:
        yield from world.view.keys(kind, namespace)


def _found(world: World, index: str, value: Hashable) -> Iterable[Key]:
    """Routes of every kind for which the index has `value`."""
    for kind, model in _ROUTES.items():
        for route in world.view.indexed(model, index, value):
            yield Key(kind, route.metadata.namespace, route.metadata.name)


def _changed_spec(change: Change) -> bool:
    generations = {stored.metadata.get("generation") for stored in change.versions}
    return change.before is None or change.after is None or len(generations) > 1


def _of_parent(world: World, change: Change) -> Iterable[Key]:
    if not _changed_spec(change):
        return
    yield from _found(world, "parent", (change.key.kind.partition(".")[0], change.key.namespace, change.key.name))


def _of_service(world: World, change: Change) -> Iterable[Key]:
    if change.before is not None and change.after is not None:
        return
    yield from _found(world, "backend", (change.key.namespace, change.key.name))


def _of_claim(world: World, change: Change) -> Iterable[Key]:
    """Routes that stand on the claim, or wait for it."""
    return surroundings.of_claim(world, change.versions[0].object["spec"]["value"])[0]


def _of_namespace(world: World, change: Change) -> Iterable[Key]:
    """Labels decide who may attach."""
    labels = [stored.labels for stored in change.versions]
    if len(labels) < 2 or labels[0] != labels[1]:
        yield from _in(world, change.key.name)


def _of_grant(world: World, change: Change) -> Iterable[Key]:
    """Routes of the namespaces that the grant speaks of."""
    for stored in change.versions:
        grant = world.view.typed(ReferenceGrant, stored)
        for one in grant.spec.from_ if grant else ():
            yield from _in(world, one.namespace)


def _of_publication(world: World, change: Change) -> Iterable[Key]:
    """Routes to the service that is offered."""
    for stored in change.versions:
        yield from _found(world, "backend", (change.key.namespace, stored.object["spec"]["serviceRef"]["name"]))


def _of_subscription(world: World, change: Change) -> Iterable[Key]:
    """Routes of the subscriber."""
    yield from _in(world, change.key.namespace)


def _of_approval(world: World, change: Change) -> Iterable[Key]:
    for subscriber in {stored.object["spec"]["subscriber"]["namespace"] for stored in change.versions}:
        yield from _in(world, subscriber)
