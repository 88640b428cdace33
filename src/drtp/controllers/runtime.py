"""What a controller is, and what runs it: change -> keys -> work queue -> reconcile -> writes.

A controller decides and the manager acts: `reconcile` is a plain function of the present state, told nothing but a key.
A key never runs twice at once; Conflict and NotFound mean that the world has moved, and the key simply comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from drtp.api.meta import Key, Model
from drtp.store.observed import EdgeChange, Observed
from drtp.store.protocol import Create, Delete, Stored, Update, UpdateStatus, Write
from drtp.store.view import Change, View

__all__ = [
    "Change",
    "Controller",
    "Create",
    "Delete",
    "EdgeChange",
    "Emit",
    "EventKind",
    "MapChange",
    "Outcome",
    "Recorder",
    "Update",
    "UpdateStatus",
    "World",
    "Write",
    "itself",
    "on_spec",
    "owners",
    "referring",
]

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class World:
    """Everything a decision may read: desired state and observed state. Read-only."""

    view: View
    observed: Observed


class EventKind(Enum):
    """Kubernetes' two kinds of Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Emit(NamedTuple):
    """A Kubernetes Event to record about `regarding`; the recorder counts repetitions of one reason and message."""

    regarding: Key
    kind: EventKind
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be done: writes in one transaction, then events; and when to look again without any change."""

    writes: tuple[Write, ...] = ()
    requeue_after_s: float | None = None
    events: tuple[Emit, ...] = ()


MapChange = Callable[[World, Change], Iterable[Key]]
"""Which keys of a controller a change of some object concerns; `change.before` tells what it referred to before."""


class Controller(Protocol):
    """One kind of decision, keyed by the object it is about."""

    @property
    def name(self) -> str:
        """For logs and metrics, lower case."""
        ...

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Kinds (as in `Key.kind`) whose changes concern this controller, each with its mapping to keys."""
        ...

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """Which keys a change of an edge's reports concerns."""
        ...

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Decide for `key` from the present state; the object may be gone. Pure: no writes, no waiting, no clock."""
        ...


Recorder = Callable[[Emit, World, datetime], Iterable[Write]]
"""Turns an `Emit` into the writes that keep its Event object (create, or count up)."""


def itself(_world: World, change: Change) -> Iterable[Key]:
    """The changed object's own key."""
    return (change.key,)


def on_spec(mapping: MapChange) -> MapChange:
    """`mapping`, but silent while only the status of the changed object moves.

    For objects that many others hang on: the status of one must not give a turn to all of them.
    """

    def of(world: World, change: Change) -> Iterable[Key]:
        if change.before is None or change.after is None or _desired(change.before) != _desired(change.after):
            return mapping(world, change)
        return ()

    return of


def _desired(stored: Stored) -> tuple[object, ...]:
    metadata = stored.metadata
    names = ("generation", "labels", "annotations", "deletionTimestamp", "ownerReferences")
    return tuple(metadata.get(name) for name in names)


def owners(kind: str) -> MapChange:
    """Keys of the changed object's owners of `kind` (as in `Key.kind`), before and after, in its own namespace."""
    short, _, group = kind.partition(".")

    def of(_world: World, change: Change) -> Iterable[Key]:
        for stored in change.versions:
            for owner in stored.metadata.get("ownerReferences") or ():
                if owner["kind"] == short and owner["apiVersion"].rpartition("/")[0] == group:
                    yield Key(kind, stored.key.namespace, owner["name"])

    return of


def referring(model: type[M], keys_of: Callable[[M], Iterable[Key]]) -> MapChange:
    """Keys that `keys_of` finds in the typed object, before and after; what does not decode refers to nothing."""

    def of(world: World, change: Change) -> Iterable[Key]:
        for stored in change.versions:
            typed = world.view.typed(model, stored)
            if typed is not None:
                yield from keys_of(typed)

    return of
