"""One connection of the feed: hello, snapshots down, reports up, heartbeats both ways, renewal in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import aiohttp
import msgspec
from prometheus_client import Counter

from drtp.api import skew
from drtp.api.feed import (
    HEARTBEAT_INTERVAL_S,
    MESSAGE_BYTES_MAX,
    Applied,
    FromEdge,
    Goodbye,
    Heartbeat,
    Hello,
    Renew,
    Renewed,
    RenewRefused,
    SnapshotDelta,
    ToEdge,
    Trust,
    Trusting,
)
from drtp.api.snapshots import DenyEntry, Generation, Snapshot
from drtp.client.dialling import web_session
from drtp.client.identity import Identity, IdentityStore
from drtp.client.keys import request_for
from drtp.client.renewal import RECHECK_S, due_at, renewed_identity
from drtp.client.reportboard import ReportBoard
from drtp.client.tls import control_plane_behind, presenting
from drtp.kit.backoff import full_jitter
from drtp.kit.clock import Clock
from drtp.kit.codes import CODES
from drtp.kit.errors import Retryable, Terminal
from drtp.kit.latest import Latest
from drtp.kit.observe import REGISTRY, logger

log = logger("feed")

RENEWALS = Counter("drtp_certificate_renewals", "Of this edge, by outcome.", ["outcome"], registry=REGISTRY)

CONNECT_TIMEOUT_S = 10.0
SILENCE_MAX_S = 3 * HEARTBEAT_INTERVAL_S
REPORT_SPACING_S = 0.02
"""The first change goes at once; what follows within this time goes together."""

_CLOSING = aiohttp.ClientWSTimeout(ws_close=2.0)  # pyright: ignore[reportCallIssue] -- an attrs class without stubs


@dataclass(frozen=True, slots=True)
class Ending:
    """A connection that ended in order. `within_s`: come back after a random part of it; 0 is at once."""

    within_s: float
    code: str = ""
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """What outlives connections: the host's side of the feed."""

    snapshot: Latest[Snapshot]
    identity: Latest[Identity]
    reports: ReportBoard
    applied: Latest[Applied]
    persisted: Latest[Generation]
    trusting: Latest[str]
    """The digest of the roots that are in force at the host."""
    unreadable: dict[str, str]
    """Entries of the present snapshot that this version cannot read: key -> reason."""


class WrongBase(Retryable):
    """A delta for another state than this edge holds: ask for the whole."""


def after(held: Snapshot | None, delta: SnapshotDelta) -> Snapshot | None:
    """The snapshot that `delta` makes of the one held; None when it is not newer, so to be refused.

    Raises: WrongBase.
    """
    if held is not None and delta.generation <= held.generation:
        return None
    if delta.base is None:
        return Snapshot(generation=delta.generation, entries=delta.upsert)
    if held is None or held.generation != delta.base:
        raise WrongBase("DRTP-3004", "The control plane sent a difference to a state that is not held here.")
    entries = {**held.entries, **delta.upsert}
    for key in delta.remove:
        entries.pop(key, None)
    return Snapshot(generation=delta.generation, entries=entries)


def readable(delta: SnapshotDelta, unreadable: Iterable[str], held: Snapshot | None) -> SnapshotDelta:
    """The difference with its unreadable entries as gone: what cannot be read denies. But who was denied stays so."""
    entries = held.entries if held else {}
    denied = {key: one for key in unreadable if isinstance(one := entries.get(key), DenyEntry)}
    gone = tuple(key for key in unreadable if key not in denied)
    return msgspec.structs.replace(delta, upsert={**delta.upsert, **denied}, remove=(*delta.remove, *gone))


