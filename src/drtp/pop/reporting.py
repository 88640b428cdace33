"""From the table and the core's stats to what this POP says of each route: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drtp.api.drtp import ClientStatus, ProgrammingStatus
from drtp.api.reports import PeerPath, PeerPaths, PopReport, Report, RouteReport, SessionState
from drtp.api.snapshots import RouteEntry
from drtp.client.roundtrips import Path
from drtp.pop.table import Table
from drtp.pop.vitals import Fitness, Vitals
from drtp.rules import entrykeys
from drtp.rules.measures import STEP_LOSS, settled
from drtp.tunnel import SessionStats, Stats


@dataclass(frozen=True, slots=True)
class Standing:
    """How the core took the table: `bound` addresses, `paths` of sockets beside them, `failed` entries, `warnings`.

    A warning is of an entry that denies in part. `introductions`: the certificate has the names for them.
    """

    bound: dict[str, str] = field(default_factory=dict[str, str])
    paths: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    warnings: dict[str, str] = field(default_factory=dict[str, str])
    introductions: bool = False


def reports_of(
    table: Table, standing: Standing, stats: Stats, vitals: Vitals, said: Mapping[str, Report]
) -> dict[str, Report]:
    """Everything this POP says. `said`: what it said last, so that gauges do not chatter and a loss can be told."""
    draining = vitals.fitness is Fitness.DRAINING
    sessions = _by_agent(stats)
    visitors = {connection.connection: connection.streams for connection in stats.connections}
    reports: dict[str, Report] = {
        key: _route_report(
            key,
            entry,
            table,
            standing=standing,
            sessions=sessions,
            draining=draining,
            # How many are left matters to whoever waits for the last one.
            visitors=visitors.get(entry.connection, 0) if draining or entry.leaving else None,
            said=said.get(key),
        )
        for key, entry in table.routes.items()
    }
    before = said.get("self")
    streams_said = before.streams if isinstance(before, PopReport) else None
    reports["self"] = PopReport(
        health=vitals.health,
        connections=len(table.routes),
        streams=round(settled(streams_said, stats.streams) or 0),
        draining=draining,
    )
    return reports


def peer_reports(paths: Mapping[str, Path], said: Mapping[str, Report]) -> dict[str, Report]:
    """How other POPs are reached, where that is known."""
    before = said.get(entrykeys.PEERS)
    known = before.paths if isinstance(before, PeerPaths) else {}
    found = {name: _peer_path(path, known.get(name)) for name, path in paths.items()}
    return {entrykeys.PEERS: PeerPaths(paths=found)} if found else {}


def _peer_path(path: Path, known: PeerPath | None) -> PeerPath:
    return PeerPath(
        round_trip_ms=settled(known and known.round_trip_ms, path.round_trip_ms) or 0.0,
        round_trip_floor_ms=settled(known and known.round_trip_floor_ms, path.floor_ms) or 0.0,
        jitter_ms=settled(known and known.jitter_ms, path.jitter_ms) or 0.0,
        loss=settled(known and known.loss, path.loss, STEP_LOSS) or 0.0,
    )


def _by_agent(stats: Stats) -> dict[str, SessionStats]:
    """Each agent's best session: live before not, newer epoch before older."""
    best: dict[str, SessionStats] = {}
    for session in stats.sessions:
        other = best.get(session.peer)
        if other is None or (session.live, session.epoch) > (other.live, other.epoch):
            best[session.peer] = session
    return best


def _route_report(
    key: str,
    entry: RouteEntry,
    table: Table,
    *,
    standing: Standing,
    sessions: Mapping[str, SessionStats],
    draining: bool,
    visitors: int | None,
    said: Report | None,
) -> RouteReport:
    fault = table.refused.get(key) or standing.failed.get(key)
    before = said.session if isinstance(said, RouteReport) else SessionState(status=ClientStatus.WAITING)
    if fault:
        # Not in force, so it repeats no sources.
        return RouteReport(
            connection=entry.connection,
            programming=ProgrammingStatus.FAILED,
            mode=entry.mode,
            session=_session(entry, sessions, before),
            visitors=visitors,
            message=fault,
        )
    bound = standing.bound.get(key, "")
    address, port = _split(bound)
    programming = ProgrammingStatus.PROGRAMMED if bound else ProgrammingStatus.PROGRAMMING
    return RouteReport(
        connection=entry.connection,
        programming=ProgrammingStatus.DRAINING if draining else programming,
        mode=entry.mode,
        address=address,
        port=port,
        path=standing.paths.get(key, ""),
        introductions=standing.introductions,
        byte_rates=True,
        session=_session(entry, sessions, before),
        visitors=visitors,
        message=standing.warnings.get(key, ""),
        sources=entry.sources if bound else (),
    )


def _split(bound: str) -> tuple[str, int]:
    """(address, port) of what the core says is bound."""
    if not bound:
        return "", 0
    address, _, port = bound.rpartition(":")
    return address.strip("[]"), int(port)


def _session(entry: RouteEntry, sessions: Mapping[str, SessionStats], before: SessionState) -> SessionState:
    mine = [sessions[agent] for agent in entry.agents if agent in sessions]
    session = max(mine, key=lambda one: (one.live, one.epoch), default=None)
    if session is None or not session.live:
        if session is not None and before.status in {ClientStatus.WAITING, ClientStatus.CONNECTING}:
            return SessionState(status=ClientStatus.CONNECTING, agent=session.peer, epoch=session.epoch)
        known = before.status in {ClientStatus.CONNECTED, ClientStatus.DISCONNECTED}
        status = ClientStatus.DISCONNECTED if known else ClientStatus.WAITING
        return SessionState(status=status, agent=before.agent, epoch=before.epoch)
    same = before.agent == session.peer and before.epoch == session.epoch
    known = before if same else SessionState(status=ClientStatus.CONNECTED)
    measured = session.round_trip_ms is not None
    return SessionState(
        status=ClientStatus.CONNECTED,
        agent=session.peer,
        epoch=session.epoch,
        since_unix_ms=session.since_unix_ms,
        peer=session.address,
        lanes=len(session.lanes),
        round_trip_ms=settled(known.round_trip_ms, session.round_trip_ms),
        round_trip_floor_ms=settled(known.round_trip_floor_ms, session.round_trip_floor_ms),
        jitter_ms=settled(known.jitter_ms, session.jitter_ms) if measured else None,
        loss=settled(known.loss, session.loss, STEP_LOSS) if measured else None,
    )
