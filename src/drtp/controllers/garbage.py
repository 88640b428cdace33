"""What its owners have left goes after them: ownerReferences, as Kubernetes' garbage collector treats them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from drtp.api import gatewayapi
from drtp.api.catalogue import DRTPApproval, DRTPPublication, DRTPSubscription
from drtp.api.core import Secret
from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection, DRTPServer, DRTPService
from drtp.api.meta import Key
from drtp.controllers.runtime import Change, Delete, EdgeChange, MapChange, Outcome, World
from drtp.store.protocol import kind_of
from drtp.store.view import View, kind_key

_MODELS = (
    Secret,
    DRTPAccessPolicy,
    DRTPApproval,
    DRTPConnection,
    DRTPPublication,
    DRTPServer,
    DRTPService,
    DRTPSubscription,
    gatewayapi.Gateway,
    gatewayapi.GRPCRoute,
    gatewayapi.HTTPRoute,
    gatewayapi.ListenerSet,
    gatewayapi.ReferenceGrant,
    gatewayapi.TCPRoute,
    gatewayapi.TLSRoute,
    gatewayapi.UDPRoute,
)
KINDS: tuple[str, ...] = tuple(kind_key(model) for model in _MODELS)


def declare(view: View) -> None:
    """Dependents by their owners' uids."""
    for model in _MODELS:
        view.add_index(model, "dependents", _owners)


def _owners(found: Any) -> Iterable[str]:
    return (owner.uid for owner in found.metadata.owner_references)


class GarbageController:
    """Keyed by dependents. Where the cluster collects garbage itself, this one is not run."""

    name = "garbage"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Every kind that owns or is owned."""
        return dict.fromkeys(KINDS, _of)

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Delete what has owners, none of which is there any more. An owner of a kind not followed here counts.

        One in another namespace does not: what stays would tell whether another tenant's object lives.
        """
        stored = world.view.stored(key)
        if stored is None or "deletionTimestamp" in stored.metadata:
            return Outcome()
        references: list[dict[str, Any]] = stored.metadata.get("ownerReferences") or []
        if not references or any(_lives(owner, key.namespace, world) for owner in references):
            return Outcome()
        return Outcome((Delete(key, uid=stored.uid),))


def _lives(owner: Mapping[str, Any], namespace: str, world: World) -> bool:
    if kind_of(owner["apiVersion"], owner["kind"]) not in KINDS:
        return True
    found = world.view.by_uid(owner["uid"])
    return found is not None and found.key.namespace in {"", namespace}


def _of(world: World, change: Change) -> Iterable[Key]:
    if change.after is not None and change.after.metadata.get("ownerReferences"):
        yield change.key
    if change.after is None and change.before is not None:
        for model in _MODELS:
            for found in world.view.indexed(model, "dependents", change.before.uid):
                yield Key(kind_key(model), found.metadata.namespace, found.metadata.name)
