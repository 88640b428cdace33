"""The feed as an edge host uses it: the newest snapshot, whatever happens to the connection that brings it.

A host reads `snapshot`, applies it, calls `applied`, and says what it sees on `reports`. With the control plane down
it goes on from the snapshot on disk; `run` keeps coming back with full jitter.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import cast

import aiohttp
from prometheus_client import Gauge
from yarl import URL

from drtp.api.feed import PROTOCOL, Applied, Hello, digest
from drtp.api.reports import Registration
from drtp.api.snapshots import Generation, Snapshot
from drtp.api.spiffe import bundle_digest
from drtp.client.dialling import ProxyFailure
from drtp.client.identity import Identity, IdentityStore
from drtp.client.renewal import renew_expired
from drtp.client.reportboard import ReportBoard
from drtp.client.session import Board, Ending, FeedSession, WrongBase
from drtp.client.snapshotfile import SnapshotFile
from drtp.client.tls import untrusted
from drtp.client.unreachable import reason_of
from drtp.client.vouching import offered, pem_of, read_roots, successors
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock, SystemClock
from drtp.kit.errors import DrtpError, Retryable, Terminal
from drtp.kit.latest import Latest
from drtp.kit.observe import REGISTRY, logger
from drtp.kit.repeats import Repeats

log = logger("feed")

UNPERSISTED = Gauge(
    "drtp_feed_snapshot_unpersisted", "1: the newest snapshot could not be written to disk.", registry=REGISTRY
)

NOT_AFTER = Gauge(
    "drtp_certificate_not_after_seconds", "When this edge's certificate ends, unix time.", registry=REGISTRY
)

RETRY_BASE_S = 0.25
RETRY_CEILING_S = 20.0
"""A restarted control plane hears from everybody within this."""
DOUBTS_MAX = 2
"""Connections dropped in a row before an answer, until the certificate is doubted."""
STEADY_S = 10.0
"""A connection that lasted this long was a good one: the next loss starts from quick retries again."""


class FeedPhase(Enum):
    """How the feed is."""

    CONNECTING = "Connecting"
    UP = "Up"
    DOWN = "Down"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class FeedState:
    """`code` and `message` say why it is down or refused; `terminal`: it will not be tried again."""

    phase: FeedPhase
    code: str = ""
    message: str = ""
    remedy: str = ""
    terminal: bool = False


class Feed:
    """One edge's connection to its control plane."""

    def __init__(
        self,
        identities: IdentityStore,
        registration: Callable[[], Registration],
        directory: Path,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        """`directory` is where the snapshot is persisted. What is on disk is in `identity` and `snapshot` at once.

        Raises: Terminal if others may use the files.
        """
        self.snapshot: Latest[Snapshot] = Latest()
        """From disk at the start, then live."""
        self.identity: Latest[Identity] = Latest()
        """Changes at each renewal."""
        self.state: Latest[FeedState] = Latest(FeedState(FeedPhase.CONNECTING))
        self.reports = ReportBoard()
        self._identities = identities
        self._registration = registration
        self._file = SnapshotFile(directory)
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._applied: Latest[Applied] = Latest()
        self._persisted: Latest[Generation] = Latest()
        self._trusting: Latest[str] = Latest()
        self._unreadable: dict[str, str] = {}
        self._ask_whole = False
        self._doubts = 0
        self._losses = Repeats(clock)
        self._load()

    def applied(self, generation: Generation, quarantined: Mapping[str, str] | None = None) -> None:
        """The snapshot of `generation` is in force, but for the `quarantined` entries (key -> reason).

        Said to the control plane as soon as that snapshot is on disk too.
        """
        said = {**self._unreadable, **(quarantined or {})}
        self._applied.set(Applied(generation=generation, quarantined=said))

    def trusting(self, identity: Identity) -> None:
        """The roots of `identity` are in force at everything that this host dials and serves."""
        self._trusting.set(bundle_digest(identity.bundle_pem))

    async def run(self) -> None:
        """Keep the feed up until cancelled. Raises: Terminal when coming back is useless; `state` says it too."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._persist())
                await self._keep_connected()
        except BaseExceptionGroup as group:
            raise _cause(group) from None

    def _load(self) -> None:
        identity = self._identities.load()
        if identity is None:
            return
        self.identity.set(identity)
        self.trusting(identity)
        if (snapshot := self._file.load(identity.uid)) is not None:
            self.snapshot.set(snapshot)
            self._persisted.set(snapshot.generation)

    async def _keep_connected(self) -> None:
        delays = full_jitter(RETRY_BASE_S, RETRY_CEILING_S, self._rng)
        while True:
            started = self._clock.monotonic()
            try:
                ending = await self._one_connection()
            except Terminal as error:
                self._say(FeedPhase.REFUSED, error, terminal=True)
                raise
            if self._clock.monotonic() - started > STEADY_S:
                delays = full_jitter(RETRY_BASE_S, RETRY_CEILING_S, self._rng)
            within_s = next(delays) if ending is None else self._rng.uniform(0, ending.within_s)
            await self._clock.sleep(within_s)

    async def _one_connection(self) -> Ending | None:
        """Connect once and talk to the end. None: it was lost, or never came up. Raises: Terminal."""
        try:
            identity = await self._valid_identity()
            ending = await self._session(identity).run()
        except BaseExceptionGroup as group:
            return await self._lost(_cause(group))
        except (DrtpError, aiohttp.ClientError, OSError, TimeoutError) as error:
            return await self._lost(error)
        if ending.code:
            self.state.set(FeedState(FeedPhase.DOWN, ending.code, ending.message, ending.remedy))
            log.warning("feed parted", code=ending.code, reason=ending.message, remedy=ending.remedy)
        return ending

    async def _lost(self, error: BaseException) -> None:
        if isinstance(error, Terminal) or not isinstance(error, DrtpError | aiohttp.ClientError | OSError):
            raise error
        if isinstance(error, WrongBase):
            self._ask_whole = True
        if _is_untrusted(error) and await self._learn_roots():
            error = Retryable("DRTP-3001", "The control plane has another root by now.")
        elif _may_be_refused(error):
            self._doubts += 1
            if self._doubts % DOUBTS_MAX == 0:
                await asyncio.to_thread(self._try_the_other)
        self._say(FeedPhase.DOWN, _explain(error))

    async def _learn_roots(self) -> bool:
        """Whether the control plane has roots that one of ours vouches for: its root was rotated while we were away."""
        identity = self.identity.value
        if identity is None:
            return False
        now = self._clock.now()
        try:
            offer = await offered(URL(identity.feed_url).with_path("/v1/bundle"))
            trusted = read_roots(identity.bundle_pem)
            found = successors(trusted, offer, now)
            if not found:
                return False
            following = await asyncio.to_thread(self._identities.trust, identity, pem_of([*trusted, *found]))
        except (DrtpError, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("roots not learnt", reason=str(error))
            return False
        self.identity.set(following)
        # Our certificate is of a root of before too: it is replaced at once, by the proof that needs no handshake.
        self._doubts = 2 * DOUBTS_MAX
        log.info("roots learnt", count=len(found))
        return True

    async def _valid_identity(self) -> Identity:
        identity = self.identity.value or await asyncio.to_thread(self._identities.load)
        if identity is None:
            raise Terminal("DRTP-2015")
        # Also where TLS keeps failing: the two clocks may not agree on what has expired.
        if identity.not_after <= self._clock.now() or self._doubts >= 2 * DOUBTS_MAX:
            self._doubts = 0
            identity = await renew_expired(identity, self._identities)
        if identity is not self.identity.value:
            self.identity.set(identity)
        return identity

    def _session(self, identity: Identity) -> FeedSession:
        held = None if self._ask_whole else self.snapshot.value
        self._ask_whole = False
        NOT_AFTER.set(identity.not_after.timestamp())
        hello = Hello(
            protocol=PROTOCOL,
            registration=self._registration(),
            holds=held.generation if held else None,
            digest=digest(held.entries) if held else "",
            certificate_generation=identity.generation,
            bundle=self._trusting.value or "",
        )
        board = Board(
            self.snapshot,
            self.identity,
            self.reports,
            self._applied,
            self._persisted,
            self._trusting,
            self._unreadable,
        )
        return FeedSession(
            identity, self._identities, hello, board, on_up=self._came_up, clock=self._clock, rng=self._rng
        )

    def _came_up(self) -> None:
        self._doubts = 0
        self._losses.over()
        self.state.set(FeedState(FeedPhase.UP))
        log.info("feed up")

    def _say(self, phase: FeedPhase, error: DrtpError, *, terminal: bool = False) -> None:
        self.state.set(FeedState(phase, error.code, error.what, error.remedy, terminal))
        if terminal or self._losses.is_news((error.code, error.what)):
            log.warning("feed down", code=error.code, reason=error.what, terminal=terminal)

    def _try_the_other(self) -> None:
        """While two identities are on disk the newer has not worked yet: take turns, so that neither can strand us."""
        other = self._identities.other()
        if other is None or other.not_after <= self._clock.now():
            return
        self._identities.choose(other)
        self.identity.set(other)
        log.warning("certificate not accepted, using the other one", generation=other.generation)

    async def _persist(self) -> None:
        """Bring the newest snapshot to disk, skipping those overtaken meanwhile."""
        async for snapshot in self.snapshot:
            delays = full_jitter(RETRY_BASE_S, RETRY_CEILING_S, self._rng)
            while self._newest(snapshot) and not await self._persisted_now(snapshot):
                await self._clock.sleep(next(delays))

    def _newest(self, snapshot: Snapshot) -> bool:
        """Whether it is still to be persisted: not overtaken, and newer than what is on disk."""
        persisted = self._persisted.value
        return snapshot is self.snapshot.value and (persisted is None or snapshot.generation > persisted)

    async def _persisted_now(self, snapshot: Snapshot) -> bool:
        identity = self.identity.value
        try:
            await asyncio.to_thread(self._file.save, identity.uid if identity else "", snapshot)
        except OSError as error:
            # The edge goes on; only "applied" stays unsaid, so the control plane sees that something is wrong.
            UNPERSISTED.set(1)
            log.warning("snapshot not persisted", error=str(error), generation=str(snapshot.generation))
            return False
        UNPERSISTED.set(0)
        self._persisted.set(snapshot.generation)
        return True


def _may_be_refused(error: BaseException) -> bool:
    """Whether the control plane may have refused our certificate.

    In TLS 1.3 a client learns it after its own handshake, and often as a bare disconnect before any answer.
    """
    if isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError):
        return True
    return isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError | ssl.SSLError | aiohttp.ClientSSLError)


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the other side's certificate is of no root that we trust; a clock that is off is another matter."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
            said = str(error)
            return "not yet valid" not in said and "has expired" not in said
        error = error.__cause__
    return False


def _explain(error: BaseException) -> DrtpError:
    if isinstance(error, DrtpError):
        return error
    if isinstance(error, ProxyFailure):
        return error.error
    reason = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        fault = untrusted("the control plane", error, SystemClock())
        if isinstance(fault, Retryable):
            return fault
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientConnectorSSLError):
        # aiohttp's own sentence names the address twice, the second time as a Python tuple.
        reason = reason_of(error)
    return Retryable("DRTP-3001", f"The control plane cannot be reached: {reason}.")


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error behind a group: a terminal one first, then any."""
    flat = list(_leaves(group))
    return next((error for error in flat if isinstance(error, Terminal)), flat[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error
