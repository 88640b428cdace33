"""A POP's life: identity, core, feed, health door; then signals, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from drtp.api.drtp import DRTPServerSpec, Location, ServerListener, ServerSockets, Transport
from drtp.api.probing import LONGEST_SOCKET, PULSE
from drtp.api.reports import PopRegistration
from drtp.client.feed import Feed
from drtp.client.identity import Identity, IdentityStore
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.descriptors import raise_descriptor_limit
from drtp.kit.errors import DrtpError, Retryable, Terminal
from drtp.kit.exclusive import exclusive
from drtp.kit.files import private_directory, read_private
from drtp.kit.observe import REGISTRY, logger
from drtp.kit.sockets import directory_mark, socket_directory
from drtp.pop.farewell import MOVE_MAX_S, Farewell
from drtp.pop.gateways import GatewayBook
from drtp.pop.health import HealthDoor, gateways_and_control_plane
from drtp.pop.host import PopHost
from drtp.pop.metrics import PopCollector
from drtp.pop.ports import PortBook
from drtp.pop.settings import PopSettings
from drtp.pop.vitals import Fitness, pre_auth_max
from drtp.tunnel import CoreLimits, Liveness, ServerConfig, TunnelIdentity, TunnelServer, WebIdentity

log = logger("pop")

QUICK = Liveness(ping_ms=800, dead_ms=2_500, idle_ping_ms=800, idle_dead_ms=2_500)
"""POP links are quick to notice a loss at all times: the next visitor must go elsewhere within 2.5 s."""
REVOKED = frozenset({"DRTP-2006", "DRTP-2007"})
"""Revoked or locked: nothing is drained, for a hacked POP must be gone at once (R6)."""
WHOLE_LOOK_S = 0.05
EXIT_DENIED = 77
"""The identity was revoked, locked or deleted."""


def _nobody_listens(_agents: int) -> None:
    """The default of `announce`."""


async def run_pop(
    settings: PopSettings, *, clock: Clock | None = None, announce: Callable[[int], None] = _nobody_listens
) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. Gives the exit code.

    `announce` is told once, with the number of agents, when it is whole: the table is in force, agents that were here
    before a planned stop are back, and gateways send visitors.
    Works from its persisted snapshot while the control plane is down.
    Raises: Terminal if it is not enrolled, the directory is in use, or a file in it is damaged; Retryable if an
    address is taken.
    """
    directory = private_directory(settings.directory)
    sockets = sockets_of(settings)
    with (
        exclusive(directory / "lock", "DRTP-4010", f"Another process runs with {directory}."),
        exclusive(sockets / "lock", "DRTP-5021", f"Another POP has its sockets in {sockets}."),
    ):
        return await Pop(settings, clock or SystemClock(), announce).run()


