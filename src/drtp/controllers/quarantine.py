"""What is left out because it cannot be read, here or at an edge: its owner gets an Event that names it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from drtp.api.meta import Key, Model
from drtp.api.registry import REGISTRY
from drtp.controllers.events import EVENT
from drtp.controllers.runtime import Change, EdgeChange, Emit, EventKind, MapChange, Outcome, World
from drtp.kit.observe import printable
from drtp.store.observed import APPLIED, EdgeState

REASON_MAX = 512
"""Characters of an edge's words that are kept."""

_MODELS: Mapping[str, type[Model]] = {
    info.key: info.model for info in REGISTRY if info.model is not None and info.key != EVENT
}


class QuarantineController:
    """Keyed by whatever cannot be read. Objects that can be cost one decoding, which everybody shares."""

    name = "quarantine"

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """Every kind with a model."""
        return dict.fromkeys(_MODELS, _unreadable)

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """An edge put a snapshot in force, and says what of it it left out."""
        state = world.observed.edge(change.edge.uid) if change.part == APPLIED else None
        for entry in state.quarantined if state else ():
            stored = world.view.by_uid(_uid(entry))
            if stored is not None:
                yield stored.key

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """An Event for each place that leaves the object out; the recorder counts what is said again."""
        stored = world.view.stored(key)
        if stored is None:
            return Outcome()
        return Outcome(events=(*_here(key, world), *_at_edges(key, stored.uid, world)))


def _unreadable(world: World, change: Change) -> Iterable[Key]:
    if change.after is not None:
        world.view.typed(_MODELS[change.key.kind], change.after)
    if change.key in world.view.quarantined:
        yield change.key


def _here(key: Key, world: World) -> Iterator[Emit]:
    why = world.view.quarantined.get(key)
    if why is not None:
        what = f"The object cannot be read and is left out: {why} (DRTP-6014)."
        yield Emit(key, EventKind.WARNING, "Unreadable", what)


def _at_edges(key: Key, uid: str, world: World) -> Iterator[Emit]:
    for state in world.observed.edges():
        for entry, why in state.quarantined.items():
            if _uid(entry) == uid:
                what = f"{_who(state)} leaves out what it is told of it: {printable(why)[:REASON_MAX]} (DRTP-6014)."
                yield Emit(key, EventKind.WARNING, "LeftOut", what)


def _uid(entry: str) -> str:
    """Entries of one object are named `<what>/<uid>`; shared places have more parts and nobody's name."""
    parts = entry.split("/")
    return parts[1] if len(parts) == 2 else ""


def _who(state: EdgeState) -> str:
    return f"{state.edge.role.value} {printable(state.name)[:63]}".strip()
