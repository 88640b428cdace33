"""The POP host: snapshots go into the core, what the core sees goes into reports. It knows no feed and no signals.

apply:    snapshot -> ports (durable) -> table -> core
refresh:  core's stats -> vitals, reports
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from drtp.api.reports import Report
from drtp.api.snapshots import Snapshot
from drtp.client.reportboard import ReportBoard
from drtp.client.roundtrips import RoundTripMeter, Target
from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.latest import Latest
from drtp.kit.memory import HighWater
from drtp.kit.observe import logger
from drtp.pop.farewell import MOVE_MAX_S, RETURN_MAX_S
from drtp.pop.ports import Place, PortBook
from drtp.pop.reporting import Standing, peer_reports, reports_of
from drtp.pop.table import Table, port_users, read_table
from drtp.pop.vitals import Fitness, Pulse, Vitals, descriptors_share
from drtp.rules.certificates import dns_names
from drtp.rules.ending import Ending
from drtp.tunnel import (
    ApplyOutcome,
    Event,
    Refused,
    RouteBound,
    RouteFailed,
    SessionDown,
    SessionUp,
    Stats,
    TunnelServer,
    delta_between,
)

log = logger("pop")

REFRESH_S = 1.0
REFRESH_SHARE = 0.2
"""Of the time, at most, goes into refreshes: a storm of events slows them down, not the host."""
PORTS_TRIED = 8
"""Strangers' programs in the POP's own range are a mistake of set-up: more of them are reported, not searched."""
DRAIN_LOOK_S = 0.2
MOVE_LOOK_S = 0.05
ROOM_LOOK_S = 2.0
"""How often a POP with a full disk looks whether a new endpoint's port can be written down by now."""
_IN_USE = f"os error {errno.EADDRINUSE}"
"""In the core's words for an address that another program holds."""


