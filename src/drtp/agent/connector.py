"""The connector host: `datumctl connect`. As an agent's: feed -> plan -> core, and the core's state -> view.

With the control plane down all of this goes on from the snapshot on disk, for as long as the certificate lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from drtp.agent.connectplan import ConnectPlan, Port, port_views, read_connect_plan
from drtp.agent.connectview import ConnectorView
from drtp.agent.hosting import Host, tunnel_identity
from drtp.agent.picture import views_of
from drtp.agent.settings import DRAIN_S, LocalAddress
from drtp.agent.view import AgentPhase
from drtp.agent.ways import ways_of
from drtp.api.reports import ConnectorRegistration
from drtp.api.snapshots import Snapshot
from drtp.client.epoch import next_epoch
from drtp.client.feed import Feed, FeedPhase
from drtp.client.identity import Identity
from drtp.client.proxies import proxies
from drtp.kit.clock import Clock
from drtp.kit.errors import Terminal
from drtp.kit.observe import logger
from drtp.tunnel import (
    Event,
    Fenced,
    GatewayConfig,
    Liveness,
    Refused,
    TunnelConnector,
    TunnelDown,
    TunnelUp,
    Ways,
    delta_between,
)

log = logger("connect")

DRAIN_LOOK_S = 0.05
SETTLED_S = 1.0
"""A control plane that has nothing newer than what is on disk does not say so: after this it has had the time."""

_LIVENESS = Liveness(ping_ms=500, idle_ping_ms=500, idle_dead_ms=2_500)
"""A connection that is opened now must not find out that its POP is gone: idle lanes are watched as busy ones are,
and a silent POP is passed over within a second.
"""


@dataclass(frozen=True, slots=True)
class ConnectorSettings:
    """`state_dir` as an agent's. `local_address`: where `/ready` and `/metrics` are; None for neither."""

    state_dir: Path
    ports: tuple[Port, ...]
    registration: ConnectorRegistration
    local_address: LocalAddress | None = None
    drain_s: float = DRAIN_S


@dataclass(slots=True)
class _Running:
    """What exists while the host runs."""

    tunnel: TunnelConnector
    plan: ConnectPlan = field(default_factory=ConnectPlan)
    applied: dict[str, dict[str, object]] | None = None
    bound: dict[str, str] = field(default_factory=dict[str, str])
    ways: Mapping[str, Ways] | None = None
    refused: dict[str, str] = field(default_factory=dict[str, str])


