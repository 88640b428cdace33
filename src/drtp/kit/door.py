"""Accepting connections of strangers: the one accept loop in front of every HTTP listener of ours.

aiohttp has no deadline for a first request and asyncio's own server no cap at all, so the door has both: no handshake
is awaited in the accept loop (CVE-2026-7776: one silent client stalled a listener), each has a deadline, and
whoever has not said the head of a request yet is a stranger, of whom there may be few, in all and from one address.
When the room for strangers is full the one who has been silent longest makes place; in a crowd an address that wasted
one lately gets none (`wasters.py`). A process without descriptors keeps its listeners (frp#752). No answer repeats a
stranger's bytes to a browser that might take them for a page (CVE-2026-40302).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
import struct
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import prometheus_client
from aiohttp import web

from drtp.kit.clock import Clock
from drtp.kit.descriptors import descriptor_limit
from drtp.kit.memory import HighWater
from drtp.kit.networks import networks_of
from drtp.kit.observe import REGISTRY, logger
from drtp.kit.wasters import Wasters
from drtp.kit.webway import MESSAGE_BYTES_MAX, PATH, carry, pair

log = logger("door")

HANDSHAKE_S = 5.0
FIRST_REQUEST_S = 10.0
"""From the end of the handshake to the end of the first request's head."""
UNREAD_S = 30.0
"""A peer that takes no byte of what we send for so long is gone (TCP_USER_TIMEOUT)."""
SILENT_S = 1.0
"""A stranger who has been here this long makes place for a newer one: an honest handshake is faster."""
CROWDED = 8
"""This part of the strangers' room taken is a crowd, in which wasters get nothing. Without one it is nearly empty."""
WIDER = 2
"""So many times what a /64 may have, all of a /48 may: a quarter of the room is an address', so this leaves half."""
EXHAUSTED_PAUSE_S = 0.1
"""Without descriptors accepting goes on after this; who waits, waits in the kernel's queue."""
COMPLAINT_S = 10.0
COUNT_AFTER_S = 5.0
BACKLOG = 1024
TLS_BUFFER_BYTES = 32 * 1024
"""asyncio gives each TLS connection a buffer of 256 KiB, a stranger's too; a record has 16 KiB at most."""

_LISTENER_BROKEN = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)
"""accept(2) also reports what happened to connections that were waiting: only these are about the listener itself."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET = struct.pack("ii", 1, 0)

_REFUSED = prometheus_client.Counter(
    "drtp_door_refused",
    "Connections turned away: full, address, wasted, silent, handshake, descriptors.",
    ["door", "reason"],
    registry=REGISTRY,
)
_CONNECTIONS = prometheus_client.Gauge("drtp_door_connections", "Connections now.", ["door"], registry=REGISTRY)

SSLProtocol.max_size = TLS_BUFFER_BYTES


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What one door gives. `address` is an IPv4 address or an IPv6 /64; on a Unix socket everybody is one address.

    An IPv6 /48 has `WIDER` times as much.
    """

    connections_max: int
    connections_per_address_max: int
    strangers_max: int
    strangers_per_address_max: int
    handshake_s: float = HANDSHAKE_S
    first_request_s: float = FIRST_REQUEST_S


