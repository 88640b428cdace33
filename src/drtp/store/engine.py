"""The store that keeps objects itself: every object in memory, every change through a journal before anyone sees it.

A write is judged against what is committed plus what is on its way (`_staged`), handed to the journal in order, and
published to readers and watches when the journal says that it is durable. So writers never wait for one another to be
judged, many share one sync of the disk, reads never wait at all, and nobody reads what a crash could take back.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from drtp.api.meta import Key
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.errors import Invalid
from drtp.store.eventlog import LOG_BYTES_MAX, EventLog, LogWatch
from drtp.store.protocol import (
    Create,
    Delete,
    EventType,
    Expired,
    Listing,
    NotFound,
    Object,
    Select,
    Stored,
    Update,
    UpdateStatus,
    WatchEvent,
    Write,
)
from drtp.store.quotas import QUOTA, implied
from drtp.store.semantics import Effect, effect

_Name = tuple[str, str]
"""Namespace and name: the order of every listing."""


@dataclass(eq=False, slots=True)
class Batch:
    """One transaction on its way. `epoch`: batches judged before a failed one are void with it."""

    epoch: int
    effects: tuple[Effect, ...]
    done: asyncio.Future[None] = field(repr=False)


Settle = Callable[[Sequence[Batch], BaseException | None], None]
"""Says, in the store's loop and in order, that batches are durable, or why they are not."""


class Journal(Protocol):
    """Makes batches durable, in the order given, and settles them."""

    def submit(self, batch: Batch, settle: Settle) -> None:
        """Take a batch. `settle` is called later or at once."""
        ...


class Engine:
    """A Store over a Journal. Everything but the journal's own work happens in one event loop."""

    def __init__(
        self,
        journal: Journal,
        loaded: Iterable[Stored] = (),
        revision: int = 0,
        clock: Clock | None = None,
        log_bytes_max: int = LOG_BYTES_MAX,
    ) -> None:
        """`loaded` and `revision` are what the journal holds."""
        self._journal = journal
        self._clock = clock or SystemClock()
        self._log = EventLog(revision, log_bytes_max)
        self._objects: dict[str, dict[_Name, Stored]] = {}
        for stored in loaded:
            self._objects.setdefault(stored.key.kind, {})[stored.key[1:]] = stored
        self._order: dict[str, list[_Name]] = {kind: sorted(held) for kind, held in self._objects.items()}
        self._staged: dict[Key, Effect] = {}
        self._next_revision = revision + 1
        self._epoch = 0
        self._has_quotas = bool(self._order.get(QUOTA))
        """Whether there ever was one in this process: without, no write pays for them."""

    # ---- reading -------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The newest visible revision."""
        return self._log.revision

    async def get(self, key: Key) -> Stored:
        """One object. Raises: NotFound."""
        stored = self.committed_one(key)
        if stored is None:
            raise NotFound(key)
        return stored

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        limit: int = 0,
        after: str | None = None,
        select: Select | None = None,
    ) -> Listing:
        """A page of objects, ordered. Raises: Expired, Invalid for a token that is none."""
        revision, start = self.revision, None
        if after is not None:
            revision, start = _read_token(after)
            if revision < self._log.floor or revision > self.revision:
                raise Expired(revision, self._log.floor)
        items: list[Stored] = []
        for stored in self._ordered(kind, namespace, start):
            if select is not None and not select(stored):
                continue
            if limit and len(items) == limit:
                last = items[-1].key
                return Listing(items, revision, _write_token(revision, (last.namespace, last.name)))
            items.append(stored)
        return Listing(items, revision, None)

    def watch(self, kind: str | None = None, namespace: str | None = None, *, since: int | None = None) -> LogWatch:
        """Changes after `since`. Raises: Expired."""
        return self._log.watch(kind, namespace, since)

    # ---- writing -------------------------------------------------------------------------------------------------

    async def create(self, obj: Object) -> Stored:
        """Make a new object. Raises: AlreadyExists, Invalid."""
        return (await self.apply((Create(obj),)))[0]

    async def update(self, obj: Object) -> Stored:
        """Replace everything but status. Raises: NotFound, Conflict, Invalid."""
        return (await self.apply((Update(obj),)))[0]

    async def update_status(self, obj: Object) -> Stored:
        """Replace status only. Raises: NotFound, Conflict."""
        return (await self.apply((UpdateStatus(obj),)))[0]

    async def delete(self, key: Key, *, uid: str | None = None, resource_version: str | None = None) -> Stored:
        """Remove, or mark for removal. Raises: NotFound, Conflict."""
        return (await self.apply((Delete(key, uid, resource_version),)))[0]

    async def apply(self, writes: Sequence[Write]) -> tuple[Stored, ...]:
        """All of `writes` or none, durable when this returns. A caller that is cancelled may still have written."""
        effects, besides = self._judge(writes)
        if not effects:
            return ()
        changing = tuple(one for one in (*effects, *besides) if one.changes)
        for one in changing:
            self._staged[one.key] = one
        self._next_revision += len(changing)
        # A write that changes nothing waits its turn all the same: what it found may still be on its way.
        if changing or self._staged:
            batch = Batch(self._epoch, changing, asyncio.get_running_loop().create_future())
            self._journal.submit(batch, self._settle)
            await batch.done
        return tuple(one.result for one in effects)

    async def preview(self, writes: Sequence[Write]) -> tuple[Stored, ...]:
        """What `apply` would give."""
        return tuple(one.result for one in self._judge(writes)[0])

    def _judge(self, writes: Sequence[Write]) -> tuple[tuple[Effect, ...], tuple[Effect, ...]]:
        """Every write's effect, later ones seeing earlier ones, and those on quotas; changes nothing.

        Raises for the first that fails.
        """
        mine: dict[Key, Stored | None] = {}

        def find(key: Key) -> Stored | None:
            if key in mine:
                return mine[key]
            return self._staged[key].after if key in self._staged else self.committed_one(key)

        now = self._clock.now()

        def judged(all_of: Iterable[Write], revision: int) -> Iterator[Effect]:
            for write in all_of:
                one = effect(write, find, revision, now)
                if one.changes:
                    mine[one.key] = one.after
                    revision += 1
                yield one

        effects = tuple(judged(writes, self._next_revision))
        self._has_quotas = self._has_quotas or any(one.key.kind == QUOTA for one in effects)
        if not self._has_quotas:
            return effects, ()
        due = implied(effects, _Look(self, self._staged, {}), _Look(self, self._staged, mine))
        return effects, tuple(judged(due, self._next_revision + sum(one.changes for one in effects)))

    def _settle(self, batches: Sequence[Batch], error: BaseException | None) -> None:
        if error is None:
            for batch in batches:
                self._publish(batch.effects)
        elif any(batch.epoch == self._epoch for batch in batches):
            # What was judged on top of the failed batches never was: forget it, and void what is under way.
            self._epoch += 1
            self._staged.clear()
            self._next_revision = self.revision + 1
        for batch in batches:
            if batch.done.done():
                continue
            if error is None:
                batch.done.set_result(None)
            else:
                batch.done.set_exception(error)

    def _publish(self, effects: Sequence[Effect]) -> None:
        for one in effects:
            self._put(one.key, one.after)
            if self._staged.get(one.key) is one:
                del self._staged[one.key]
        if effects:
            self._log.append(_event(one) for one in effects)

    # ---- the table -----------------------------------------------------------------------------------------------

    def committed_one(self, key: Key) -> Stored | None:
        """One object that is durable."""
        return self._objects.get(key.kind, {}).get((key.namespace, key.name))

    def _put(self, key: Key, stored: Stored | None) -> None:
        held = self._objects.setdefault(key.kind, {})
        order = self._order.setdefault(key.kind, [])
        name = (key.namespace, key.name)
        if stored is None:
            if held.pop(name, None) is not None:
                del order[bisect_left(order, name)]
            return
        if name not in held:
            insort(order, name)
        held[name] = stored

    def committed_in(self, kind: str, namespace: str) -> int:
        """How many objects of a kind are in a namespace."""
        order = self._order.get(kind, [])
        return bisect_left(order, (namespace + "\0", "")) - bisect_left(order, (namespace, ""))

    def committed(self, kind: str, namespace: str | None) -> Iterator[Stored]:
        """Objects of a kind that are durable."""
        return self._ordered(kind, namespace, None)

    def _ordered(self, kind: str, namespace: str | None, after: _Name | None) -> Iterator[Stored]:
        order = self._order.get(kind, [])
        first = 0 if namespace is None else bisect_left(order, (namespace, ""))
        if after is not None:
            first = max(first, bisect_right(order, after))
        held = self._objects.get(kind, {})
        for index in range(first, len(order)):
            name = order[index]
            if namespace is not None and name[0] != namespace:
                return
            yield held[name]


