"""The life of namespaces: they are made with a phase, and go away after everything in them."""

from __future__ import annotations

import asyncio
from functools import cache

from drtp.api.jsonvalue import JsonObject
from drtp.api.kinds import KindInfo
from drtp.api.meta import Key
from drtp.api.registry import REGISTRY
from drtp.apiserver.failures import Failure
from drtp.kit import errors
from drtp.kit.clock import Clock
from drtp.kit.observe import logger
from drtp.store.protocol import Create, Delete, Object, Store, Stored, Update, UpdateStatus, Write

KIND = "Namespace"
FINALIZER = "datumapis.com/contents"
"""Holds a namespace until it is empty."""

PROTECTED = frozenset({"default", "datum-system"})
"""Made at every start; deleting them would take the operator's own gateway away."""

RETRY_S = 2.0
"""Contents with finalizers go when their controllers let them; look again."""

log = logger("namespaces")


def creation(admitted: Object) -> list[Write]:
    """A new namespace, active from the start."""
    metadata = dict(admitted["metadata"])
    labels = dict(metadata.get("labels") or {})
    if metadata.get("name"):
        labels["kubernetes.io/metadata.name"] = metadata["name"]
    metadata["labels"] = labels
    metadata["finalizers"] = sorted({*(metadata.get("finalizers") or ()), FINALIZER})
    made = {**admitted, "metadata": metadata, "spec": {"finalizers": ["kubernetes"]}}
    if not metadata.get("name"):
        return [Create(made)]  # the store has yet to name it; its phase is computed where it is shown
    status = {"apiVersion": "v1", "kind": KIND, "metadata": {"name": metadata["name"]}, "status": {"phase": "Active"}}
    return [Create(made), UpdateStatus(status)]


def deletion(before: Stored, delete: Write) -> list[Write]:
    """Mark a namespace as going; `Janitor` does the rest. Raises: Failure 403."""
    name = before.key.name
    if name in PROTECTED:
        raise Failure(403, "DRTP-1012", f'namespaces "{name}" is forbidden: this namespace may not be deleted')
    metadata = before.metadata
    if "deletionTimestamp" in metadata:
        return [delete]
    held = sorted({*(metadata.get("finalizers") or ()), FINALIZER})
    status: JsonObject = {
        "apiVersion": "v1",
        "kind": KIND,
        "metadata": {"name": name},
        "status": {**(before.object.get("status") or {}), "phase": "Terminating"},
    }
    return [Update(before.object | {"metadata": metadata | {"finalizers": held}}), _loose(delete), UpdateStatus(status)]


def _loose(delete: Write) -> Write:
    """The same deletion without a revision: the finalizer before it has just changed that."""
    return delete._replace(resource_version=None) if isinstance(delete, Delete) else delete


@cache
def contents() -> tuple[KindInfo, ...]:
    """Every kind that lives in namespaces. Events last: others' deletion makes some."""
    kinds = [info for info in REGISTRY if info.namespaced and not info.computed]
    return tuple(sorted(kinds, key=lambda info: info.kind == "Event"))


class Janitor:
    """Empties namespaces that are going away, and then lets them go."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled: watch namespaces, from a whole look at them after every break."""
        while True:
            try:
                listing = await self._store.list(KIND)
                watch = self._store.watch(KIND, since=listing.revision)
                going = {stored.key.name for stored in listing.items if "deletionTimestamp" in stored.metadata}
                while True:
                    going = {name for name in going if not await self._emptied(name)}
                    event = None
                    try:
                        async with asyncio.timeout(RETRY_S if going else None):
                            event = await anext(watch)
                    except TimeoutError:
                        continue
                    if event.stored is not None and "deletionTimestamp" in event.stored.metadata:
                        going.add(event.stored.key.name)
            except StopAsyncIteration:
                return
            except errors.DrtpError as error:
                log.warning("namespace clean-up began anew", code=error.code)
                await self._clock.sleep(RETRY_S)

    async def _emptied(self, name: str) -> bool:
        """Remove what can be removed; whether the namespace itself could go."""
        left = 0
        for info in contents():
            for stored in (await self._store.list(info.key, name)).items:
                left += not await self._removed(stored)
        if left:
            return False
        try:
            namespace = await self._store.get(Key(KIND, "", name))
            metadata = namespace.metadata
            kept = [finalizer for finalizer in metadata.get("finalizers", ()) if finalizer != FINALIZER]
            await self._store.update(namespace.object | {"metadata": metadata | {"finalizers": kept}})
        except errors.NotFound:
            return True
        except errors.Conflict:
            return False
        log.info("namespace emptied", namespace=name)
        return True

    async def _removed(self, stored: Stored) -> bool:
        try:
            last = await self._store.delete(stored.key, uid=stored.uid)
        except errors.NotFound:
            return True
        except errors.Conflict:
            return False
        return not last.metadata.get("finalizers")