def public_limits(connections_max: int, descriptors: int | None = None) -> DoorLimits:
    """For a door that the world sees: at most two fifths of the descriptors, strangers a twentieth (threat 10)."""
    room = descriptors or descriptor_limit() or 1 << 20
    connections = max(16, min(connections_max, room * 2 // 5))
    strangers = min(512, max(32, room // 20), connections)
    return DoorLimits(
        connections_max=connections,
        # One office behind one address may have many users, each with some watches.
        connections_per_address_max=connections // 4,
        strangers_max=strangers,
        strangers_per_address_max=min(64, strangers // 2),
    )


NEIGHBOURS = DoorLimits(
    connections_max=64, connections_per_address_max=64, strangers_max=32, strangers_per_address_max=32
)
"""For pages and sockets that programs of this machine ask."""


class Door:
    """One listening socket in front of one HTTP server."""

    def __init__(
        self,
        name: str,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        *,
        limits: DoorLimits,
        clock: Clock,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`listener` is listening and non-blocking. `factory` makes a protocol for each connection; `tls` is asked anew
        for each handshake.
        """
        self._name = name
        self._listener = listener
        self._factory = factory
        self._limits = limits
        self._clock = clock
        self._tls = tls
        self._open = 0
        self._here: Counter[str] = Counter()
        self._strangers: Counter[str] = Counter()
        self._silent: dict[asyncio.BaseProtocol, _Guest] = {}
        self._begun: dict[asyncio.BaseProtocol, _Guest] = {}
        self._brought: dict[asyncio.BaseProtocol, str] = {}
        self._wasters = Wasters(clock)
        self._complained_s = -COMPLAINT_S
        self._crowd = HighWater()
        self._counting: asyncio.TimerHandle | None = None
        self._handshakes: asyncio.TaskGroup | None = None

    @property
    def connections(self) -> int:
        """All that are open."""
        return self._open

    @property
    def strangers(self) -> int:
        """Those that have not said the head of a request yet."""
        return len(self._silent)

    def spoke(self, protocol: asyncio.BaseProtocol) -> None:
        """A request's head came on the connection of this protocol: it is no stranger any more."""
        guest = self._silent.pop(protocol, None)
        if guest is not None:
            guest.known()
            self._less(self._strangers, guest.networks)
            self._begun[protocol] = guest

    def asked(self, protocol: asyncio.BaseProtocol) -> None:
        """The whole of it came."""
        guest = self._begun.pop(protocol, None)
        if guest is not None:
            self._wasters.asked(guest.networks[0])

    def carries(self, protocol: asyncio.BaseProtocol) -> None:
        """It is the way of another guest, who is judged instead."""
        self._begun.pop(protocol, None)

    def _wasted(self, guest: _Guest) -> None:
        """Its place is free; if it never said a whole request, that is held against its address."""
        if self._silent.pop(guest.inner, None) is not None:
            self._less(self._strangers, guest.networks)
        elif self._begun.pop(guest.inner, None) is None:
            return
        self._wasters.wasted(guest.networks[0])

    async def run(self) -> None:
        """Accept until cancelled. Raises: OSError if the listener itself is broken."""
        async with asyncio.TaskGroup() as group:
            self._handshakes = group
            try:
                while True:
                    await self._accept(group)
            finally:
                self._handshakes = None

    async def _accept(self, handshakes: asyncio.TaskGroup) -> None:
        """The next one."""
        try:
            connection, peer = await asyncio.get_running_loop().sock_accept(self._listener)
        except OSError as error:
            await self._survive(error)
            return
        networks = ("",) if self._listener.family == socket.AF_UNIX else networks_of(str(peer[0]))
        if reason := self._refusal(networks):
            _REFUSED.labels(self._name, reason).inc()
            _reset(connection)
            return
        guest = self._enter(networks)
        guest.handshake = handshakes.create_task(self._welcome(connection, guest))

    def admit(self, way: socket.socket, remote: str) -> bool:
        """One more guest, whose bytes come by `way` from `remote`, as somebody else has seen. False: turned away."""
        networks = networks_of(remote)
        reason = self._refusal(networks)
        if reason or self._handshakes is None:
            _REFUSED.labels(self._name, reason or "full").inc()
            return False
        guest = self._enter(networks)
        self._brought[guest.inner] = remote
        guest.handshake = self._handshakes.create_task(self._welcome(way, guest))
        return True

    def brought_from(self, protocol: asyncio.BaseProtocol) -> str | None:
        """The address of a guest that was admitted; None for who came by itself."""
        return self._brought.get(protocol)

    async def _survive(self, error: OSError) -> None:
        if error.errno in _LISTENER_BROKEN:
            raise error
        if error.errno not in _EXHAUSTED:
            return
        _REFUSED.labels(self._name, "descriptors").inc()
        now_s = self._clock.monotonic()
        if now_s - self._complained_s >= COMPLAINT_S:
            self._complained_s = now_s
            log.warning("no descriptors left to accept with", door=self._name, error=str(error))
        await self._clock.sleep(EXHAUSTED_PAUSE_S)

    def _refusal(self, networks: tuple[str, ...]) -> str:
        """Why nobody more may come from an address, by what it is limited as; "" if one may."""
        limits = self._limits
        if self._open >= limits.connections_max:
            return "full"
        for network, share in zip(networks, (1, WIDER), strict=False):
            if self._here[network] >= limits.connections_per_address_max * share:
                return "address"
            if self._strangers[network] >= limits.strangers_per_address_max * share:
                return "address"
        crowd = len(self._silent) + len(self._begun)
        if crowd * CROWDED >= limits.strangers_max and self._wasters.is_one(networks[0]):
            return "wasted"
        if len(self._silent) >= limits.strangers_max and not self._make_place():
            return "full"
        return ""

    def _make_place(self) -> bool:
        oldest = next(iter(self._silent.values()))
        if self._clock.monotonic() - oldest.since_s < SILENT_S:
            return False
        oldest.dismiss()
        return True

    def _enter(self, networks: tuple[str, ...]) -> _Guest:
        guest = _Guest(self, self._factory(), networks, self._clock.monotonic())
        self._open += 1
        self._here.update(networks)
        self._crowd.note(self.connections)
        self._strangers.update(networks)
        self._silent[guest.inner] = guest
        _CONNECTIONS.labels(self._name).inc()
        return guest

    def leave(self, guest: _Guest) -> None:
        """A guest is gone."""
        self._wasted(guest)
        self._brought.pop(guest.inner, None)
        self._open -= 1
        self._less(self._here, guest.networks)
        _CONNECTIONS.labels(self._name).dec()
        if self._counting is None:
            self._counting = asyncio.get_running_loop().call_later(COUNT_AFTER_S, self._count)

    def _count(self) -> None:
        """Some time after somebody left, when what was theirs is free."""
        self._counting = None
        self._crowd.note(self.connections)

    def dismissed(self, guest: _Guest) -> None:
        """A guest was silent for too long, or another needed its place."""
        self._wasted(guest)
        _REFUSED.labels(self._name, "silent").inc()

    async def _welcome(self, connection: socket.socket, guest: _Guest) -> None:
        _set_options(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guest,
                connection,
                ssl=self._tls() if self._tls is not None else None,
                ssl_handshake_timeout=self._limits.handshake_s if self._tls is not None else None,
                ssl_shutdown_timeout=1.0 if self._tls is not None else None,
            )
        except (OSError, EOFError):
            # ssl.SSLError is an OSError: a peer that cannot or will not speak our TLS.
            _REFUSED.labels(self._name, "handshake").inc()
            connection.close()
        finally:
            guest.handshake = None
            if guest.transport is None:
                guest.gone()
            else:
                guest.await_request(self._limits.first_request_s)

    @staticmethod
    def _less(counts: Counter[str], networks: tuple[str, ...]) -> None:
        for network in networks:
            counts[network] -= 1
            if not counts[network]:
                del counts[network]


class _Guest(asyncio.Protocol):
    """Stands in front of the HTTP protocol of one connection, and counts it once."""

    def __init__(self, door: Door, inner: asyncio.Protocol, networks: tuple[str, ...], since_s: float) -> None:
        self.inner = inner
        self.networks = networks
        self.since_s = since_s
        self.handshake: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        self._door = door
        self._deadline: asyncio.TimerHandle | None = None
        self._known = False
        self._gone = False

    def await_request(self, seconds: float) -> None:
        """The handshake is over: a request must follow."""
        if not self._known and not self._gone:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self.dismiss)

    def known(self) -> None:
        """A request has come."""
        self._known = True
        if self._deadline is not None:
            self._deadline.cancel()

    def dismiss(self) -> None:
        """End it, whatever it is doing."""
        self._door.dismissed(self)
        if self.transport is not None:
            self.transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def gone(self) -> None:
        """Counted out, once."""
        if not self._gone:
            self._gone = True
            self._door.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone()
        self.inner.connection_lost(exc)


@contextlib.asynccontextmanager
async def serving(
    name: str,
    app: web.Application,
    listener: socket.socket,
    limits: DoorLimits,
    clock: Clock,
    *,
    tls: Callable[[], ssl.SSLContext] | None = None,
    keepalive_s: float = 15.0,
    shutdown_s: float = 1.0,
    cancels_handlers: bool = False,
    takes_web_socket: bool = False,
) -> AsyncGenerator[Door]:
    """Serve `app`, which is this door's alone, until left; then the listener is closed and requests may finish.

    `cancels_handlers`: a caller that goes away ends its handler. `takes_web_socket`: guests may come in one, with the
    same TLS inside.
    """
    doors: list[Door] = []

    @web.middleware
    async def spoken(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        doors[0].spoke(request.protocol)
        remote = doors[0].brought_from(request.protocol)
        if remote is None and takes_web_socket and request.path == PATH:
            doors[0].carries(request.protocol)
            return await _let_through(request, doors[0])
        request.content.on_eof(functools.partial(doors[0].asked, request.protocol))
        if remote is not None:
            request = request.clone(remote=remote)
        return await handler(request)

    app.middlewares.insert(0, spoken)
    app.on_response_prepare.append(_say_what_it_is)
    runner = web.AppRunner(
        app, handle_signals=False, shutdown_timeout=shutdown_s, handler_cancellation=cancels_handlers
    )
    await runner.setup()
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.Protocol:
        if runner.server is None:
            raise AssertionError("a runner that is set up has a server")
        return _Protocol(runner.server, loop=loop, keepalive_timeout=keepalive_s, access_log=cast("Any", None))

    doors.append(Door(name, listener, protocol, limits=limits, clock=clock, tls=tls))
    try:
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(doors[0].run())
            try:
                yield doors[0]
            finally:
                accepting.cancel()
                listener.close()
    finally:
        await runner.cleanup()


async def _let_through(request: web.Request, door: Door) -> web.StreamResponse:
    """Who comes in a WebSocket is a stranger like any other, with a handshake and a first request of its own."""
    web_socket = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES_MAX, compress=False)
    if not web_socket.can_prepare(request):
        raise web.HTTPNotFound
    ours, theirs = pair()
    with theirs:
        if not door.admit(ours, request.remote or ""):
            ours.close()
            raise web.HTTPServiceUnavailable
        await web_socket.prepare(request)
        await carry(web_socket, theirs)
    return web_socket


class _Protocol(web.RequestHandler):
    """HTTP of one connection. aiohttp would say back, and log with a stack, what it cannot parse."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Bytes that are no request get the bare status; what a handler did not foresee goes to the log too."""
        if status >= 500 and not isinstance(exc, ConnectionError):
            log.error("request failed inside", remote=request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = web.Response(status=status, text=f"{status} {HTTPStatus(status).phrase}\n", headers=_NO_GUESSING)
        response.force_close()
        return response


_NO_GUESSING = {"X-Content-Type-Options": "nosniff"}
"""An answer is what its content type says, and never a page that somebody else's words make of it."""


async def _say_what_it_is(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_NO_GUESSING)


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen; port 0 picks one. Raises: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def _set_options(connection: socket.socket) -> None:
    if connection.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_S * 1000))


def _reset(connection: socket.socket) -> None:
    """Close it so that the peer knows at once, and nothing of it stays here."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
