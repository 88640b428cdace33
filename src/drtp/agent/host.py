"""The agent host: snapshots come from the feed and go into the core; events and stats come out as view and reports.

    feed.snapshot -> read_plan -> core.apply        core events -> refresh -> view, reports

Level-triggered: an event only wakes `_refresh`, which reads the core's whole state. With the control plane down all of
this goes on from the snapshot on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from drtp.agent.hosting import Host, tunnel_identity
from drtp.agent.metrics import AgentCollector
from drtp.agent.picture import pop_views, service_views
from drtp.agent.pins import Pins
from drtp.agent.plan import Plan, read_plan, service_key, targets_of
from drtp.agent.rates import Meters, total
from drtp.agent.reporting import reports_of
from drtp.agent.settings import AgentSettings
from drtp.agent.view import AgentPhase, AgentView
from drtp.agent.ways import WayMemory, place, ways_of
from drtp.agent.words import plain
from drtp.api.snapshots import Snapshot
from drtp.client.epoch import next_epoch
from drtp.client.feed import Feed, FeedPhase
from drtp.client.identity import Identity
from drtp.client.network import present_network
from drtp.client.proxies import Proxies, proxies
from drtp.client.roundtrips import RoundTripMeter
from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.latest import Latest
from drtp.kit.memory import HighWater
from drtp.kit.observe import REGISTRY, logger
from drtp.rules.ending import Ending
from drtp.tunnel import (
    AgentConfig,
    Event,
    Fenced,
    LocalDown,
    LocalUp,
    Refused,
    Target,
    TunnelAgent,
    TunnelDown,
    TunnelUp,
    Ways,
    delta_between,
)

log = logger("agent")

GOODBYE_S = 0.1
"""For the last reports to leave."""
GOODBYE_LOOK_S = 0.05
NETWORK_LOOK_S = 5.0
"""A machine that moved to another network finds out within this."""


@dataclass(slots=True)
class _Running:
    """What exists while the host runs."""

    tunnel: TunnelAgent
    pins: Pins
    targets: Mapping[str, Target]
    plan: Plan
    applied: dict[str, dict[str, object]] | None = None
    place: str = ""
    """The network, and the proxy in force: see `WayMemory`."""
    ways: Mapping[str, Ways] | None = None
    """As the core has them."""


class AgentHost(Host[AgentView]):
    """One agent process' tunnels."""

    def __init__(self, settings: AgentSettings, *, clock: Clock | None = None, feed: Feed | None = None) -> None:
        """`feed` None: made from the identity in the state directory.

        Raises: Terminal for loose file modes, Invalid for a proxy that cannot be used.
        """
        super().__init__("agent", AgentView(), settings, clock, feed)
        self._settings = settings
        self._targets = settings.targets
        self._proxies: Proxies = proxies()
        self._memory = WayMemory(settings.state_dir)
        self._due: Latest[Snapshot] = Latest()
        self._ending = Ending()
        self._meters = Meters()
        self._meter = RoundTripMeter(self._clock)
        self._crowd = HighWater()

    def retarget(self, targets: Mapping[str, Target]) -> None:
        """From now on visitors may reach exactly these. Services that stay as they are do not notice."""
        self._targets = dict(targets)
        if self._due.value is not None:
            self._due.set(self._due.value)

    async def _work(self, identity: Identity) -> None:
        running = await self._start(identity)
        try:
            async with self._pages(), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._feed.run()),
                    group.create_task(self._take_snapshots()),
                    group.create_task(self._follow_plans(running)),
                    group.create_task(self._follow_identity(running.tunnel)),
                    group.create_task(self._follow_feed_state()),
                    group.create_task(self._follow_events(running)),
                    group.create_task(self._keep_fresh(partial(self._refresh, running))),
                    group.create_task(self._follow_network(running)),
                    group.create_task(self._meter.run()),
                ]
                await self._stopping.wait()
                await self._drain(running)
                for task in tasks:
                    task.cancel()
        finally:
            await running.tunnel.close()

    async def _start(self, identity: Identity) -> _Running:
        settings = self._settings
        config = AgentConfig(
            epoch=next_epoch(settings.state_dir / "epoch", self._clock),
            targets=dict(self._targets),
            # Without a target from the command line the pins decide, which the core does not know yet.
            allow_target=settings.allow_target or not self._targets,
            lanes=settings.lanes,
        )
        self._phase = AgentPhase.CONNECTING
        tunnel = TunnelAgent(config, tunnel_identity(identity))
        return _Running(tunnel, self._pins(), self._targets, Plan(), place=await self._place())

    async def _place(self) -> str:
        return place(await asyncio.to_thread(present_network), self._proxies)

    def _pins(self) -> Pins:
        return Pins(self._targets, self._settings.state_dir / "pins.json", self._settings.named)

    @contextlib.asynccontextmanager
    async def _pages(self) -> AsyncGenerator[None, None]:
        wanted = self._settings.local_address
        if wanted is None:
            yield
            return
        # Late: an agent without pages starts faster without a web server.
        from drtp.agent.pages import agent_readiness, free_socket, status_pages

        collector = AgentCollector(self.view)
        REGISTRY.register(collector)
        try:
            hosts = self._settings.local_hosts
            state = lambda: agent_readiness(self._seen)  # noqa: E731 - one expression, used once
            async with status_pages(free_socket(*wanted), state, hosts, self._clock) as url:
                self._local_url = url
                log.info("status pages", url=url)
                yield
        finally:
            REGISTRY.unregister(collector)

    async def _take_snapshots(self) -> None:
        async for snapshot in self._feed.snapshot:
            self._due.set(snapshot)

    def _retargeted(self, running: _Running) -> Mapping[str, Target] | None:
        """The targets, where they are others now. Services whose own has changed are given to the core again."""
        former, targets = running.targets, self._targets
        if former is targets:
            return None
        running.targets, running.pins = targets, self._pins()
        for service in running.plan.services:
            named, key = f"{service.namespace}/{service.name}", service_key(service.connection)
            if running.applied and key in running.applied and former.get(named) != targets.get(named):
                running.applied[key] = {}
        return targets

    async def _follow_plans(self, running: _Running) -> None:
        async for due in self._due:
            snapshot = msgspec.structs.replace(due, entries=self._ending.at(due.entries, self._clock.now()))
            former, targets = running.plan.refused, self._retargeted(running)
            plan = read_plan(snapshot, running.pins, running.plan, allow_target=self._settings.allow_target)
            delta = delta_between(running.applied, plan.documents)
            ways = self._revised(running, plan)
            outcome = await running.tunnel.apply(msgspec.structs.replace(delta, targets=targets, ways=ways))
            faults = {key: entry.error or "not taken" for key, entry in outcome.entries.items() if not entry.ok}
            # A refused entry counts as held, but as nothing in particular: given again next time, taken back when gone.
            running.applied = {key: {} if key in faults else entry for key, entry in plan.documents.items()}
            running.plan = plan.also_refused(faults)
            # Behind a proxy a handshake would measure the proxy, if it came about at all.
            straight = (target for target in targets_of(plan) if self._proxies.to(target.address, target.port) is None)
            self._meter.aim(straight)
            services = {service_key(service.connection) for service in plan.services}
            for key, reason in running.plan.refused.items():
                # A service's refusal is in the view, for whoever shows it; the same words once are enough.
                if key not in services and former.get(key) != reason:
                    log.warning("plan entry refused", entry=key, reason=reason)
            self._feed.applied(snapshot.generation, running.plan.refused)
            self._dirty.set()

    def _revised(self, running: _Running, plan: Plan) -> Mapping[str, Ways] | None:
        """The ways to the plan's POPs, where they are others than the core has."""
        worked = self._memory.worked(running.place)
        wanted = ways_of(plan.servers, self._proxies, worked, quic=self._settings.quic)
        if wanted == running.ways:
            return None
        running.ways = wanted
        return wanted

    async def _follow_network(self, running: _Running) -> None:
        while True:
            await self._clock.sleep(NETWORK_LOOK_S)
            now = await self._place()
            if now != running.place:
                log.info("network changed", place=now)
                running.place = now
                if self._due.value is not None:
                    self._due.set(self._due.value)

    async def _follow_feed_state(self) -> None:
        async for state in self._feed.state:
            self._dirty.set()
            if state.phase is FeedPhase.REFUSED and state.terminal:
                raise Terminal(state.code, state.message, state.remedy)

    async def _follow_events(self, running: _Running) -> None:
        async for batch in running.tunnel.events():
            for event in batch:
                _note(event)
                if isinstance(event, TunnelUp):
                    await asyncio.to_thread(self._memory.remember, running.place, event.way)
            self._dirty.set()

    async def _refresh(self, running: _Running) -> bool:
        """Read the core's whole state; publish the view and say what changed. True: the core gave an old answer."""
        if self._ending.is_due(self._clock.now()) and self._due.value is not None:
            self._due.set(self._due.value)
        stats = await running.tunnel.stats(flows=True)
        self._crowd.note(stats.streams)
        plan = running.plan
        pops = pop_views(plan, stats)
        rates = self._meters.rates(self._clock.monotonic(), stats.connections)
        services = service_views(plan, stats, pops, rates)
        said = dict(self._feed.reports.reports)
        self._feed.reports.replace_all(reports_of(plan, services, pops, self._meter.paths, said))
        if self._phase in {AgentPhase.CONNECTING, AgentPhase.READY}:
            ready = any(service.ready for service in services)
            self._phase = AgentPhase.READY if ready else AgentPhase.CONNECTING
        self._publish(
            phase=self._phase,
            services=services,
            pops=pops,
            flows=stats.recent,
            feed=self._feed_view(),
            certificate=self._certificate_view(),
            streams=stats.streams,
            rates=total(rates),
            quarantined=plan.refused,
            local_url=self._local_url,
        )
        return stats.stale

    async def _drain(self, running: _Running) -> None:
        """GOAWAY to every POP; visitors finish, until the deadline or a second `stop`."""
        self._phase = AgentPhase.DRAINING
        log.info("draining", deadline_s=self._settings.drain_s)
        running.tunnel.drain(self._settings.drain_s)
        self._dirty.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s + 1.0):
                await self._quiet(running)
        log.info("drained", forced=self._forced.is_set())

    async def _quiet(self, running: _Running) -> None:
        async with asyncio.TaskGroup() as group:
            forced = group.create_task(self._forced.wait())
            emptied = group.create_task(self._emptied(running))
            await asyncio.wait({forced, emptied}, return_when=asyncio.FIRST_COMPLETED)
            forced.cancel()
            emptied.cancel()

    async def _emptied(self, running: _Running) -> None:
        """The last visitor has gone, and POPs have ended their sessions: nobody is on the way any more."""
        stats = await running.tunnel.stats()
        while stats.streams > 0 or any(session.live for session in stats.sessions):
            await self._clock.sleep(GOODBYE_LOOK_S)
            stats = await running.tunnel.stats()
        await self._clock.sleep(GOODBYE_S)


def _note(event: Event) -> None:
    """One log line for each transition. Raises: Terminal for the event that ends everything."""
    match event:
        case Fenced(message=message):
            raise Terminal("DRTP-4011", f"A newer instance of this agent serves now ({message}).")
        case TunnelUp(server=server, peer=peer, way=way):
            log.info("tunnel up", server=server, peer=peer, way=way)
        case TunnelDown(server=server, message=message):
            log.warning("tunnel down", server=server, reason=message)
        case Refused(subject=server, reason=reason):
            log.warning("refused by tunnel server", server=server, reason=reason)
        case LocalDown(service=service, message=message):
            todo = "Start it, or mend host and port; it is tried again until it answers."
            log.warning("local service unreachable", service=service, code="DRTP-4013", reason=plain(message), do=todo)
        case LocalUp(service=service):
            log.info("local service reachable", service=service)
        case _:
            log.warning("event not for an agent", type=type(event).__name__)