class _Look:
    """What is committed, what is on its way, and `mine` on top (None: removed). Implements `quotas.Look`."""

    def __init__(self, engine: Engine, staged: Mapping[Key, Effect], mine: Mapping[Key, Stored | None]) -> None:
        self._engine = engine
        self._staged = staged
        self._mine = mine

    def find(self, key: Key) -> Stored | None:
        """As `Look`."""
        if key in self._mine:
            return self._mine[key]
        return self._staged[key].after if key in self._staged else self._engine.committed_one(key)

    def listed(self, kind: str, namespace: str | None) -> Iterator[Stored]:
        """As `Look`."""
        changed = self._changed(kind, namespace)
        yield from (one for one in self._engine.committed(kind, namespace) if one.key not in changed)
        yield from (one for one in map(self.find, changed) if one is not None)

    def count(self, kind: str, namespace: str) -> int:
        """As `Look`."""
        came = sum(
            (self.find(key) is not None) - (self._engine.committed_one(key) is not None)
            for key in self._changed(kind, namespace)
        )
        return self._engine.committed_in(kind, namespace) + came

    def _changed(self, kind: str, namespace: str | None) -> set[Key]:
        return {
            key
            for key in itertools.chain(self._staged, self._mine)
            if key.kind == kind and namespace in (None, key.namespace)
        }


def _event(one: Effect) -> WatchEvent:
    replaced = EventType.DELETED if one.after is None else EventType.MODIFIED
    kind = EventType.ADDED if one.before is None else replaced
    return WatchEvent(kind, one.result.revision, one.result, one.before)


def _write_token(revision: int, last: _Name) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([revision, *last])).decode()


def _read_token(token: str) -> tuple[int, _Name]:
    try:
        revision, namespace, name = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[int, str, str])
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise Invalid("DRTP-1005", "The continue token is none of this server's.") from None
    return revision, (namespace, name)
