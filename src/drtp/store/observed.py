"""What the edges say, newest first and only: in memory, whole again at every reconnect.

An edge that has not connected since this process started is Unknown: `edge` gives None, and nothing may be concluded
from that. After a disconnect its reports stay, with `connected=False`; when its lease has run out is for controllers
to decide from `last_seen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from prometheus_client import Gauge

from drtp.api.feed import Applied, ReportDelta
from drtp.api.internal import EdgeRole
from drtp.api.meta import Key
from drtp.api.reports import AgentRegistration, ConnectorRegistration, Registration, Report
from drtp.api.snapshots import Generation
from drtp.kit.observe import REGISTRY
from drtp.store.changes import Changes

_LEFT_OUT = Gauge(
    "drtp_edge_entries_quarantined",
    "Entries of snapshots that edges left out because they could not take them.",
    ["role"],
    registry=REGISTRY,
)


class EdgeRef(NamedTuple):
    """One edge: its role, and the uid of its identity (EdgeIdentity's name)."""

    role: EdgeRole
    uid: str


APPLIED = "applied"
"""The part that stands for `applied` and `quarantined`: it moves with every snapshot, and concerns few."""


class EdgeChange(NamedTuple):
    """One part of what an edge says has changed: a report key, `APPLIED`, or "" for connection and registration."""

    edge: EdgeRef
    part: str


@dataclass(frozen=True, slots=True)
class EdgeState:
    """Everything one edge has said in its newest connection.

    `name` is the name in its registration ("" for an agent or a connector); `remote` the address it was seen from.
    `applied` and `quarantined` (snapshot entry key -> reason) are what it said of its snapshot; None before it did.
    """

    edge: EdgeRef
    registration: Registration
    connected: bool
    connected_at: datetime
    last_seen: datetime
    remote: str = ""
    reports: Mapping[str, Report] = field(default_factory=dict[str, Report])
    applied: Generation | None = None
    quarantined: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        """What the edge calls itself; "" for an agent."""
        said = self.registration
        return "" if isinstance(said, AgentRegistration | ConnectorRegistration) else said.name


Listener = Callable[[EdgeChange], None]


class Observed:
    """The newest state of each edge by identity uid. Written by the edge server, read by all. One loop, no locks."""

    def __init__(self) -> None:
        self._edges: dict[str, EdgeState] = {}
        self._listeners: list[Listener] = []

    # ---- reading -------------------------------------------------------------------------------------------------

    def edge(self, uid: str) -> EdgeState | None:
        """What the edge has said since this process started; None is Unknown."""
        return self._edges.get(uid)

    def edges(self, role: EdgeRole | None = None) -> list[EdgeState]:
        """Every edge seen, of one role or of all."""
        return [state for state in self._edges.values() if role is None or state.edge.role is role]

    def named(self, role: EdgeRole, name: str) -> EdgeState | None:
        """The newest connected edge of this role and registered name; a disconnected one if no other."""
        matching = [state for state in self.edges(role) if state.name == name]
        return max(matching, key=lambda state: (state.connected, state.last_seen), default=None)

    def report(self, uid: str, key: str) -> Report | None:
        """One report of one edge; None is Unknown."""
        state = self._edges.get(uid)
        return state.reports.get(key) if state else None

    def subscribe(self) -> Changes[EdgeChange]:
        """Changes from now on, coalesced."""
        changes: Changes[EdgeChange] = Changes()
        self.listen(lambda change: changes.mark((change,)))
        return changes

    def listen(self, listener: Listener) -> None:
        """Call `listener` at every change, in the writer's turn: it must be quick and must not write."""
        self._listeners.append(listener)

    # ---- writing: the edge server ---------------------------------------------------------------------------------

    def connect(self, edge: EdgeRef, registration: Registration, now: datetime, remote: str = "") -> None:
        """A feed came up. Reports of the connection before stay until the first whole report replaces them."""
        before = self._edges.get(edge.uid)
        self._edges[edge.uid] = EdgeState(
            edge=edge,
            registration=registration,
            connected=True,
            connected_at=now,
            last_seen=now,
            remote=remote,
            reports=before.reports if before else {},
            applied=before.applied if before else None,
            quarantined=before.quarantined if before else {},
        )
        self._tell(edge, ("",))

    def take_report(self, uid: str, delta: ReportDelta, now: datetime) -> None:
        """Merge a report, or replace everything where it is whole. An edge that never connected is ignored."""
        state = self._edges.get(uid)
        if state is None:
            return
        reports: dict[str, Report] = {} if delta.whole else dict(state.reports)
        reports.update(delta.upsert)
        for key in delta.remove:
            reports.pop(key, None)
        touched = state.reports.keys() | reports.keys() if delta.whole else delta.upsert.keys() | set(delta.remove)
        changed = [key for key in sorted(touched) if reports.get(key) != state.reports.get(key)]
        self._edges[uid] = replace(state, reports=reports, last_seen=now)
        self._tell(state.edge, changed)

    def take_applied(self, uid: str, applied: Applied, now: datetime) -> None:
        """The edge has put a snapshot in force."""
        state = self._edges.get(uid)
        if state is None:
            return
        _LEFT_OUT.labels(state.edge.role.value).inc(len(applied.quarantined) - len(state.quarantined))
        self._edges[uid] = replace(
            state, applied=applied.generation, quarantined=dict(applied.quarantined), last_seen=now
        )
        self._tell(state.edge, (APPLIED,))

    def heartbeat(self, uid: str, now: datetime) -> None:
        """The edge is there. Tells nobody: whoever cares reads `last_seen` at its own pace."""
        state = self._edges.get(uid)
        if state is not None:
            self._edges[uid] = replace(state, last_seen=now)

    def disconnect(self, uid: str, now: datetime) -> None:
        """The feed is down; what it said stays."""
        state = self._edges.get(uid)
        if state is not None and state.connected:
            self._edges[uid] = replace(state, connected=False, last_seen=max(now, state.last_seen))
            self._tell(state.edge, ("",))

    def forget(self, uid: str) -> None:
        """The identity is gone for good."""
        state = self._edges.pop(uid, None)
        if state is not None:
            _LEFT_OUT.labels(state.edge.role.value).dec(len(state.quarantined))
            self._tell(state.edge, ("", *state.reports))

    def _tell(self, edge: EdgeRef, parts: tuple[str, ...] | list[str]) -> None:
        for part in parts:
            for listener in self._listeners:
                listener(EdgeChange(edge, part))


def identity_key(uid: str) -> Key:
    """Where the EdgeIdentity of this uid lives."""
    return Key("EdgeIdentity.internal.datumapis.com", "", uid)
