"""What the hosts of agents and of connectors have in common: a feed, a core, a view, and an end in two steps.

With the control plane down a host goes on from the snapshot on disk, for as long as its certificate lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from drtp.agent.endings import placed
from drtp.agent.view import AgentPhase, CertificateView, Failure, FeedView
from drtp.api.reports import Registration
from drtp.client.feed import Feed
from drtp.client.identity import Identity, IdentityStore
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.descriptors import raise_descriptor_limit
from drtp.kit.errors import DrtpError, Terminal
from drtp.kit.exclusive import exclusive
from drtp.kit.latest import Latest
from drtp.kit.observe import logger
from drtp.tunnel import TunnelIdentity

REFRESH_S = 1.0
"""Gauges move by themselves; a screen that is a second old is fresh."""
REFRESH_SHARE = 0.2
"""Of the time, at most, goes into refreshes: a storm of events slows them down, not the host."""
STALE_MAX = 20
"""Old answers of the core in a row, half a second and more each: it is dead, and a new process is wanted."""

V = TypeVar("V", bound=msgspec.Struct)


class Rotates(Protocol):
    """A core, as far as certificates go."""

    async def rotate(self, identity: TunnelIdentity) -> None:
        """Raises: DrtpError; then the old one stays in force."""
        ...


class HostSettings(Protocol):
    """Of any host: where its identity is, and what it says of itself."""

    @property
    def state_dir(self) -> Path:
        """The edge's own."""
        ...

    @property
    def registration(self) -> Registration:
        """As the feed's first message has it."""
        ...


class Host(ABC, Generic[V]):
    """One process of one identity. `run` once; `view` is there from the start."""

    def __init__(self, part: str, view: V, settings: HostSettings, clock: Clock | None, feed: Feed | None) -> None:
        """`part`: what its lines in the log are of. `feed` None: made from the identity in the state directory.

        Raises: Terminal for loose file modes.
        """
        self._log = logger(part)
        self.view: Latest[V] = Latest(view)
        self._seen = view
        """What `view` has."""
        self._state_dir = settings.state_dir
        self._clock = clock or SystemClock()
        self._feed = feed or Feed(
            IdentityStore(settings.state_dir), lambda: settings.registration, settings.state_dir, self._clock
        )
        self._identity: Identity | None = None
        """The one in force."""
        self._renewals = 0
        self._dirty = asyncio.Event()
        self._stops = 0
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._phase = AgentPhase.STARTING
        self._local_url = ""

    def stop(self) -> None:
        """First call: drain, for as long as the settings say. Second: end now. May be called from a signal handler."""
        self._stops += 1
        self._stopping.set()
        if self._stops > 1:
            self._forced.set()

    async def run(self) -> None:
        """Work until `stop`. Raises: Terminal when going on is useless (fenced, refused, locked, not enrolled)."""
        try:
            with exclusive(self._state_dir / "lock", "DRTP-4010", f"Another process runs with {self._state_dir}."):
                identity = self._feed.identity.value
                if identity is None:
                    raise Terminal("DRTP-2015")
                raise_descriptor_limit()
                self._identity = identity
                await self._work(identity)
        except BaseExceptionGroup as errors:
            failure = _terminal_in(errors)
            if failure is None:
                raise
            raise self._failed(failure) from errors
        except Terminal as failure:
            raise self._failed(failure) from failure.__cause__
        self._phase = AgentPhase.STOPPED
        self._publish(phase=AgentPhase.STOPPED)

    @abstractmethod
    async def _work(self, identity: Identity) -> None:
        """Everything between the lock and the end. Raises: Terminal."""

    async def _follow_identity(self, core: Rotates) -> None:
        async for identity in self._feed.identity:
            if self._identity is identity:
                continue
            try:
                await core.rotate(tunnel_identity(identity))
            except DrtpError as error:
                # The old certificate stays in force; the next renewal brings another.
                self._log.warning("certificate not taken", code=error.code, error=error.what)
                continue
            self._feed.trusting(identity)
            renewed = self._identity is None or self._identity.generation != identity.generation
            self._identity = identity
            if renewed:
                self._renewals += 1
                self._log.info("certificate renewed", generation=identity.generation, not_after=str(identity.not_after))
            self._dirty.set()

    async def _keep_fresh(self, refresh: Callable[[], Awaitable[bool]]) -> None:
        """Whenever something happened, and every second. `refresh`: True where the core gave an old answer."""
        stale = 0
        while True:
            self._dirty.clear()
            began_s = self._clock.monotonic()
            stale = stale + 1 if await refresh() else 0
            if stale >= STALE_MAX:
                raise Terminal("DRTP-4004", "The tunnel's driver does not answer any more.")
            await self._clock.sleep((self._clock.monotonic() - began_s) * (1 / REFRESH_SHARE - 1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._dirty.wait()

    def _publish(self, **changed: object) -> None:
        self._seen = msgspec.structs.replace(self._seen, **changed)
        self.view.set(self._seen)

    def _failed(self, failure: Terminal) -> Terminal:
        """Say it in log and view; gives what to raise."""
        error = placed(failure, self._state_dir)
        self._phase = AgentPhase.FAILED
        self._log.error("stopped for good", code=error.code, error=error.what)
        self._publish(phase=AgentPhase.FAILED, failure=Failure(code=error.code, what=error.what, remedy=error.remedy))
        return error

    def _feed_view(self) -> FeedView:
        """The connection to the control plane, for people."""
        state = self._feed.state.value
        return FeedView() if state is None else FeedView(state.phase.value, state.code, state.message)

    def _certificate_view(self) -> CertificateView | None:
        """The certificate in use, and how often it was renewed since the process started."""
        identity = self._identity
        if identity is None:
            return None
        return CertificateView(
            generation=identity.generation,
            not_before_unix_ms=int(identity.not_before.timestamp() * 1000),
            not_after_unix_ms=int(identity.not_after.timestamp() * 1000),
            renewals=self._renewals,
        )


def _terminal_in(errors: BaseExceptionGroup[BaseException]) -> Terminal | None:
    """The error that ends a host for good, if one is in `errors`."""
    terminals = errors.subgroup(Terminal)
    while isinstance(terminals, BaseExceptionGroup):
        terminals = terminals.exceptions[0]
    return terminals if isinstance(terminals, Terminal) else None


def tunnel_identity(identity: Identity) -> TunnelIdentity:
    """As the core takes it."""
    return TunnelIdentity(identity.chain_pem, identity.key_pem, identity.bundle_pem)
