"""The catalogue's two controllers: a publication's status, and each subscription joined with its approval.

A subscription's turn writes both sides in one transaction: its own status, and the publisher's record of it, which it
makes when it first stands and removes when the subscription is gone. Neither side's people write in the other's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from drtp.api.catalogue import (
    Decision,
    DRTPApproval,
    DRTPApprovalSpec,
    DRTPApprovalStatus,
    DRTPPublication,
    DRTPPublicationStatus,
    DRTPSubscription,
    DRTPSubscriptionStatus,
    Subscriber,
    SubscriptionState,
)
from drtp.api.core import Namespace
from drtp.api.drtp import API_VERSION, DRTPService
from drtp.api.meta import Condition, Key, LocalRef
from drtp.api.reasons import Aspect
from drtp.controllers import writing
from drtp.controllers.runtime import (
    Change,
    Create,
    Delete,
    EdgeChange,
    Emit,
    EventKind,
    MapChange,
    Outcome,
    UpdateStatus,
    World,
    Write,
    itself,
    on_spec,
)
from drtp.controllers.writing import Turn
from drtp.rules import catalogue, catalogue_indexes, conditions
from drtp.rules.catalogue import Standing
from drtp.rules.catalogue_indexes import offered_in, publication_of
from drtp.rules.conditions import Conclusion
from drtp.rules.indexes import Name
from drtp.store.protocol import Stored
from drtp.store.view import View, kind_key

PUBLICATION = kind_key(DRTPPublication)
SUBSCRIPTION = kind_key(DRTPSubscription)
APPROVAL = kind_key(DRTPApproval)
KINDS = tuple(kind_key(model) for model in catalogue_indexes.KINDS)

WAKE_MAX_S = 3600.0
"""A clock that is set, or a machine that slept, delays an end by no more than this."""


def declare(view: View) -> None:
    """Everything of the catalogue is looked up by index."""
    catalogue_indexes.declare(view)


# ---- publications ----------------------------------------------------------------------------------------------------


class PublicationController:
    """Keyed by DRTPPublication."""

    name = "publication"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Publications, their services, and what became of subscriptions: those are counted."""
        return {
            PUBLICATION: itself,
            kind_key(DRTPService): _offers_of_service,
            APPROVAL: _offers_of_approval,
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Whether it is offered, whether subscribers would be served, and how many there are."""
        stored, publication = world.view.stored(key), world.view.get(DRTPPublication, key.namespace, key.name)
        if stored is None or publication is None:
            return Outcome()
        service = catalogue.service_of(world.view, publication)
        said = (catalogue.accepted(publication, service), catalogue.ready(publication, service))
        held, generation = publication.status.conditions, publication.metadata.generation
        merged = conditions.merge(held, said, generation, now)
        status = DRTPPublicationStatus(
            subscribers=_count(world, key, SubscriptionState.APPROVED),
            pending=_count(world, key, SubscriptionState.PENDING),
            observed_generation=generation,
            conditions=merged,
        )
        return Outcome(writing.status(stored, status), None, writing.transitions(key, Turn(held, merged)))


def _count(world: World, key: Key, state: SubscriptionState) -> int:
    return world.view.count(DRTPApproval, "state", (key.namespace, key.name, state))


def _offers_of_service(world: World, change: Change) -> Iterable[Key]:
    """The publications of a service, whenever what they tell of it is another."""
    before, after = (_told_of(world, stored) for stored in (change.before, change.after))
    if before != after:
        for one in world.view.indexed(DRTPPublication, "service", (change.key.namespace, change.key.name)):
            yield Key(PUBLICATION, one.metadata.namespace, one.metadata.name)


def _told_of(world: World, stored: Stored | None) -> object:
    service = world.view.typed(DRTPService, stored) if stored is not None else None
    if service is None:
        return None
    ready = conditions.find(service.status.conditions, Aspect.READY)
    exposed = service.spec.expose is not None
    return ready and (ready.status, ready.reason), exposed, service.spec.protocol, service.status.addresses


def _offers_of_approval(world: World, change: Change) -> Iterable[Key]:
    for stored in change.versions:
        approval = world.view.typed(DRTPApproval, stored)
        if approval is not None:
            yield Key(PUBLICATION, *offered_in(approval))


# ---- subscriptions ---------------------------------------------------------------------------------------------------


class SubscriptionController:
    """Keyed by DRTPSubscription, whether it is there or gone."""

    name = "subscription"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Subscriptions, and everything that they stand on."""
        return {
            SUBSCRIPTION: itself,
            APPROVAL: _of_approval,
            PUBLICATION: on_spec(_of_publication),
            kind_key(Namespace): on_spec(_of_namespace),
            kind_key(DRTPService): _of_service,
        }

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Conclude where it stands, and write it on both sides."""
        stored, subscription = world.view.stored(key), world.view.get(DRTPSubscription, key.namespace, key.name)
        if stored is None or "deletionTimestamp" in stored.metadata:
            return Outcome(_cleared(world, key, keep=None))
        if subscription is None:
            return Outcome()  # it cannot be read: who may connect is decided from what can, and nothing is taken away
        stands = catalogue.standing(world.view, subscription, now)
        own_writes, own_events = _own_side(world, stored, subscription, stands, now)
        other_writes, other_events = _other_side(world, key, subscription, stands, now)
        wake = None
        if stands.until is not None:
            wake = min(max(0.0, (stands.until - now).total_seconds()), WAKE_MAX_S)
        return Outcome((*other_writes, *own_writes), wake, (*own_events, *other_events))


_Side = tuple[tuple[Write, ...], tuple[Emit, ...]]


def _own_side(world: World, stored: Stored, subscription: DRTPSubscription, stands: Standing, now: datetime) -> _Side:
    """The subscriber's status. Of the publication no more than its state gives a right to."""
    held = subscription.status
    merged = conditions.merge(held.conditions, _conclusions(world, stands), subscription.metadata.generation, now)
    status = DRTPSubscriptionStatus(
        state=stands.state,
        since=_since(held.state, held.since, stands, now),
        expires=stands.until,
        observed_generation=subscription.metadata.generation,
        conditions=merged,
        **_offered(world, stands),
    )
    told = _transitions(stored.key, held.conditions, merged)
    return writing.status(stored, status), told


def _offered(world: World, stands: Standing) -> dict[str, Any]:
    publication = stands.publication
    if publication is None or stands.state not in {SubscriptionState.APPROVED, SubscriptionState.PENDING}:
        return {}
    service = catalogue.service_of(world.view, publication)
    told: dict[str, Any] = {
        "title": publication.spec.title,
        "organization": catalogue.organization_of(world.view, publication.metadata.namespace) or None,
        "protocol": service.spec.protocol if service is not None else None,
    }
    if stands.state is SubscriptionState.APPROVED:
        told["connect"] = f"{publication.metadata.namespace}/{publication.spec.service_ref.name}"
        told["addresses"] = catalogue.addresses_of(publication, service)
    return told


def _conclusions(world: World, stands: Standing) -> tuple[Conclusion, Conclusion]:
    if stands.state is not SubscriptionState.APPROVED or stands.publication is None:
        return stands.approved, catalogue.not_approved()
    return stands.approved, catalogue.ready(stands.publication, catalogue.service_of(world.view, stands.publication))


def _since(held: SubscriptionState | None, since: datetime | None, stands: Standing, now: datetime) -> datetime:
    return since if since is not None and held is stands.state else now.replace(microsecond=0)


def _transitions(key: Key, before: Iterable[Condition], after: Iterable[Condition]) -> tuple[Emit, ...]:
    """Of being approved alone: health has the service's own events, and many subscribers."""
    was, now_is = ([one for one in side if one.type == Aspect.APPROVED] for side in (before, after))
    return writing.transitions(key, Turn(was, now_is))


# ---- the publisher's side --------------------------------------------------------------------------------------------


def _other_side(world: World, key: Key, subscription: DRTPSubscription, stands: Standing, now: datetime) -> _Side:
    """The publisher's record: made when a subscription first stands, taken away when it stands no more."""
    approval = stands.approval
    if stands.state is SubscriptionState.NOT_FOUND:
        return _cleared(world, key, keep=None), ()
    if approval is None:
        if _is_unreadable(world, publication_of(subscription)):
            return (), ()
        if stands.publication is None or catalogue.is_beyond(stands):
            return _cleared(world, key, keep=None), ()
        return _made(world, key, subscription, stands, now)
    name = Key(APPROVAL, approval.metadata.namespace, approval.metadata.name)
    stored = world.view.stored(name)
    if stored is None:
        return (), ()
    held = approval.status
    status = _record(world, subscription, stands, held=held, generation=approval.metadata.generation, now=now)
    writes = (*_cleared(world, key, keep=approval.metadata.uid), *writing.status(stored, status))
    return writes, _transitions(name, held.conditions, status.conditions)


def _is_unreadable(world: World, publication: Name) -> bool:
    """Whether it is stored and cannot be read: nobody gets in by it, and no decision is lost over it."""
    there = world.view.stored(Key(PUBLICATION, *publication)) is not None
    return there and world.view.get(DRTPPublication, *publication) is None


def _made(world: World, key: Key, subscription: DRTPSubscription, stands: Standing, now: datetime) -> _Side:
    publication = stands.publication
    if publication is None:
        return (), ()
    where = Key(APPROVAL, publication.metadata.namespace, approval_name(publication, subscription))
    subscriber = Subscriber(key.namespace, key.name, subscription.metadata.uid)
    spec = DRTPApprovalSpec(LocalRef(publication.metadata.name), subscriber, Decision.PENDING)
    head = {"apiVersion": API_VERSION, "kind": "DRTPApproval"}
    metadata = writing.owned_metadata(publication.metadata, API_VERSION, "DRTPPublication", where.name)
    body = {**head, "metadata": metadata, "spec": writing.plain(spec) | {"decision": Decision.PENDING.value}}
    status = _record(world, subscription, stands, held=DRTPApprovalStatus(), generation=1, now=now)
    place = {"name": where.name, "namespace": where.namespace}
    writes = (Create(body), UpdateStatus({**head, "metadata": place, "status": writing.plain(status)}))
    why = f": {subscription.spec.purpose}" if subscription.spec.purpose else ""
    offer = Key(PUBLICATION, publication.metadata.namespace, publication.metadata.name)
    asked = f"Project {key.namespace} has subscribed as {key.name}{why}"
    return (*_cleared(world, key, keep=None), *writes), (
        Emit(offer, EventKind.NORMAL, "Subscribed", asked),
        *_transitions(where, (), status.conditions),
    )


def approval_name(publication: DRTPPublication, subscription: DRTPSubscription) -> str:
    """The same for the same two, so that a turn that comes again makes no second one."""
    digest = hashlib.sha256(f"{publication.metadata.uid}/{subscription.metadata.uid}".encode()).hexdigest()[:12]
    return f"{publication.metadata.name[:200].rstrip('.-')}-{digest}"


def _record(
    world: World,
    subscription: DRTPSubscription,
    stands: Standing,
    *,
    held: DRTPApprovalStatus,
    generation: int,
    now: datetime,
) -> DRTPApprovalStatus:
    """`generation`: of the approval."""
    # The subscriber's own status is the memory that both sides' `since` comes from.
    own = subscription.status
    return DRTPApprovalStatus(
        state=stands.state,
        since=_since(own.state, own.since, stands, now),
        expires=stands.until,
        organization=catalogue.organization_of(world.view, subscription.metadata.namespace) or None,
        purpose=subscription.spec.purpose,
        requested=subscription.metadata.creation_timestamp,
        observed_generation=generation,
        conditions=conditions.merge(held.conditions, _conclusions(world, stands), generation, now),
    )


def _cleared(world: World, key: Key, keep: str | None) -> tuple[Write, ...]:
    """Take away records of this name that are of no subscription any more; a `no` stays, for the list's sake."""
    writes: list[Write] = []
    for one in world.view.indexed(DRTPApproval, "subscriber", (key.namespace, key.name)):
        if one.metadata.uid != keep and one.spec.decision not in catalogue.SETTLED:
            writes.append(Delete(Key(APPROVAL, one.metadata.namespace, one.metadata.name), uid=one.metadata.uid))
    return tuple(writes)


# ---- which subscriptions a change concerns ---------------------------------------------------------------------------


def _key_of(subscription: DRTPSubscription) -> Key:
    return Key(SUBSCRIPTION, subscription.metadata.namespace, subscription.metadata.name)


def _beside(world: World, publication: Name, project: str) -> Iterable[Key]:
    """The subscriptions of one project to one publication: a refusal bears on all, and one makes room for another."""
    for one in world.view.indexed(DRTPSubscription, "from", (*publication, project)):
        yield _key_of(one)


def _of_approval(world: World, change: Change) -> Iterable[Key]:
    for stored in change.versions:
        approval = world.view.typed(DRTPApproval, stored)
        if approval is not None:
            subscriber = approval.spec.subscriber
            yield Key(SUBSCRIPTION, subscriber.namespace, subscriber.name)
            if approval.spec.decision in catalogue.SETTLED or change.after is None:
                yield from _beside(world, offered_in(approval), subscriber.namespace)


def _subscribed(world: World, namespace: str, name: str) -> Iterable[Key]:
    for one in world.view.indexed(DRTPSubscription, "publication", (namespace, name)):
        yield _key_of(one)


def _of_publication(world: World, change: Change) -> Iterable[Key]:
    yield from _subscribed(world, change.key.namespace, change.key.name)


def _of_namespace(world: World, change: Change) -> Iterable[Key]:
    """Whose organisation is another: what it subscribes to, and who subscribes to what it offers."""
    yield from world.view.keys(SUBSCRIPTION, change.key.name)
    for one in world.view.keys(PUBLICATION, change.key.name):
        yield from _subscribed(world, one.namespace, one.name)


def _of_service(world: World, change: Change) -> Iterable[Key]:
    for offer in _offers_of_service(world, change):
        yield from _subscribed(world, offer.namespace, offer.name)