class FeedSession:
    """One WebSocket over mutual TLS, from connect to end."""

    def __init__(
        self,
        identity: Identity,
        identities: IdentityStore,
        hello: Hello,
        board: Board,
        *,
        on_up: Callable[[], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._identity = identity
        self._identities = identities
        self._hello = hello
        self._board = board
        self._on_up = on_up
        self._clock = clock
        self._rng = rng
        self._asked: Latest[float] = Latest()
        self._choosing = asyncio.Lock()
        """A request is of the key that is pending, and an answer ends that: a key chosen meanwhile is of no renewal."""
        self.up = False
        """Whether the control plane has accepted this identity."""

    async def run(self) -> Ending:
        """Talk until the connection ends.

        Raises: Terminal, Retryable, aiohttp.ClientError, OSError (ssl.SSLError among them), TimeoutError.
        """
        tls = presenting(self._identity, self._identities.paths(self._identity))
        async with web_session(tls) as http:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                socket = await http.ws_connect(
                    self._identity.feed_url,
                    max_msg_size=MESSAGE_BYTES_MAX,
                    timeout=_CLOSING,
                )
            async with socket:
                control_plane_behind(socket)
                return await self._converse(socket)

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> Ending:
        await _send(socket, self._hello)
        async with asyncio.TaskGroup() as group:
            senders = [
                group.create_task(work(socket))
                for work in (
                    self._report,
                    self._say_applied,
                    self._say_trusting,
                    self._beat,
                    self._renew,
                    self._renew_when_asked,
                )
            ]
            try:
                return await self._listen(socket)
            finally:
                for sender in senders:
                    sender.cancel()

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> Ending:
        while True:
            try:
                async with asyncio.timeout(SILENCE_MAX_S):
                    frame = await socket.receive()
            except TimeoutError:
                raise Retryable("DRTP-3005") from None
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise Retryable("DRTP-3001", "The connection to the control plane was lost.")
            try:
                message, unreadable = skew.to_edge(frame.data)
            except msgspec.DecodeError as error:
                raise Retryable("DRTP-3004", f"The control plane's message cannot be read: {error}") from None
            if message is None:
                log.info("message of an unknown type passed over")
                continue
            if isinstance(message, SnapshotDelta):
                message = self._without(message, unreadable)
            if (ending := await self._take(message)) is not None:
                return ending

    async def _take(self, message: ToEdge) -> Ending | None:
        if isinstance(message, Goodbye):
            return _parted(message)
        if not self.up:
            self.up = True
            # Only now is the newest certificate proven to work, and the one before not needed any more.
            await asyncio.to_thread(self._identities.confirm, self._identity)
            self._on_up()
        match message:
            case SnapshotDelta():
                self._take_snapshot(message)
            case Renewed():
                try:
                    async with self._choosing:
                        following = await asyncio.to_thread(renewed_identity, self._identity, self._identities, message)
                except OSError as error:
                    # The certificate in use goes on; the authority gives the next one again to the same request.
                    self._not_renewed("DRTP-1006", f"The next certificate cannot be kept: {error}.")
                    return None
                log.info("certificate renewed", generation=following.generation, not_after=str(following.not_after))
                RENEWALS.labels("renewed").inc()
                self._board.identity.set(following)
                return Ending(within_s=0, message="The certificate was renewed.")
            case Trust():
                await self._trust(message)
            case RenewRefused():
                self._not_renewed(message.code, message.message)
                if message.terminal:
                    raise Terminal(*_known(message.code, message.message))
            case Heartbeat():
                pass
        return None

    async def _trust(self, said: Trust) -> None:
        """Take the roots, to disk first; the host puts them in force and says so by `trusting`."""
        if said.bundle_pem.encode() != self._identity.bundle_pem:
            try:
                wanted = said.bundle_pem.encode()
                self._identity = await asyncio.to_thread(self._identities.trust, self._identity, wanted)
            except (OSError, Terminal) as error:
                # What is trusted goes on; the control plane sees that the rotation waits for this edge.
                log.warning("roots not taken", reason=str(error))
                return
            log.info("roots taken")
            self._board.identity.set(self._identity)
        if said.renew_within_s is not None:
            self._asked.set(said.renew_within_s)

    def _not_renewed(self, code: str, reason: str) -> None:
        RENEWALS.labels("failed").inc()
        log.warning("renewal failed", code=code, reason=reason, not_after=str(self._identity.not_after))

    def _without(self, delta: SnapshotDelta, unreadable: Mapping[str, str]) -> SnapshotDelta:
        known = self._board.unreadable
        for key in tuple(known) if delta.base is None else (*delta.upsert, *delta.remove):
            known.pop(key, None)
        known.update(unreadable)
        for key, reason in unreadable.items():
            log.warning("entry quarantined", entry=key, reason=reason)
        return readable(delta, unreadable, self._board.snapshot.value)

    def _take_snapshot(self, delta: SnapshotDelta) -> None:
        held = self._board.snapshot.value
        newer = after(held, delta)
        if newer is not None:
            self._board.snapshot.set(newer)
        elif held is not None and delta.generation < held.generation:
            log.warning("older snapshot refused", offered=str(delta.generation), held=str(held.generation))

    async def _report(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        report = self._board.reports.take_whole()
        while await _send(socket, report):
            await self._clock.sleep(REPORT_SPACING_S)
            await self._board.reports.changed()
            report = self._board.reports.take()

    async def _say_applied(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for applied in self._board.applied:
            persisted = self._board.persisted
            while persisted.value is None or persisted.value < applied.generation:
                await persisted.newer(persisted.version)
            if not await _send(socket, applied):
                return

    async def _say_trusting(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        said = self._hello.bundle
        async for digest in self._board.trusting:
            if digest != said and not await _send(socket, Trusting(bundle=digest)):
                return
            said = digest

    async def _beat(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while await _send(socket, Heartbeat()):
            await self._clock.sleep(HEARTBEAT_INTERVAL_S)

    async def _renew(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        due = due_at(self._identity, self._rng)
        delays = full_jitter(RECHECK_S, 3600.0, self._rng)
        while True:
            while (wait_s := (due - self._clock.now()).total_seconds()) > 0:
                await self._clock.sleep(min(wait_s, RECHECK_S))
            await self._ask_to_renew(socket)
            # Whether it is refused or never answered: the same request again, later and later.
            await self._clock.sleep(1.0 + next(delays))

    async def _renew_when_asked(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """A rotation wants every certificate replaced, each edge at a moment of its own."""
        async for within_s in self._asked:
            await self._clock.sleep(self._rng.uniform(0, within_s))
            await self._ask_to_renew(socket)

    async def _ask_to_renew(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            async with self._choosing:
                key = await asyncio.to_thread(self._identities.pending_key)
        except OSError as error:
            self._not_renewed("DRTP-1006", f"The next key cannot be kept: {error}.")
            return
        await _send(socket, Renew(csr_pem=request_for(key), generation=self._identity.generation))


def _parted(goodbye: Goodbye) -> Ending:
    if goodbye.terminal:
        raise Terminal(*_known(goodbye.code, goodbye.message))
    code, message = _known(goodbye.code, goodbye.message)
    return Ending(goodbye.retry_within_s, code, message, CODES[code].remedy)


def _known(code: str, message: str) -> tuple[str, str]:
    """A newer control plane may use codes that this version has no page for."""
    return (code, message) if code in CODES else ("DRTP-3004", f"{code}: {message}")


async def _send(socket: aiohttp.ClientWebSocketResponse, message: FromEdge) -> bool:
    """False once the connection is gone: whoever listens finds out why."""
    try:
        async with asyncio.timeout(SILENCE_MAX_S):
            await socket.send_str(msgspec.json.encode(message).decode())
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return False
    return True
