"""Kubernetes Events: one object for each thing that keeps happening, counted, and gone an hour after the last time.

Where what they are about is gone they go after minutes: a control plane in which services come and go all day must not
hold an hour of their histories. They are many and rarely read, so that they are kept as JSON alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from drtp.api.core import Event
from drtp.api.meta import Key
from drtp.controllers import garbage
from drtp.controllers.runtime import (
    Change,
    Create,
    Delete,
    EdgeChange,
    Emit,
    MapChange,
    Outcome,
    Update,
    World,
    Write,
)
from drtp.controllers.surroundings import SYSTEM_NAMESPACE
from drtp.store.protocol import Stored, kind_of
from drtp.store.view import kind_key

EVENT = kind_key(Event)
KEEP = timedelta(hours=1)
KEEP_ORPHANED = timedelta(minutes=2)
COMPONENT = "drtp"


def record(emit: Emit, world: World, now: datetime) -> Iterable[Write]:
    """The write that makes or counts up an event. Events of cluster-scoped objects live in the system namespace."""
    regarding = world.view.stored(emit.regarding)
    if regarding is None:
        return ()
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(f"{regarding.uid}/{emit.reason}/{emit.message}".encode()).hexdigest()[:12]
    namespace = emit.regarding.namespace or SYSTEM_NAMESPACE
    name = f"{emit.regarding.name[:200]}.{digest}"
    held = world.view.stored(Key(EVENT, namespace, name))
    if held is not None:
        return (Update({**held.object, "count": held.object.get("count", 1) + 1, "lastTimestamp": stamp}),)
    involved = {
        "apiVersion": regarding.object["apiVersion"],
        "kind": regarding.object["kind"],
        "name": emit.regarding.name,
        "uid": regarding.uid,
    }
    if emit.regarding.namespace:
        involved["namespace"] = emit.regarding.namespace
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "reason": emit.reason,
        "message": emit.message[:1024],
        "type": emit.kind.value,
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
    }
    return (Create(body),)


class _Involved(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    uid: str = ""


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    """Of an Event, what its keeping depends on."""

    involved_object: _Involved = _Involved()
    event_time: datetime | None = None
    last_timestamp: datetime | None = None


_EVENTS = msgspec.json.Decoder(_Event)


def _read(stored: Stored) -> _Event:
    """One that cannot be read is about nothing, and goes an hour after it was looked at."""
    try:
        return _EVENTS.decode(stored.raw)
    except msgspec.ValidationError:
        return _Event()


def _orphaned(subject: _Involved, world: World) -> bool:
    """Whether it is about an object of a kind that is followed here, and is there no more."""
    followed = kind_of(subject.api_version, subject.kind) in world.view.kinds
    return followed and world.view.by_uid(subject.uid) is None


class EventController:
    """Keyed by Event: takes old ones away."""

    name = "events"

    def __init__(self) -> None:
        self._about: dict[str, dict[Key, None]] = {}

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Events, and whatever they may be about."""
        return {**dict.fromkeys(garbage.KINDS, self._of_subject), EVENT: self._of_event}

    def _of_event(self, _world: World, change: Change) -> Iterable[Key]:
        for stored in change.versions[-1:]:
            uid = _read(stored).involved_object.uid
            held = self._about.setdefault(uid, {})
            held.pop(change.key, None)
            if change.after is not None:
                held[change.key] = None
            if not held:
                del self._about[uid]
        return (change.key,)

    def _of_subject(self, _world: World, change: Change) -> Iterable[Key]:
        gone = change.before if change.after is None else None
        return () if gone is None else tuple(self._about.get(gone.uid, ()))

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Nothing."""
        return ()

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Delete an hour after the last occurrence, or minutes after it where nobody is left that it is about."""
        stored = world.view.stored(key)
        if stored is None:
            return Outcome()
        event = _read(stored)
        last = event.last_timestamp or event.event_time or now
        keep = KEEP_ORPHANED if _orphaned(event.involved_object, world) else KEEP
        left = (last + keep - now).total_seconds()
        return Outcome(requeue_after_s=left) if left > 0 else Outcome((Delete(key, uid=stored.uid),))
