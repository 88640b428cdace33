"""The informer: every object, indexed, fed by list and watch. Controllers and projections read this, never the Store.

Decoding into typed models is lazy and cached. An object that does not decode is quarantined by itself: it is logged
and skipped, and every other object goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from prometheus_client import Gauge

from drtp.api.meta import Key, Model
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.errors import Retryable
from drtp.kit.observe import REGISTRY, logger
from drtp.store.changes import Changes
from drtp.store.protocol import EventType, Store, Stored, kind_of

M = TypeVar("M", bound=Model)
_log = logger("view")
_QUARANTINED = Gauge(
    "drtp_view_objects_quarantined",
    "Stored objects that are left out because they cannot be read; the log and an Event name each.",
    ["kind"],
    registry=REGISTRY,
)

_PRIVATE = frozenset(
    {"Secret", *(f"{kind}.internal.datumapis.com" for kind in ("EnrolmentSecret", "ApiToken", "Account", "Login"))}
)
"""Kinds of whose contents no word is said: of what is wrong with one, only where it is."""

_PATH = re.compile(r" - at `\$[\w.\[\]]*`")


class Change(NamedTuple):
    """One object came, went or changed."""

    key: Key
    before: Stored | None
    after: Stored | None

    @property
    def versions(self) -> tuple[Stored, ...]:
        """The object before and after, as far as each exists."""
        return tuple(stored for stored in (self.before, self.after) if stored is not None)


Listener = Callable[[Change], None]


class _Index(NamedTuple):
    model: type[Model]
    values_of: Callable[[Any], Iterable[Hashable]]
    keys: dict[Hashable, dict[Key, None]]
    values: dict[Key, tuple[Hashable, ...]]


@cache
def kind_key(model: type[Model]) -> str:
    """`Key.kind` of a typed model, from its defaults for `api_version` and `kind`."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(model)}
    return kind_of(str(defaults["api_version"]), str(defaults["kind"]))