class PopHost:
    """One tunnel server process' state. Everything runs in one event loop; `apply` has one caller."""

    def __init__(
        self,
        tunnel: TunnelServer,
        book: PortBook,
        sockets: Path,
        reports: ReportBoard,
        clock: Clock,
        *,
        awaited: frozenset[str] = frozenset(),
    ) -> None:
        """`sockets`: private directory of Unix endpoints, this process' alone; sockets of one before are removed.

        `awaited`: agents that were here before a planned stop.
        """
        self._tunnel = tunnel
        self._book = book
        self._sockets = sockets
        _clear(sockets)
        self._reports = reports
        self._clock = clock
        self._crowd = HighWater()
        self.meter = RoundTripMeter(clock)
        """How other POPs near this one are reached; it measures while somebody runs it."""
        self._pulse = Pulse()
        self._dirty = asyncio.Event()
        self._applied: dict[str, dict[str, object]] | None = None
        self._draining = False
        self._awaited = awaited
        self._awaits_until_s = clock.monotonic() + RETURN_MAX_S
        self._ending = Ending()
        self._unsettled_s: float | None = None
        """Since when ports wait for room on the disk."""
        self.due: Latest[Snapshot] = Latest()
        """The snapshot to put in force: a new one, or the same again because an endpoint lost its port, or a caller's
        end has come.
        """
        self.table = Table()
        self.applied = asyncio.Event()
        """A table is in force."""
        self.standing = Standing()
        self.stats = Stats()

    def shows(self, chain_pem: bytes) -> None:
        """This certificate is in force: with names below its own one it can take introductions."""
        introductions = any(name.startswith("*.") for name in dns_names(chain_pem))
        self.standing = replace(self.standing, introductions=introductions)
        self._dirty.set()

    async def apply(self, snapshot: Snapshot) -> dict[str, str]:
        """Put a snapshot in force as of now; gives the entries that are not, with the reason. Idempotent."""
        snapshot = msgspec.structs.replace(snapshot, entries=self._ending.at(snapshot.entries, self._clock.now()))
        places = await self._places(snapshot)
        table = read_table(snapshot, places, self._sockets, self.table)
        outcome = await self._give(table)
        for _attempt in range(PORTS_TRIED):
            taken = _taken_by_strangers(table, outcome)
            if not taken:
                break
            for key in taken:
                connection = table.routes[key].connection
                log.warning("endpoint port taken by another program", place=str(places[connection]))
                places[connection] = await asyncio.to_thread(self._book.replace, connection)
            table = read_table(snapshot, places, self._sockets, self.table)
            outcome = _merged(outcome, await self._give(table))
        self.table = table
        self.meter.aim(Target(peer.name, peer.address, peer.port) for peer in table.peers)
        self.applied.set()
        self.standing = _standing(table, outcome, self.standing)
        refused = {**table.refused, **self.standing.failed}
        for key, reason in refused.items():
            log.warning("entry quarantined", entry=key, reason=reason)
        self._dirty.set()
        return refused

    async def _places(self, snapshot: Snapshot) -> dict[str, Place | None]:
        """On a full disk everything goes on but endpoints that are new: what is revoked must be cut all the same."""
        wanted = port_users(snapshot)
        try:
            places = await asyncio.to_thread(self._book.settle, wanted)
        except OSError as error:
            log.warning("endpoint ports not written down", error=str(error))
            self._unsettled_s = self._clock.monotonic()
            return self._book.kept(wanted)
        self._unsettled_s = None
        return places

    async def _give(self, table: Table) -> ApplyOutcome:
        outcome = await self._tunnel.apply(delta_between(self._applied, table.documents))
        # A refused entry counts as held, but as nothing in particular: it is given again with the next snapshot, for
        # what refused it may have changed, and is taken back when it is no longer wanted.
        failed = {key for key, entry in outcome.entries.items() if not entry.ok}
        self._applied = {key: {} if key in failed else entry for key, entry in table.documents.items()}
        return outcome

    async def follow_events(self) -> None:
        """Log transitions and wake the reports, until cancelled."""
        async for batch in self._tunnel.events():
            for event in batch:
                self._note(event)
            self._dirty.set()

    def _note(self, event: Event) -> None:
        match event:
            case SessionUp(agent=agent, epoch=epoch, peer=peer):
                log.info("session up", agent=agent, epoch=epoch, peer=peer)
            case SessionDown(agent=agent, reason=reason):
                log.info("session down", agent=agent, reason=reason)
            case Refused(subject=agent, reason=reason):
                log.warning("agent refused", agent=agent, reason=reason)
            case RouteBound(key=key, bound=bound, path=path):
                if key in self.table.routes:
                    self.standing.failed.pop(key, None)
                    self.standing.bound[key] = bound
                    _set_or_drop(self.standing.paths, key, path)
            case RouteFailed(key=key, message=message):
                log.warning("endpoint failed", entry=key, reason=message)
                if key in self.table.routes:
                    self.standing.failed[key] = message
                    self.standing.bound.pop(key, None)
                    self.standing.paths.pop(key, None)
                if self._applied is not None and key in self._applied:
                    # Given again with the next snapshot.
                    self._applied[key] = {}
                if _IN_USE in message and self.due.value is not None:
                    # An endpoint listens while an agent is there; meanwhile a stranger's program took its port.
                    self.due.set(self.due.value)
            case _:
                log.warning("event not for a POP", type=type(event).__name__)

    async def keep_fresh(self) -> None:
        """Refresh at every wake-up and once a second, until cancelled. Raises: Terminal DRTP-4025 for a dead driver."""
        while True:
            self._dirty.clear()
            began_s = self._clock.monotonic()
            await self.refresh()
            if self._unsettled_s is not None and began_s - self._unsettled_s > ROOM_LOOK_S and self.due.value:
                self._unsettled_s = began_s
                self.due.set(self.due.value)
            if self._ending.is_due(self._clock.now()) and self.due.value is not None:
                self.due.set(self.due.value)
            if self._pulse.dead:
                raise Terminal("DRTP-4025")
            await self._clock.sleep((self._clock.monotonic() - began_s) * (1 / REFRESH_SHARE - 1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._dirty.wait()

    async def refresh(self) -> None:
        """Read the core's whole state and say what changed."""
        before, self.stats = self.stats, await self._tunnel.stats()
        self._tell_dry_runs(before)
        self._crowd.note(self.stats.pre_auth + self.stats.streams)
        self._awaited -= self.agents
        vitals = self._judged(self.stats)
        said: Mapping[str, Report] = self._reports.reports
        reports = reports_of(self.table, self.standing, self.stats, vitals, said)
        self._reports.replace_all(reports | peer_reports(self.meter.paths, said))

    def vitals(self) -> Vitals:
        """By the newest stats; a POP whose refresh stands still is stuck, too."""
        return self._judged(None)

    def _tell_dry_runs(self, before: Stats) -> None:
        """One line for each connection on which policies that only count have said no since `before`."""
        known = {one.connection: one.would_refuse_total for one in before.connections}
        for one in self.stats.connections:
            more = one.would_refuse_total - known.get(one.connection, 0)
            if more > 0:
                log.info("policy would refuse", connection=one.connection, service=one.service, visitors=more)

    def _judged(self, stats: Stats | None) -> Vitals:
        now_s = self._clock.monotonic()
        vitals = self._pulse.vitals(now_s, stats, draining=self._draining, descriptors_share=descriptors_share())
        if vitals.fitness is Fitness.OK and self._awaited and now_s < self._awaits_until_s:
            return replace(vitals, fitness=Fitness.RETURNING)
        return vitals

    @property
    def agents(self) -> frozenset[str]:
        """Agents with a session here."""
        return frozenset(session.peer for session in self.stats.sessions if session.live)

    async def drain(self, deadline_s: float, moved: Callable[[], bool] = lambda: True) -> None:
        """Say so, and serve on until `moved`: gateways send nobody any more. Then send agents elsewhere and take no new
        visitor; return when the last one is gone, or reset `deadline_s` after the call.
        """
        until_s = self._clock.monotonic() + deadline_s
        self._draining = True
        await self.refresh()
        log.info("leaving", streams=self.stats.streams, deadline_s=deadline_s)
        move_until_s = self._clock.monotonic() + min(MOVE_MAX_S, deadline_s / 2)
        while not moved() and self._clock.monotonic() < move_until_s:
            await self._clock.sleep(MOVE_LOOK_S)
        log.info("draining", moved=moved(), streams=self.stats.streams)
        self._tunnel.drain(max(0.0, until_s - self._clock.monotonic()))
        while self._clock.monotonic() < until_s + DRAIN_LOOK_S:
            await self._clock.sleep(DRAIN_LOOK_S)
            await self.refresh()
            if self.stats.draining and self.stats.streams == 0 and not self.stats.sessions:
                break
        log.info("drained", streams=self.stats.streams)


def _taken_by_strangers(table: Table, outcome: ApplyOutcome) -> list[str]:
    """Routes whose port another program holds, by the system's own error number in the core's words."""
    return [
        key
        for key, entry in outcome.entries.items()
        if not entry.ok and _IN_USE in (entry.error or "") and key in table.routes and key in table.documents
    ]


def _clear(sockets: Path) -> None:
    """What a killed process left: a gateway would try each in vain."""
    for left in sockets.glob("*.sock"):
        if left.is_socket():
            left.unlink(missing_ok=True)


def _set_or_drop(column: dict[str, str], key: str, value: str | None) -> None:
    if value:
        column[key] = value
    else:
        column.pop(key, None)


def _merged(first: ApplyOutcome, then: ApplyOutcome) -> ApplyOutcome:
    return ApplyOutcome(entries={**first.entries, **then.entries})


def _standing(table: Table, outcome: ApplyOutcome, before: Standing) -> Standing:
    """How every entry stands: the outcome's word where there is one, else what held before."""
    kept = replace(
        before,
        bound={key: at for key, at in before.bound.items() if key in table.documents},
        paths={key: at for key, at in before.paths.items() if key in table.documents},
        failed={key: why for key, why in before.failed.items() if key in table.documents},
        warnings={key: why for key, why in before.warnings.items() if key in table.documents},
    )
    for key, entry in outcome.entries.items():
        if key not in table.documents:
            continue
        for column in (kept.bound, kept.paths, kept.failed, kept.warnings):
            column.pop(key, None)
        if not entry.ok:
            kept.failed[key] = entry.error or "The tunnel did not take it."
            continue
        if entry.bound:
            kept.bound[key] = entry.bound
        _set_or_drop(kept.paths, key, entry.path)
        if entry.error:
            kept.warnings[key] = entry.error
    return kept