class ConnectorHost(Host[ConnectorView]):
    """One connector process."""

    def __init__(self, settings: ConnectorSettings, *, clock: Clock | None = None, feed: Feed | None = None) -> None:
        """`feed` None: made from the identity in the state directory. Raises: Terminal, Invalid."""
        super().__init__("connect", ConnectorView(), settings, clock, feed)
        self._settings = settings
        self._proxies = proxies()
        self._from_disk = self._feed.snapshot.value
        self._told = False
        """A snapshot has come since the start."""
        self._up_s: float | None = None

    async def _work(self, identity: Identity) -> None:
        config = GatewayConfig(epoch=next_epoch(self._settings.state_dir / "epoch", self._clock), liveness=_LIVENESS)
        running = _Running(TunnelConnector(config, tunnel_identity(identity)))
        self._phase = AgentPhase.CONNECTING
        try:
            # Before anything else: a port that is taken is said at once, and one that is free is ours.
            await self._apply(running, self._feed.snapshot.value)
            async with self._pages(), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work)
                    for work in (
                        self._feed.run(),
                        self._follow_plans(running),
                        self._follow_identity(running.tunnel),
                        self._follow_feed_state(),
                        self._follow_events(running),
                        self._keep_fresh(partial(self._refresh, running)),
                    )
                ]
                await self._stopping.wait()
                await self._drain(running)
                for task in tasks:
                    task.cancel()
        finally:
            await running.tunnel.close()

    @contextlib.asynccontextmanager
    async def _pages(self) -> AsyncGenerator[None, None]:
        wanted = self._settings.local_address
        if wanted is None:
            yield
            return
        # Late: a connector without pages starts faster without a web server.
        from drtp.agent.pages import Readiness, free_socket, status_pages

        def state() -> Readiness:
            seen = self._seen
            return Readiness(seen.ready, seen.phase, seen.ports, seen.failure)

        async with status_pages(free_socket(*wanted), state, (), self._clock) as url:
            self._local_url = url
            log.info("status pages", url=url)
            yield

    async def _follow_plans(self, running: _Running) -> None:
        async for snapshot in self._feed.snapshot:
            await self._apply(running, snapshot)
            self._feed.applied(snapshot.generation, running.refused)
            self._dirty.set()

    async def _apply(self, running: _Running, snapshot: Snapshot | None) -> None:
        plan = read_connect_plan(snapshot, self._settings.ports, running.plan)
        ways = ways_of(plan.servers, self._proxies, None)
        delta = delta_between(running.applied, plan.documents)
        changed = ways if ways != running.ways else None
        outcome = await running.tunnel.apply(msgspec.structs.replace(delta, ways=changed))
        running.ways = ways
        running.refused = {key: one.error or "not taken" for key, one in outcome.entries.items() if not one.ok}
        for port in self._settings.ports:
            if (why := running.refused.get(port.key)) is not None:
                raise Terminal("DRTP-4062", f"{port.written} cannot be used for {port.service}: {why}.")
        running.bound |= {key: one.bound for key, one in outcome.entries.items() if one.bound is not None}
        running.applied = {key: {} if key in running.refused else entry for key, entry in plan.documents.items()}
        running.plan = plan
        self._told = self._told or snapshot is not self._from_disk

    async def _follow_feed_state(self) -> None:
        async for state in self._feed.state:
            if state.phase is FeedPhase.UP and self._up_s is None:
                self._up_s = self._clock.monotonic()
            self._dirty.set()
            if state.phase is FeedPhase.REFUSED and state.terminal:
                if state.code == "DRTP-2009":
                    # An agent would renew with its old key; a connector's user is asked again.
                    raise Terminal("DRTP-4069")
                raise Terminal(state.code, state.message, state.remedy)

    async def _follow_events(self, running: _Running) -> None:
        async for batch in running.tunnel.events():
            for event in batch:
                _note(event, ends=self._stopping.is_set())
            self._dirty.set()

    async def _refresh(self, running: _Running) -> bool:
        """Read the core's whole state and publish the view. True: the core gave an old answer."""
        stats = await running.tunnel.stats(flows=True)
        pops = views_of(running.plan.servers, stats)
        ports = port_views(self._settings.ports, running.plan, stats, pops, running.bound)
        if self._phase in {AgentPhase.CONNECTING, AgentPhase.READY}:
            ready = any(port.ready for port in ports)
            self._phase = AgentPhase.READY if ready else AgentPhase.CONNECTING
        settled = self._up_s is not None and self._clock.monotonic() - self._up_s >= SETTLED_S
        self._publish(
            phase=self._phase,
            ports=ports,
            pops=pops,
            flows=stats.recent,
            feed=self._feed_view(),
            certificate=self._certificate_view(),
            streams=stats.streams,
            planned=self._told or settled,
            quarantined=running.refused,
            local_url=self._local_url,
        )
        return stats.stale

    async def _drain(self, running: _Running) -> None:
        """Nothing new is taken; open connections finish, until the deadline or a second `stop`."""
        self._phase = AgentPhase.DRAINING
        running.tunnel.drain(self._settings.drain_s)
        self._dirty.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s + 1.0):
                while (await running.tunnel.stats()).streams and not self._forced.is_set():
                    await self._clock.sleep(DRAIN_LOOK_S)
        # How the last connections ended is seen only now: `--stdio` makes its exit status of it.
        await self._refresh(running)


def _note(event: Event, *, ends: bool) -> None:
    """One log line for each transition. `ends`: it is on its own way out. Raises: Terminal for what ends all."""
    match event:
        case Fenced(message=message):
            raise Terminal("DRTP-4011", f"A newer instance of this connector runs now ({message}).")
        case TunnelUp(server=server, peer=peer, way=way):
            log.info("tunnel up", server=server, peer=peer, way=way)
        case TunnelDown(server=server, message=message):
            log.log(logging.INFO if ends else logging.WARNING, "tunnel down", server=server, reason=message)
        case Refused(subject=server, reason=reason):
            log.warning("refused by tunnel server", server=server, reason=reason)
        case _:
            log.warning("event not for a connector", type=type(event).__name__)
