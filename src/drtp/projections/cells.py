"""Incremental computation: each unit is a pure function of what it read, recomputed when just that has changed.

A unit reads objects and indexes of the View through a `Reader`, which records what it read. It gives entries for
edges, a value that other units may read, and facts sent to other units. Whoever read a thing that changed is dirty;
units run in order of their rank, so each runs after everything it depends on. A full rebuild computes the same by
construction: nothing is patched, only recomputed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import Gauge

from drtp.api.meta import Key, Model
from drtp.api.snapshots import Entry
from drtp.kit.observe import REGISTRY, logger
from drtp.store.observed import EdgeRef
from drtp.store.view import View, kind_key

M = TypeVar("M", bound=Model)
Unit = tuple[str, ...]
"""What is computed: its kind, then whom or what it is about. Numbers are spelled as decimal strings."""

_UNREADABLE = "unreadable"

_log = logger("projections")
_FAULTS = Gauge(
    "drtp_projection_faults",
    "Things that cannot be computed for edges; their entries are withdrawn and the log names each.",
    ["unit"],
    registry=REGISTRY,
)


@dataclass(frozen=True, slots=True)
class Index:
    """One declared index: objects of `model` findable by the values that `values_of` gives."""

    model: type[Model]
    name: str
    values_of: Callable[[Any], Iterable[Hashable]]


@dataclass(slots=True)
class Result:
    """What a unit came to. `facts` go to the units they name; `value` is for units that ask."""

    entries: dict[tuple[EdgeRef, str], Entry] = field(default_factory=dict)
    facts: dict[Unit, Any] = field(default_factory=dict)
    value: Any = None


class Reader:
    """The View as one unit sees it: everything read is remembered as a dependency."""

    def __init__(self, view: View, cells: Cells, unit: Unit) -> None:
        self._view = view
        self._cells = cells
        self._unit = unit
        self.tokens: set[Hashable] = set()

    def get(self, model: type[M], namespace: str, name: str) -> M | None:
        """One object, typed; None if it is not there or unreadable."""
        self.tokens.add(Key(kind_key(model), namespace, name))
        return self._view.get(model, namespace, name)

    def indexed(self, model: type[M], index: str, value: Hashable) -> Sequence[M]:
        """Every object for which the index gives `value`."""
        self.tokens.add((kind_key(model), index, value))
        return self._view.indexed(model, index, value)

    def unreadable(self, model: type[Model], namespace: str) -> bool:
        """Whether an object of this (indexed) model and namespace does not decode, so that its meaning is unknown."""
        kind = kind_key(model)
        self.tokens.add((_UNREADABLE, kind, namespace))
        return any(key.kind == kind and key.namespace == namespace for key in self._view.quarantined)

    def value(self, unit: Unit) -> Any:
        """The value of a unit of lower rank; None where there is no such unit."""
        self.tokens.add(unit)
        return self._cells.value(unit)

    def facts(self) -> Mapping[Unit, Any]:
        """What other units have sent to this one, by sender, in a stable order."""
        return dict(sorted(self._cells.inbox(self._unit).items()))


Compute = Callable[[Unit, Reader], Result]


class Cells:
    """All units, their results, and who must run again when something changes."""

    def __init__(
        self,
        view: View,
        compute: Compute,
        ranks: Mapping[str, int],
        indexes: Iterable[Index],
        *,
        rests: Callable[[Unit], bool],
    ) -> None:
        """`ranks` orders unit kinds: values and facts flow upwards only.

        `rests`: whether a unit that gives nothing, and is sent nothing, can come to something only by being asked for
        again or sent a fact. It is forgotten until then, or what is gone would be remembered for ever.
        """
        self._view = view
        self._rests = rests
        self._compute = compute
        self._ranks = ranks
        self._indexes: dict[str, list[Index]] = {}
        for index in indexes:
            self._indexes.setdefault(kind_key(index.model), []).append(index)
            view.add_index(index.model, index.name, index.values_of)
        self._results: dict[Unit, Result] = {}
        self._reads: dict[Unit, set[Hashable]] = {}
        self._readers: dict[Hashable, set[Unit]] = {}
        self._inbox: dict[Unit, dict[Unit, Any]] = {}
        self._indexed: dict[Key, set[Hashable]] = {}
        self._entries: dict[EdgeRef, dict[str, Entry]] = {}
        self.faults: dict[Unit, str] = {}
        self.runs = 0

    # ---- reading -------------------------------------------------------------------------------------------------

    def entries(self, edge: EdgeRef) -> dict[str, Entry]:
        """Everything for one edge, by key. A copy."""
        return dict(self._entries.get(edge, {}))

    def edges(self) -> set[EdgeRef]:
        """Every edge that has entries."""
        return set(self._entries)

    def value(self, unit: Unit) -> Any:
        """A unit's value; None where there is none."""
        result = self._results.get(unit)
        return result.value if result else None

    @property
    def remembered(self) -> int:
        """Of how many units it is known what they read."""
        return len(self._reads)

    def inbox(self, unit: Unit) -> dict[Unit, Any]:
        """Facts sent to a unit, by sender."""
        return self._inbox.get(unit, {})

    # ---- changing ------------------------------------------------------------------------------------------------

    def change(self, keys: Iterable[Key], units: Iterable[Unit]) -> set[EdgeRef]:
        """Recompute what `keys` reach, and `units` in any case. Gives the edges whose entries have changed."""
        dirty = set(units)
        for key in keys:
            for token in self._touched(key):
                dirty |= self._readers.get(token, set())
        queue = [(self._ranks[unit[0]], unit) for unit in dirty]
        heapq.heapify(queue)
        changed: set[EdgeRef] = set()
        while queue:
            _, unit = heapq.heappop(queue)
            for woken in self._run(unit, changed):
                if woken not in dirty:
                    dirty.add(woken)
                    heapq.heappush(queue, (self._ranks[woken[0]], woken))
        return changed

    def _touched(self, key: Key) -> set[Hashable]:
        """The key, and the index values of the object before and after."""
        before = self._indexed.pop(key, set())
        after: set[Hashable] = set()
        stored = self._view.stored(key)
        for index in self._indexes.get(key.kind, ()):
            typed = None if stored is None else self._view.typed(index.model, stored)
            if typed is not None:
                after.update((key.kind, index.name, value) for value in index.values_of(typed))
        if key in self._view.quarantined:
            after.add((_UNREADABLE, key.kind, key.namespace))
        if after:
            self._indexed[key] = after
        return {key, *before, *after}

    def _run(self, unit: Unit, changed: set[EdgeRef]) -> set[Unit]:
        """Compute one unit; gives the units that its value or its facts have made dirty."""
        self.runs += 1
        reader = Reader(self._view, self, unit)
        try:
            result = self._compute(unit, reader)
            if self.faults.pop(unit, None) is not None:
                _FAULTS.labels(unit[0]).dec()
        except Exception as error:
            result = Result()
            if unit not in self.faults:
                _FAULTS.labels(unit[0]).inc()
            if self.faults.get(unit) != repr(error):
                self.faults[unit] = repr(error)
                _log.error("projection failed", unit="/".join(unit), error=repr(error))
        before = self._results.get(unit, Result())
        if result.entries or result.facts or result.value is not None:
            self._results[unit] = result
            self._depend(unit, reader.tokens)
        else:
            self._results.pop(unit, None)
            forgotten = unit not in self.faults and not self.inbox(unit) and self._rests(unit)
            self._depend(unit, set() if forgotten else reader.tokens)
        self._publish(before, result, changed)
        woken = self._send(unit, before, result)
        if before.value != result.value:
            woken |= self._readers.get(unit, set())
        return woken

    def _depend(self, unit: Unit, tokens: set[Hashable]) -> None:
        before = self._reads.get(unit, set())
        for token in before - tokens:
            self._readers[token].discard(unit)
            if not self._readers[token]:
                del self._readers[token]
        for token in tokens - before:
            self._readers.setdefault(token, set()).add(unit)
        if tokens:
            self._reads[unit] = tokens
        else:
            self._reads.pop(unit, None)

    def _publish(self, before: Result, after: Result, changed: set[EdgeRef]) -> None:
        for edge, key in before.entries.keys() - after.entries.keys():
            held = self._entries.get(edge, {})
            if held.get(key) is before.entries[edge, key]:
                del held[key]
                changed.add(edge)
                if not held:
                    del self._entries[edge]
        for (edge, key), entry in after.entries.items():
            held = self._entries.setdefault(edge, {})
            if held.get(key) != entry:
                changed.add(edge)
            held[key] = entry

    def _send(self, unit: Unit, before: Result, after: Result) -> set[Unit]:
        woken: set[Unit] = set()
        for target in before.facts.keys() - after.facts.keys():
            self._inbox[target].pop(unit, None)
            if not self._inbox[target]:
                del self._inbox[target]
            woken.add(target)
        for target, fact in after.facts.items():
            if target not in before.facts or before.facts[target] != fact:
                self._inbox.setdefault(target, {})[unit] = fact
                woken.add(target)
        return woken