class View:
    """An indexed copy of the kinds it was told to follow, one revision at a time. One loop, no locks."""

    def __init__(self, store: Store, kinds: Iterable[str], clock: Clock | None = None) -> None:
        """`kinds` as in `Key.kind`."""
        self._store = store
        self.kinds = frozenset(kinds)
        self._clock = clock or SystemClock()
        self._objects: dict[str, dict[str, dict[str, Stored]]] = {}
        self._typed: dict[Key, Any] = {}
        self._uids: dict[str, Key] = {}
        self._indexes: dict[tuple[str, str], _Index] = {}
        self._listeners: list[Listener] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.synced = asyncio.Event()
        self.revision = 0
        self.quarantined: dict[Key, str] = {}

    # ---- reading -------------------------------------------------------------------------------------------------

    def stored(self, key: Key) -> Stored | None:
        """The object as stored, or None."""
        return self._objects.get(key.kind, {}).get(key.namespace, {}).get(key.name)

    def get(self, model: type[M], namespace: str, name: str) -> M | None:
        """One object, typed; None if it is not there or is quarantined. `namespace` "" for cluster-scoped kinds."""
        key = Key(kind_key(model), namespace, name)
        stored = self.stored(key)
        return None if stored is None else self.typed(model, stored)

    def list(self, model: type[M], namespace: str | None = None) -> Sequence[M]:
        """Every object of a kind, in one namespace or all; quarantined ones are left out. Order: namespace, name."""
        return self._decode_all(model, self.keys(kind_key(model), namespace))

    def keys(self, kind: str, namespace: str | None = None) -> Sequence[Key]:
        """Every key of a kind, in one namespace or all, sorted."""
        namespaces = self._objects.get(kind, {})
        chosen = sorted(namespaces) if namespace is None else [namespace]
        return [Key(kind, where, name) for where in chosen for name in sorted(namespaces.get(where, ()))]

    def by_uid(self, uid: str) -> Stored | None:
        """The object of this `metadata.uid`, of any followed kind."""
        key = self._uids.get(uid)
        return None if key is None else self.stored(key)

    def indexed(self, model: type[M], index: str, value: Hashable) -> Sequence[M]:
        """Every object for which the index function gave `value`. Raises: KeyError for an undeclared index."""
        declared = self._indexes[kind_key(model), index]
        return self._decode_all(model, sorted(declared.keys.get(value, ())))

    def count(self, model: type[M], index: str, value: Hashable) -> int:
        """How many objects `indexed` would give, without looking at them."""
        return len(self._indexes[kind_key(model), index].keys.get(value, ()))

    def typed(self, model: type[M], stored: Stored) -> M | None:
        """Decode, cached while this revision is current; None (quarantined, logged) if it does not decode."""
        held = self._typed.get(stored.key)
        current = self.stored(stored.key) is stored
        if current and isinstance(held, model):
            return held
        try:
            decoded = msgspec.json.decode(stored.raw, type=model)
        except msgspec.MsgspecError as error:
            # What it was before it was mended, or before it was gone, says nothing of what is there now.
            if current:
                self._quarantine(stored.key, str(error))
            return None
        if current:
            self._typed[stored.key] = decoded
        return decoded

    # ---- declaring -----------------------------------------------------------------------------------------------

    def add_index(self, model: type[M], index: str, values_of: Callable[[M], Iterable[Hashable]]) -> None:
        """Keep objects of `model` findable by what `values_of` gives for each; declaring again is no change."""
        kind = kind_key(model)
        if (kind, index) in self._indexes:
            return
        declared = _Index(model, values_of, {}, {})
        self._indexes[kind, index] = declared
        for key in self.keys(kind):
            self._put_in_index(declared, key, self.stored(key))

    def listen(self, listener: Listener) -> None:
        """Call `listener` at every change once it is visible here: quick, and without writing to the View."""
        self._listeners.append(listener)

    def subscribe(self) -> Changes[Key]:
        """Changed keys from now on, coalesced."""
        changes: Changes[Key] = Changes()
        self.listen(lambda change: changes.mark((change.key,)))
        return changes

    async def reached(self, revision: int) -> None:
        """Wait until everything up to `revision` is visible here: read your own writes."""
        if self.revision < revision:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((revision, arrived))
            await arrived

    # ---- following -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the store until cancelled; whatever breaks the watch is answered by listing again."""
        delays = full_jitter(0.05, 5.0)
        while True:
            try:
                await self._follow()
                delays = full_jitter(0.05, 5.0)
            except Retryable as error:
                _log.info("view lists again", reason=error.code)
            await self._clock.sleep(next(delays))

    async def _follow(self) -> None:
        listings = [await self._store.list(kind) for kind in sorted(self.kinds)]
        self._replace([stored for listing in listings for stored in listing.items])
        since = min((listing.revision for listing in listings), default=self._store.revision)
        watch = self._store.watch(since=since)
        try:
            async for event in watch:
                if event.stored is not None and event.stored.key.kind in self.kinds:
                    self._set(event.stored.key, None if event.type is EventType.DELETED else event.stored)
                self._advance(event.revision)
                if event.type is EventType.BOOKMARK:
                    self.synced.set()
        finally:
            await watch.aclose()

    def _replace(self, items: Iterable[Stored]) -> None:
        fresh = {stored.key: stored for stored in items}
        for kind in self.kinds:
            for key in self.keys(kind):
                if key not in fresh:
                    self._set(key, None)
        for key, stored in fresh.items():
            self._set(key, stored)

    def _set(self, key: Key, after: Stored | None) -> None:
        """Make `after` the current state of `key`, unless it is older than what is held."""
        before = self.stored(key)
        if before is after or (before is not None and after is not None and after.revision <= before.revision):
            return
        self._typed.pop(key, None)
        self._release(key)
        if before is not None:
            self._uids.pop(before.uid, None)
            del self._objects[key.kind][key.namespace][key.name]
        if after is not None:
            self._objects.setdefault(key.kind, {}).setdefault(key.namespace, {})[key.name] = after
            self._uids[after.uid] = key
        for (kind, _), index in self._indexes.items():
            if kind == key.kind:
                self._put_in_index(index, key, after)
        change = Change(key, before, after)
        for listener in self._listeners:
            listener(change)

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        due = [arrived for wanted, arrived in self._waiting if wanted <= self.revision]
        self._waiting = [entry for entry in self._waiting if entry[0] > self.revision]
        for arrived in due:
            if not arrived.done():
                arrived.set_result(None)

    def _put_in_index(self, index: _Index, key: Key, after: Stored | None) -> None:
        for value in index.values.pop(key, ()):
            index.keys[value].pop(key, None)
            if not index.keys[value]:
                del index.keys[value]
        typed = None if after is None else self.typed(index.model, after)
        if typed is None:
            return
        try:
            values = tuple(dict.fromkeys(index.values_of(typed)))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._quarantine(key, f"index: {error}")
            return
        index.values[key] = values
        for value in values:
            index.keys.setdefault(value, {})[key] = None

    def _decode_all(self, model: type[M], keys: Iterable[Key]) -> Sequence[M]:
        decoded = (self.typed(model, cast("Stored", self.stored(key))) for key in keys)
        return [one for one in decoded if one is not None]

    def _quarantine(self, key: Key, why: str) -> None:
        if key.kind in _PRIVATE:
            why = f"something is wrong with it{''.join(_PATH.findall(why))}"
        if self.quarantined.get(key) != why:
            if key not in self.quarantined:
                _QUARANTINED.labels(key.kind).inc()
            self.quarantined[key] = why
            _log.warning("object quarantined", object=str(key), reason=why)

    def _release(self, key: Key) -> None:
        if self.quarantined.pop(key, None) is not None:
            _QUARANTINED.labels(key.kind).dec()
