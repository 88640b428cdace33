"""DRTPServer status and its heartbeat Lease: ready while it is heard of, gone when its lease has run out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from drtp.api.core import Lease
from drtp.api.drtp import PEERS_MAX, DRTPServer, DRTPServerStatus, PeerStatus
from drtp.api.internal import EdgeIdentity, EdgeRole
from drtp.api.meta import Key, LocalRef
from drtp.api.reports import PeerPaths, PopRegistration, PopReport
from drtp.controllers import writing
from drtp.controllers.runtime import Change, Create, EdgeChange, MapChange, Outcome, Update, World, Write, itself
from drtp.controllers.surroundings import SYSTEM_NAMESPACE
from drtp.controllers.writing import Turn
from drtp.kit.observe import printable
from drtp.rules import conditions, entrykeys, renewals
from drtp.rules.readiness import HOMECOMING, LEASE, ServerFacts, alive, server_ready
from drtp.store.observed import EdgeState
from drtp.store.view import kind_key

SERVER = kind_key(DRTPServer)
LEASE_EVERY = timedelta(seconds=10)
"""Heartbeats go to the store at most this often."""

GAUGES_EVERY = timedelta(seconds=60)
"""Gauges are refreshed with a transition, or this often."""

VERSION_MAX = 63
"""Characters that the status has room for."""


class ServerController:
    """Keyed by DRTPServer."""

    name = "server"

    def __init__(self) -> None:
        self._started: datetime | None = None

    @property
    def watches(self) -> Mapping[str, MapChange]:
        """The servers themselves, and the identities of their POPs."""
        return {SERVER: itself, kind_key(EdgeIdentity): _of_identity}

    def from_edge(self, world: World, change: EdgeChange) -> Iterable[Key]:
        """A POP came, went, or said something about itself."""
        if change.edge.role is EdgeRole.POP and change.part in {"", entrykeys.SELF, entrykeys.PEERS}:
            stored = world.view.by_uid(change.edge.uid)
            if stored is not None and stored.key.kind == SERVER:
                yield stored.key

    def reconcile(self, key: Key, world: World, now: datetime) -> Outcome:
        """Status from the newest report; a lease that was never renewed counts from this control plane's start."""
        self._started = self._started or now
        stored, server = world.view.stored(key), world.view.get(DRTPServer, "", key.name)
        if stored is None or server is None:
            return Outcome()
        state = world.observed.edge(server.metadata.uid)
        lease = world.view.get(Lease, SYSTEM_NAMESPACE, key.name)
        identity = world.view.get(EdgeIdentity, "", server.metadata.uid)
        facts = _facts(server, world, lease, self._started, now)
        told = [server_ready(facts, now), *renewals.conclusions(identity, now, connected=facts.connected)]
        found = conditions.merge(server.status.conditions, told, server.metadata.generation, now)
        status = _status(server, state, facts, found, now)
        remaining = (facts.heard_at + LEASE - now).total_seconds()
        again = LEASE_EVERY.total_seconds() if facts.connected else max(0.1, remaining) if remaining > 0 else None
        return Outcome(
            writes=(*_renewal(key.name, world, lease, state, now), *writing.status(stored, status)),
            requeue_after_s=again,
            events=writing.transitions(key, Turn(server.status.conditions, found)),
        )


def _of_identity(world: World, change: Change) -> Iterable[Key]:
    """A POP is denied, or no more; its renewals concern nobody here."""
    versions = [world.view.typed(EdgeIdentity, stored) for stored in change.versions]
    if len({one and one.spec.denied for one in versions}) == 1 and len(versions) == 2:
        return
    stored = world.view.by_uid(change.key.name)
    if stored is not None and stored.key.kind == SERVER:
        yield stored.key


def _facts(server: DRTPServer, world: World, lease: Lease | None, started: datetime, now: datetime) -> ServerFacts:
    state = world.observed.edge(server.metadata.uid)
    identity = world.view.get(EdgeIdentity, "", server.metadata.uid)
    connected = state is not None and state.connected
    # Whoever has not been heard of since the start may still be on the way back.
    known = started if state else started + HOMECOMING
    moments = [known, server.metadata.creation_timestamp, lease.spec.renew_time if lease else None]
    heard = max(moment for moment in (*moments, state.last_seen if state else None) if moment is not None)
    report = state.reports.get(entrykeys.SELF) if state else None
    said = report if isinstance(report, PopReport) else None
    return ServerFacts(
        heard_at=max(heard, now) if connected else heard,
        connected=connected,
        health=said.health if said else None,
        draining=said.draining if said else False,
        unschedulable=server.spec.unschedulable,
        denied=identity is not None and identity.spec.denied,
    )


def _status(
    server: DRTPServer, state: EdgeState | None, facts: ServerFacts, found: Any, now: datetime
) -> DRTPServerStatus:
    before = server.status
    report = state.reports.get(entrykeys.SELF) if state else None
    registration = state.registration if state else None
    dead = not alive(facts.heard_at, now)
    health = 0 if dead else before.health if facts.health is None else facts.health
    version = before.version
    if isinstance(registration, PopRegistration):
        version = printable(registration.version)[:VERSION_MAX]
    moved = (health, version, found) != (before.health, before.version, before.conditions)
    stale = before.last_heartbeat_time is None or now - before.last_heartbeat_time >= GAUGES_EVERY
    peers = _peers(state, before.peers)
    appeared = {one.server_ref.name for one in peers} > {one.server_ref.name for one in before.peers}
    refresh = moved or appeared or (stale and facts.connected)
    return DRTPServerStatus(
        peers=peers if refresh else before.peers,
        health=health,
        connections=report.connections if refresh and isinstance(report, PopReport) else before.connections,
        version=version or None,
        last_heartbeat_time=facts.heard_at.replace(microsecond=0) if refresh else before.last_heartbeat_time,
        observed_generation=server.metadata.generation,
        conditions=found,
    )


def _peers(state: EdgeState | None, before: tuple[PeerStatus, ...]) -> tuple[PeerStatus, ...]:
    """Paths to others as the POP says, the nearest first; silence leaves what was known."""
    report = state.reports.get(entrykeys.PEERS) if state else None
    if not isinstance(report, PeerPaths):
        return before
    nearest = sorted(report.paths.items(), key=lambda one: (one[1].round_trip_ms, one[0]))
    return tuple(
        PeerStatus(
            server_ref=LocalRef(name=name),
            round_trip_millis=round(path.round_trip_ms),
            round_trip_floor_millis=round(path.round_trip_floor_ms),
            jitter_millis=round(path.jitter_ms),
            loss_permille=round(path.loss * 1000),
        )
        for name, path in nearest[:PEERS_MAX]
    )


def _renewal(name: str, world: World, lease: Lease | None, state: EdgeState | None, now: datetime) -> tuple[Write, ...]:
    """The Lease's write, where one is due."""
    if state is None or not state.connected:
        return ()
    renewed = lease.spec.renew_time if lease else None
    if renewed is not None and now - renewed < LEASE_EVERY - timedelta(seconds=1):
        return ()
    spec = {
        "holderIdentity": state.edge.uid,
        "leaseDurationSeconds": int(LEASE.total_seconds()),
        "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    stored = world.view.stored(Key(kind_key(Lease), SYSTEM_NAMESPACE, name))
    if stored is not None:
        return (Update({**stored.object, "spec": spec}),)
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE},
        "spec": spec,
    }
    return (Create(body),)
