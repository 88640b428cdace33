"""Keeps what `spec.expose` stands for: claims first, then the objects; and takes away what is no longer wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import GATEWAY
from drtp.api.internal import Claim
from drtp.api.meta import Key
from drtp.controllers import exposing, writing
from drtp.controllers.runtime import (
    Change,
    Create,
    Delete,
    EdgeChange,
    MapChange,
    Outcome,
    Update,
    World,
    Write,
    owners,
)
from drtp.rules import attachment, vending
from drtp.rules.attachment import ADDRESS
from drtp.store.protocol import Object, key_of
from drtp.store.view import View, kind_key

SERVICE = kind_key(DRTPService)


ASK_AGAIN_S = 60.0
"""What is taken may become free without any change of the service."""


def declare(view: View) -> None:
    """The indexes of services: by the Gateway they are exposed on, and by what they ask for by name."""
    view.add_index(DRTPService, "gateway", _gateway)
    view.add_index(DRTPService, "asks", _asks)


def _gateway(service: DRTPService) -> Iterable[tuple[str, str]]:
    if service.spec.expose is not None:
        yield exposing.gateway_name(service)


def _asks(service: DRTPService) -> Iterable[str]:
    """What a claim's value, or a hostname's first label, is compared with."""
    expose = service.spec.expose
    if expose is not None and expose.hostname:
        yield expose.hostname.lower().rstrip(".")
    if expose is not None and expose.port:
        yield attachment.port_value(expose.port)


class ExposeController:
    """Keyed by DRTPService."""

    name = "expose"

    def __init__(self, suffix: str) -> None:
        """`suffix` of vended hostnames."""
        self._suffix = suffix

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Services, what is made for them, their claims, and the Gateways they are on."""
        made = {kind: owners(SERVICE) for kind in exposing.OWNED_KINDS}
        return {SERVICE: _of_spec, kind_key(Claim): of_claim, GATEWAY: _of_gateway, **made}

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing: what is wanted does not depend on what is seen."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """One transaction: take the claims, write the objects, delete and release the rest."""
        service = world.view.get(DRTPService, key.namespace, key.name)
        if service is None:
            return Outcome()
        wanted = exposing.wanted(service, world, self._suffix, now)
        keep = [vending.claim_name(kind, value) for kind, value in wanted.claims]
        if wanted.refusal is not None:
            # What stood before stays reserved, but not reachable: the definition now says something else.
            keep = [one.metadata.name for one in exposing.held_claims(service, world)]
        writes: list[Write] = []
        for kind, value in wanted.claims:
            writes.extend(exposing.claim_write(kind, value, service, world, now))
        for body in wanted.objects:
            writes.extend(_put(body, service, world))
        names = {key_of(body) for body in wanted.objects}
        for kind in exposing.OWNED_KINDS:
            made = Key(kind, key.namespace, exposing.object_name(service))
            stored = world.view.stored(made)
            if stored is not None and made not in names and writing.owned_by(stored.object, service.metadata.uid):
                writes.append(Delete(made, uid=stored.uid))
        writes.extend(exposing.releases(exposing.held_claims(service, world), keep, world, now))
        return Outcome(tuple(writes), requeue_after_s=ASK_AGAIN_S if wanted.refusal else None)


def _put(body: Object, service: DRTPService, world: World) -> Iterable[Write]:
    """Create, or bring back to what it should be. An object of this name that somebody else made is left alone."""
    stored = world.view.stored(key_of(body))
    if stored is None:
        return (Create(body),)
    if not writing.owned_by(stored.object, service.metadata.uid):
        return ()
    held = stored.object
    annotations: dict[str, str] = body["metadata"].get("annotations") or {}
    before: dict[str, str] = held["metadata"].get("annotations") or {}
    if held.get("spec") == body["spec"] and before.get(ADDRESS) == annotations.get(ADDRESS):
        return ()
    others = {name: value for name, value in before.items() if name != ADDRESS}
    metadata: dict[str, Any] = {**held["metadata"], "annotations": others | annotations}
    return (Update({**held, "metadata": metadata, "spec": body["spec"]}),)


def _of_spec(_world: World, change: Change) -> Iterable[Key]:
    """Status is of no concern here."""
    generations = {stored.metadata.get("generation") for stored in change.versions}
    deleting = {"deletionTimestamp" in stored.metadata for stored in change.versions}
    if change.before is None or change.after is None or len(generations) > 1 or len(deleting) > 1:
        yield change.key


def of_claim(world: World, change: Change) -> Iterable[Key]:
    """The service that holds a claim, or held it; and once it is let go, those that may have waited for it."""
    for stored in change.versions:
        owner = world.view.by_uid(stored.object["spec"].get("ownerUid") or "")
        if owner is not None and owner.key.kind == SERVICE:
            yield owner.key
    if change.before is None or (change.after is not None and "releasedAt" not in change.after.object["spec"]):
        return
    value: str = change.before.object["spec"]["value"]
    for asked in (value, value.partition(".")[0]):
        for one in world.view.indexed(DRTPService, "asks", asked):
            yield Key(SERVICE, one.metadata.namespace, one.metadata.name)


def _of_gateway(world: World, change: Change) -> Iterable[Key]:
    generations = {stored.metadata.get("generation") for stored in change.versions}
    if change.before is None or change.after is None or len(generations) > 1:
        for one in world.view.indexed(DRTPService, "gateway", (change.key.namespace, change.key.name)):
            yield Key(SERVICE, one.metadata.namespace, one.metadata.name)
