"""Projections become snapshots: change -> edges concerned -> the next generation for each that is listening.

The sequence counts publications of this incarnation, over all edges. Only edges with a feed cost anything; one that
comes back is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import Counter

from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.snapshots import Entry, Generation, Snapshot
from drtp.kit.latest import Latest
from drtp.kit.observe import REGISTRY, logger
from drtp.store.observed import EdgeRef
from drtp.store.view import View

_PUBLISHED = Counter("drtp_snapshots_published_total", "Snapshots published.", ["role"], registry=REGISTRY)
_log = logger("publisher")


class Projects(Protocol):
    """What is computed for each edge, kept up to date by changes (drtp.projections)."""

    def rebuild(self) -> set[EdgeRef]:
        """Take in everything the View holds; once, when it has synced."""
        ...

    def changed(self, keys: set[Key]) -> set[EdgeRef]:
        """Take changes into account; gives the edges whose entries are not what they were."""
        ...

    def entries(self, edge: EdgeRef) -> Mapping[str, Entry]:
        """Everything for one edge; empty if nothing is."""
        ...


class Publisher:
    """The edge server's source of snapshots. Nothing is published before the View has synced."""

    def __init__(self, view: View, projector: Projects, incarnation: int) -> None:
        self._view = view
        self._projector = projector
        self._incarnation = incarnation
        self._sequence = 0
        self._changes = view.subscribe()
        self._published: dict[EdgeRef, Latest[Snapshot]] = {}
        self._live = False

    def subscribe(self, role: EdgeRole, uid: str) -> Latest[Snapshot]:
        """The snapshots of one edge, the present one at once."""
        edge = EdgeRef(role, uid)
        latest = self._published.get(edge)
        if latest is None:
            latest = self._published[edge] = Latest()
            if self._live:
                self._publish(edge, latest)
        return latest

    def release(self, role: EdgeRole, uid: str) -> None:
        """The edge has no feed any more."""
        self._published.pop(EdgeRef(role, uid), None)

    async def run(self) -> None:
        """Publish until cancelled."""
        await self._view.synced.wait()
        self._changes.take_now()
        while not self._rebuilt():
            # Nothing is published from half a picture: edges go on with theirs, and the next change tries again.
            await self._changes.take()
        self._live = True
        for edge, latest in self._published.items():
            self._publish(edge, latest)
        while True:
            self._publish_changed(self._project(set(await self._changes.take())))

    def _rebuilt(self) -> bool:
        try:
            self._projector.rebuild()
        except Exception:
            _log.exception("projections not built")
            return False
        return True

    def _project(self, keys: set[Key]) -> set[EdgeRef]:
        try:
            return self._projector.changed(keys)
        except Exception:
            # A fault here must not end the feeds: every edge goes on with what it has, and the log says why.
            _log.exception("projection failed", keys=len(keys))
            return set()

    def _publish_changed(self, edges: Iterable[EdgeRef]) -> None:
        for edge in edges:
            latest = self._published.get(edge)
            if latest is not None:
                self._publish(edge, latest)

    def _publish(self, edge: EdgeRef, latest: Latest[Snapshot]) -> None:
        entries = dict(self._projector.entries(edge))
        if latest.value is not None and latest.value.entries == entries:
            return
        self._sequence += 1
        latest.set(Snapshot(generation=Generation(self._incarnation, self._sequence), entries=entries))
        _PUBLISHED.labels(edge.role.value).inc()