class Pop:
    """What `run_pop` composes; tests drive it without signals."""

    def __init__(self, settings: PopSettings, clock: Clock, announce: Callable[[int], None] = _nobody_listens) -> None:
        """Binds the listeners. Raises: as `run_pop`."""
        raise_descriptor_limit()
        self._settings = settings
        self._sockets = sockets_of(settings)
        self._announce = announce
        self.gateways = GatewayBook()
        self._farewell = Farewell(settings.directory / "farewell.json")
        self._clock = clock
        self._identities = IdentityStore(settings.directory)
        self.feed = Feed(self._identities, self._registration, settings.directory, clock)
        identity = self.feed.identity.value
        if identity is None:
            raise Terminal("DRTP-2015")
        self._identity = identity
        book = PortBook(settings.directory / "ports.json", settings.endpoint_addresses, settings.endpoint_ports, clock)
        self.tunnel = TunnelServer(
            ServerConfig(
                listeners=settings.listeners,
                liveness=QUICK,
                limits=CoreLimits(pre_auth_max=pre_auth_max()),
                web=_web_identity(settings),
                pulse=str(self._sockets / PULSE),
                quic=settings.quic,
                country_database=str(settings.country_database) if settings.country_database else None,
            ),
            _tunnel_identity(identity),
        )
        self._health_listener = _listening(settings.health_address)
        self.host = PopHost(self.tunnel, book, self._sockets, self.feed.reports, clock, awaited=self._farewell.take())
        self.host.shows(identity.chain_pem)
        self._stops = 0
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._denied: DrtpError | None = None

    @property
    def health_port(self) -> int:
        """Where `/healthz` answers."""
        return int(self._health_listener.getsockname()[1])

    @property
    def listener_port(self) -> int:
        """What agents are told."""
        return self._settings.listener_port or int(self.tunnel.agent_addresses[0].rpartition(":")[2])

    def stop(self) -> None:
        """First call: drain. Second: end now."""
        self._stops += 1
        self._stopping.set()
        if self._stops > 1:
            self._forced.set()

    async def run(self) -> int:
        """As `run_pop`, without the lock."""
        door = HealthDoor(
            self._health_listener,
            self.host.vitals,
            gateways_and_control_plane(self._identity.trust_domain, lambda: self.host.table.gateways),
            self.gateways,
            self._clock,
        )
        self._present(door, self._identity)
        collector = PopCollector(lambda: self.host.stats, self.host.vitals, lambda: self.host.meter.paths)
        REGISTRY.register(collector)
        try:
            async with self._signals(), self._metrics(), door.serving(), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_feed()),
                    group.create_task(self._follow_snapshots()),
                    group.create_task(self._put_in_force()),
                    group.create_task(self._follow_identity(door)),
                    group.create_task(self.host.follow_events()),
                    group.create_task(self.host.keep_fresh()),
                    group.create_task(self.host.meter.run()),
                    group.create_task(self._say_when_whole()),
                ]
                log.info("pop started", name=self._settings.name, agents=", ".join(self.tunnel.agent_addresses))
                await self._stopping.wait()
                await self._drain()
                for task in tasks:
                    task.cancel()
        finally:
            REGISTRY.unregister(collector)
            self._health_listener.close()
            await self.tunnel.close()
        return EXIT_DENIED if self._denied else 0

    async def _keep_feed(self) -> None:
        try:
            await self.feed.run()
        except Terminal as error:
            # Revoked, locked or deleted: whoever may not hold a feed may not serve visitors either.
            log.error("feed refused for good", code=error.code, error=error.what)  # noqa: TRY400 - expected, no traceback
            self._denied = error
            self.stop()
            if error.code in REVOKED:
                self.stop()

    async def _follow_snapshots(self) -> None:
        async for snapshot in self.feed.snapshot:
            self.host.due.set(snapshot)

    async def _put_in_force(self) -> None:
        async for snapshot in self.host.due:
            try:
                refused = await self.host.apply(snapshot)
            except OSError as error:
                # No room for the ports' file: visitors of the table before go on, and "applied" stays unsaid.
                log.warning("snapshot not applied", error=str(error))
                continue
            self.feed.applied(snapshot.generation, refused)

    async def _follow_identity(self, door: HealthDoor) -> None:
        async for identity in self.feed.identity:
            if identity is self._identity:
                continue
            try:
                await self.tunnel.rotate(_tunnel_identity(identity))
                self.host.shows(identity.chain_pem)
                self._present(door, identity)
            except (DrtpError, OSError) as error:
                # The old certificate stays in force; the next renewal brings another.
                log.warning("certificate not taken", error=str(error))
                continue
            self.feed.trusting(identity)
            self._identity = identity
            log.info("identity in force", generation=identity.generation, not_after=str(identity.not_after))

    def _present(self, door: HealthDoor, identity: Identity) -> None:
        paths = self._identities.paths(identity)
        door.present(paths.chain, paths.key, identity.bundle_pem)

    async def _say_when_whole(self) -> None:
        await self.host.applied.wait()
        while self.host.vitals().fitness is not Fitness.OK:
            await self._clock.sleep(WHOLE_LOOK_S)
        until_s = self._clock.monotonic() + MOVE_MAX_S
        while not self.host.table.gateways <= self.gateways.certain and self._clock.monotonic() < until_s:
            await self._clock.sleep(WHOLE_LOOK_S)
        log.info("pop whole", agents=len(self.host.agents), gateways=len(self.gateways.certain))
        self._announce(len(self.host.agents))

    async def _drain(self) -> None:
        if not self._denied:
            self._farewell.write(self.host.agents)
        async with asyncio.TaskGroup() as group:
            forced = group.create_task(self._forced.wait())
            drained = group.create_task(self.host.drain(self._settings.drain_s, lambda: not self.gateways.sending))
            await asyncio.wait({forced, drained}, return_when=asyncio.FIRST_COMPLETED)
            forced.cancel()
            drained.cancel()

    @contextlib.asynccontextmanager
    async def _signals(self) -> AsyncGenerator[None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def _metrics(self) -> AsyncGenerator[None, None]:
        if self._settings.metrics_address is None:
            yield
            return
        from drtp.pop.metrics_page import metrics_page

        async with metrics_page(_listening(self._settings.metrics_address), self._clock):
            yield

    def _registration(self) -> PopRegistration:
        settings = self._settings
        return PopRegistration(
            name=settings.name,
            spec=DRTPServerSpec(
                pop=settings.pop,
                location=Location(latitude=settings.latitude, longitude=settings.longitude),
                server_ip=settings.server_ip,
                listeners=(ServerListener(transport=Transport.TLS, port=self.listener_port),),
                health_port=self.health_port,
                sockets=_shown(self._sockets),
                node_name=settings.node_name,
                instance_id=settings.instance_id,
                failure_domain=settings.failure_domain,
                region=settings.region,
                country=settings.country,
                max_connections=settings.max_connections,
            ),
            version=settings.version,
        )


def sockets_of(settings: PopSettings) -> Path:
    """Where this POP's sockets are, made private. Raises: Terminal for a directory that others may use."""
    wanted = settings.endpoint_sockets or settings.directory / "endpoints"
    return socket_directory(wanted, LONGEST_SOCKET, "pop")


def _shown(sockets: Path) -> ServerSockets | None:
    mark = directory_mark(sockets)
    return ServerSockets(directory=str(sockets), mark=mark) if mark else None


def _listening(at: tuple[str, int]) -> socket.socket:
    """A listening socket. Raises: Retryable DRTP-4003."""
    address, port = at
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise Retryable("DRTP-4003", f"{address}:{port} cannot be used: {error.strerror}.") from error
    listener.setblocking(False)
    return listener


def _web_identity(settings: PopSettings) -> WebIdentity | None:
    """Raises: Terminal DRTP-7013, DRTP-7001 for a key that others may read."""
    if settings.web_certificate is None:
        return None
    chain, key = settings.web_certificate
    try:
        return WebIdentity(chain.read_text(encoding="ascii"), read_private(key).decode("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise Terminal("DRTP-7013", f"{chain} and {key} are no certificate and key in PEM: {error}.") from error


def _tunnel_identity(identity: Identity) -> TunnelIdentity:
    return TunnelIdentity(identity.chain_pem, identity.key_pem, identity.bundle_pem)
