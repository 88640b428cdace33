"""The gateway host: snapshots in, resources to Envoy, verdicts out. It knows no feed: `run.py` joins the two.

`apply`, `use` and the prober change what Envoy shall hold; the ledger says what Envoy made of it; from both follow the
reports. A host that Envoy refuses is set apart by itself, and everything else on its listener goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from drtp.api.reports import ExposureReport, ExposureState, GatewayReport, Report
from drtp.api.snapshots import Entry, Generation, ProbeTarget, Snapshot
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.ads import DiscoveryService
from drtp.gateway.clocked import Clocked
from drtp.gateway.culprits import Suspects
from drtp.gateway.envoy import EnvoyProcess
from drtp.gateway.flows import FlowBook, RotatingLog
from drtp.gateway.ledger import Docket, Ledger
from drtp.gateway.neighbours import Neighbours
from drtp.gateway.probes import Findings, Prober, client_context
from drtp.gateway.program import Builder, Credentials, Program
from drtp.gateway.resources import Kind
from drtp.gateway.rpc import serve_envoy
from drtp.gateway.settings import GatewaySettings, Paths
from drtp.gateway.udp import UdpHost, is_udp
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock
from drtp.kit.errors import Retryable
from drtp.kit.latest import Latest
from drtp.kit.observe import logger

_log = logger("gateway")

REFUSED_RETRY_S = 5.0
"""A port that was in use may be free; Envoy does not try again by itself."""
COUNT_INTERVAL_S = 2.0
CLOCK_LOOK_S = 1.0
STEADY_S = 10.0
RENEWAL_LOOK_S = 0.02


class AppliedTable(msgspec.Struct, frozen=True):
    """A snapshot is in force, but for the failed entries."""

    generation: Generation
    failed: dict[str, str]


class GatewayHost:
    """One gateway: its Envoy and all that serves it."""

    def __init__(self, settings: GatewaySettings, places: Paths, clock: Clock) -> None:
        """Raises: Terminal if there is no Envoy."""
        self._settings = settings
        self._paths = places
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._clocked = Clocked()
        self._entries: Mapping[str, Entry] = {}
        """The snapshot's, with access as it is at this moment, by addresses alone."""
        self._envoys: Mapping[str, Entry] = {}
        """The snapshot's entries without those of UDP, in which Envoy has no part."""
        self._credentials: Credentials | None = None
        self._program: Program | None = None
        self._ledger = Ledger()
        self._docket = Docket(self._ledger)
        self._discovery = DiscoveryService(self._ledger, clock)
        self._prober = Prober(settings.probe_interval_s, clock)
        self.neighbours = Neighbours(settings.pop_sockets, clock)
        self._audit = RotatingLog(places.audit_log, settings.access_log_bytes_max, settings.access_logs_kept)
        self.envoy = EnvoyProcess(settings, places, clock)
        logs = AccessLogs(audit_path=str(places.audit_log))
        self._builder = Builder(
            logs, settings.proxy_protocol_from, self.envoy.budget.connections, conceals=settings.conceal_visitors
        )
        self._suspects = Suspects(self.envoy.binary, places.run, clock)
        self.flows = FlowBook(RotatingLog(places.access_log, settings.access_log_bytes_max, settings.access_logs_kept))
        self.udp = UdpHost(places.epoch, self.flows, clock)
        self._exposures: dict[str, ExposureReport] = {}
        self._gateway = GatewayReport(envoy_ready=False)
        self._renewal = asyncio.Event()
        self._renewing = False
        self.serving: Latest[int] = Latest()
        """The Envoy (process id) that holds the whole table; set again with each one that does."""
        self.reports: Latest[dict[str, Report]] = Latest({"self": self._gateway})
        """Everything this gateway has to say, whole."""
        self.applied: Latest[AppliedTable] = Latest()

    # ---- what shall be ---------------------------------------------------------------------------------------------

    def apply(self, snapshot: Snapshot) -> None:
        """Make this table what Envoy holds. A lower generation than the present one is refused."""
        if self._snapshot is not None and snapshot.generation < self._snapshot.generation:
            _log.warning("older snapshot ignored", generation=str(snapshot.generation))
            return
        self._snapshot = snapshot
        self._take()
        self._suspects.forget_changed(self._entries)
        self._prober.aim(_targets(snapshot.entries))
        self.neighbours.aim(_targets(snapshot.entries))
        self._rebuild()

    def _take(self) -> None:
        """The snapshot's entries as they are to be carried out at this moment."""
        if self._snapshot is not None:
            self._entries = self._clocked.at(self._snapshot.entries, self._clock.now())
            self._envoys = {key: entry for key, entry in self._entries.items() if not is_udp(entry)}

    def use(self, credentials: Credentials) -> None:
        """Show these to POPs from the next connection on; live ones go on."""
        if credentials != self._credentials:
            self._credentials = credentials
            self._prober.show(client_context(credentials, self._paths.run))
            self.udp.use(credentials)
            self._rebuild()

    def _rebuild(self) -> None:
        if self._snapshot is None:
            return
        found = self._prober.found.value or Findings()
        self._program = self._builder.build(
            self._envoys,
            credentials=self._credentials,
            dead=found.dead,
            leaving=found.leaving,
            near=self.neighbours.found.value or {},
            refused=self._suspects.refused.keys(),
        )
        self._docket.follow(self._envoys, self._program)
        for key in (self._program.touched | self._exposures.keys()) - self._snapshot.entries.keys():
            self._exposures.pop(key, None)
        self.flows.name_services({**self._program.services, **self.udp.aim(self._entries)})
        self._discovery.serve(self._program.resources)
        self._conclude()

    # ---- what is ---------------------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        """Reports follow from the table and the ledger; an entry without a verdict keeps the report it had."""
        snapshot = self._snapshot
        if snapshot is None or self._program is None:
            return
        self._exposures |= self._docket.conclude(self._suspects.refused) | self.udp.conclude()
        self._publish()
        self._tell_pops()
        if self._discovery.connected and self._docket.settled():
            self._note_serving()
        if self._discovery.connected and self._docket.settled() and self.udp.settled():
            failed = {
                key: report.message for key, report in self._exposures.items() if report.state is ExposureState.FAILED
            }
            applied = AppliedTable(generation=snapshot.generation, failed=failed)
            if applied != self.applied.value:
                self.applied.set(applied)

    def _note_serving(self) -> None:
        """Whoever waits for an Envoy hears of it: not before a new one has subscribed, and taken the listeners."""
        pid = self.envoy.pid
        if pid is not None and not self._renewing and pid != self.serving.value:
            self.serving.set(pid)

    def _tell_pops(self) -> None:
        """A POP that stops waits for the word that Envoy sends nobody any more, one that is back for the contrary."""
        program = self._program
        if program is None or program.unused == self._prober.unused:
            return
        if self._ledger.holds_all(Kind.ENDPOINTS, program.resources):
            self._prober.tell(program.unused)

    def _publish(self) -> None:
        reports: dict[str, Report] = {**self._exposures, "self": self._gateway}
        if reports != self.reports.value:
            self.reports.set(reports)

    # ---- life ------------------------------------------------------------------------------------------------------

    @property
    def renewing(self) -> bool:
        """One Envoy is taking over from another, or is about to."""
        return self._renewing or self._renewal.is_set()

    def renew_envoy(self) -> None:
        """Replace Envoy by a hot restart. May be called from a signal handler."""
        self._renewal.set()

    async def run(self, stop: asyncio.Event, leave: asyncio.Event | None = None) -> None:
        """Serve until `stop`, then drain and end Envoy. After `leave`, cancelled or killed, Envoy is left serving."""
        leave = leave or asyncio.Event()
        async with serve_envoy(self._paths.ads_socket, self._discovery, self.flows):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(task)
                        for task in (
                            self._keep_envoy(),
                            self._settle(),
                            self._heed_probes(),
                            self._heed_neighbours(),
                            self._offer_again(),
                            self._count(),
                            self._prober.run(),
                            self.neighbours.run(),
                            self.udp.run(),
                            self._heed_udp(),
                            self._turn_with_the_clock(),
                        )
                    ]
                    await _first(stop.wait(), leave.wait())
                    for task in tasks:
                        task.cancel()
            finally:
                await self.udp.close()
                if stop.is_set():
                    await self.envoy.stop()

    async def _keep_envoy(self) -> None:
        """Adopt or start Envoy, and start it again whenever it ends."""
        delays = full_jitter(0.1, 10.0)
        while True:
            started = self._clock.monotonic()
            try:
                await self.envoy.ensure()
                while await self._renewal_before_end():
                    await self._renew()
                _log.error("envoy ended")
            except Retryable as error:
                _log.error("envoy did not start", code=error.code, reason=error.what)
            self.flows.envoy_gone()
            self._say(ready=False, connections=0)
            if self._clock.monotonic() - started > STEADY_S:
                delays = full_jitter(0.1, 10.0)
            await self._clock.sleep(next(delays))

    async def _renewal_before_end(self) -> bool:
        """Wait for whichever comes first: the wish for another Envoy, or the end of this one."""
        await _first(self._renewal.wait(), self.envoy.wait())
        return self._renewal.is_set()

    async def _renew(self) -> None:
        self._renewal.clear()
        self._renewing = True
        streams = self._ledger.streams
        try:
            await self.envoy.renew()
            while self._ledger.streams == streams:
                await self._clock.sleep(RENEWAL_LOOK_S)
        except Retryable as error:
            _log.error("envoy not replaced", code=error.code, reason=error.what)
        finally:
            self._renewing = False
        self._conclude()

    async def _settle(self) -> None:
        """Draw conclusions from each batch of verdicts; find whose fault a refused route table is."""
        async for _batch in self._ledger.changed:
            program = self._program
            if program is not None and await self._suspects.examine(program, self._ledger):
                self._rebuild()
            else:
                self._conclude()
            if not self._gateway.envoy_ready:
                await self._look()

    async def _heed_probes(self) -> None:
        async for _found in self._prober.found:
            self._rebuild()

    async def _heed_neighbours(self) -> None:
        async for _found in self.neighbours.found:
            self._rebuild()

    async def _heed_udp(self) -> None:
        async for _change in self.udp.changed:
            self._conclude()

    async def _turn_with_the_clock(self) -> None:
        """A schedule begins or ends: what visitors may is another then, though the table is the same."""
        while True:
            await self._clock.sleep(CLOCK_LOOK_S)
            if self._clocked.is_due(self._clock.now()):
                self._take()
                self._rebuild()

    async def _offer_again(self) -> None:
        while True:
            await self._clock.sleep(REFUSED_RETRY_S)
            if self._ledger.any_refused():
                self._discovery.retry()

    async def _count(self) -> None:
        """Connections, and logs that have grown too large while nobody rotated them."""
        # From the start: a host before this one may have moved the file and died before Envoy heard of it.
        reopened = False
        while True:
            await self._look()
            if self._audit.size() > self._settings.access_log_bytes_max:
                self._audit.rotate()
                reopened = False
            reopened = reopened or await self.envoy.admin.reopen_logs()
            self.envoy.bound_log(self._settings.access_log_bytes_max)
            self.envoy.end_former()
            await self._clock.sleep(COUNT_INTERVAL_S)

    async def _look(self) -> None:
        if self._renewing:
            return  # one has closed its admin interface, the next one may not have opened its own
        connections = await self.envoy.admin.connections()
        ready = self._discovery.connected and await self.envoy.admin.ready()
        self._say(ready=ready, connections=connections or 0)

    def _say(self, *, ready: bool, connections: int) -> None:
        self._gateway = GatewayReport(envoy_ready=ready, connections=connections)
        self._publish()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is over; the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(wait) for wait in waits}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _targets(entries: Mapping[str, Entry]) -> dict[str, ProbeTarget]:
    return {entry.server: entry for entry in entries.values() if isinstance(entry, ProbeTarget)}
