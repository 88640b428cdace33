"""A gateway process: its feed on one side, its host on the other."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Generator

from drtp import __version__
from drtp.api.reports import GatewayRegistration
from drtp.client.feed import Feed
from drtp.client.identity import Identity, IdentityStore
from drtp.gateway.host import GatewayHost
from drtp.gateway.metrics import serve_metrics
from drtp.gateway.program import Credentials
from drtp.gateway.settings import GatewaySettings, paths
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.errors import Terminal
from drtp.kit.exclusive import exclusive
from drtp.kit.observe import logger

_log = logger("gateway")


def _nobody_listens(_event: str, _envoy: int) -> None:
    """The default of `announce`."""


async def run_gateway(
    settings: GatewaySettings, *, clock: Clock | None = None, announce: Callable[[str, int], None] = _nobody_listens
) -> int:
    """Run until SIGTERM or SIGINT; gives the exit code. The identity is in the directory already.

    Envoy is drained and ended on a signal. After SIGUSR1, or when the host is killed, Envoy goes on, and the next host
    adopts it. SIGHUP replaces Envoy by a hot restart. `announce` is told `ready` once, and `envoy` whenever another one
    holds the whole table, both with its process id.
    Raises: Terminal without an identity, without Envoy, or when another host has the directory.
    """
    clock = clock or SystemClock()
    places = paths(settings.directory)
    with exclusive(places.lock, "DRTP-5015", f"Another gateway host runs with {places.directory}."):
        identities = IdentityStore(places.directory)
        if identities.load() is None:
            raise Terminal("DRTP-5016")
        registration = GatewayRegistration(name=settings.name, addresses=settings.addresses, version=__version__)
        feed = Feed(identities, lambda: registration, places.directory, clock)
        host = GatewayHost(settings, places, clock)
        stop, leave = asyncio.Event(), asyncio.Event()
        reactions = {
            signal.SIGTERM: stop.set,
            signal.SIGINT: stop.set,
            signal.SIGUSR1: leave.set,
            signal.SIGHUP: host.renew_envoy,
        }
        with _signals(reactions):
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_feed(feed)),
                    group.create_task(_identities(feed, host)),
                    group.create_task(_snapshots(feed, host)),
                    group.create_task(_reports(feed, host)),
                    group.create_task(_applied(feed, host)),
                    group.create_task(_serving(host, announce)),
                    group.create_task(serve_metrics(host, settings.metrics_port, clock)),
                ]
                await host.run(stop, leave)
                for task in tasks:
                    task.cancel()
    return 0


async def _feed(feed: Feed) -> None:
    """A refused identity ends the feed, not the gateway: what works goes on for as long as the certificate lasts."""
    try:
        await feed.run()
    except Terminal as error:
        _log.error("feed refused", code=error.code, reason=error.what, remedy=error.remedy)


async def _identities(feed: Feed, host: GatewayHost) -> None:
    async for identity in feed.identity:
        host.use(credentials_of(identity))
        feed.trusting(identity)


async def _snapshots(feed: Feed, host: GatewayHost) -> None:
    async for snapshot in feed.snapshot:
        host.apply(snapshot)


async def _reports(feed: Feed, host: GatewayHost) -> None:
    async for reports in host.reports:
        feed.reports.replace_all(reports)


async def _applied(feed: Feed, host: GatewayHost) -> None:
    async for applied in host.applied:
        feed.applied(applied.generation, applied.failed)


async def _serving(host: GatewayHost, announce: Callable[[str, int], None]) -> None:
    event = "ready"
    async for envoy in host.serving:
        announce(event, envoy)
        event = "envoy"


def credentials_of(identity: Identity) -> Credentials:
    """What POPs see of this identity."""
    return Credentials(
        chain_pem=identity.chain_pem,
        key_pem=identity.key_pem.reveal(),
        bundle_pem=identity.bundle_pem,
        uid=identity.uid,
        trust_domain=identity.trust_domain,
    )


@contextlib.contextmanager
def _signals(reactions: dict[signal.Signals, Callable[[], None]]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    for number, react in reactions.items():
        loop.add_signal_handler(number, react)
    try:
        yield
    finally:
        for number in reactions:
            loop.remove_signal_handler(number)
