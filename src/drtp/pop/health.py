"""`/healthz` over mutual TLS: the gateways' own prober asks here, with the control plane up or down.

A gateway takes endpoints of a POP out of use when this says no, so it tells the truth: 200 only while the driver moves
and new visitors are welcome. The question says something too: whether that gateway sends visitors
here (drtp.api.probing).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from drtp.api.probing import SENDS_VISITORS
from drtp.api.spiffe import PeerRole, SpiffeId, identity_of
from drtp.kit.clock import Clock
from drtp.kit.door import Door, public_limits, serving
from drtp.kit.errors import Refused
from drtp.kit.observe import logger
from drtp.pop.gateways import GatewayBook
from drtp.pop.vitals import Fitness, Vitals

log = logger("pop")

CONNECTIONS_MAX = 256
"""Each gateway has one, and so has the control plane."""
KEEPALIVE_S = 30.0


class HealthDoor:
    """One listening socket, served with the newest certificate."""

    def __init__(
        self,
        listener: socket,
        vitals: Callable[[], Vitals],
        may_ask: Callable[[SpiffeId], bool],
        gateways: GatewayBook,
        clock: Clock,
    ) -> None:
        """`may_ask` judges who asks; everybody else gets 403. `gateways` notes what gateways say when they ask.

        `listener` is listening.
        """
        self._listener = listener
        self._vitals = vitals
        self._may_ask = may_ask
        self._clock = clock
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._gateways = gateways

    def present(self, chain: Path, key: Path, bundle_pem: bytes) -> None:
        """Serve with this certificate from the next handshake on. Raises: OSError (ssl.SSLError is one)."""
        self._context = _context(chain, key, bundle_pem)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Door]:
        """Serve until left; then the listener is closed. `present` has been called."""
        app = web.Application(middlewares=[_only_for(self._may_ask)], client_max_size=1024)
        app.router.add_get("/healthz", self._healthz)
        async with serving(
            "health",
            app,
            self._listener,
            public_limits(CONNECTIONS_MAX),
            self._clock,
            tls=lambda: self._context,
            keepalive_s=KEEPALIVE_S,
        ) as door:
            yield door

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        peer = _peer(request)
        if peer is not None and peer.role is PeerRole.GATEWAY:
            said = request.headers.get(SENDS_VISITORS)
            self._gateways.note(peer.uid, request.transport, sends=None if said is None else said == "yes")
        now = self._vitals()
        document = {"status": now.fitness.value, "health": now.health, "ticks": now.ticks}
        return web.json_response(document, status=200 if now.fitness is Fitness.OK else 503)


def _context(chain: Path, key: Path, bundle_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # Resumption admits what a full handshake would refuse (CVE-2025-23419, CVE-2025-68121).
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.load_cert_chain(chain, key)
    context.load_verify_locations(cadata=bundle_pem.decode())
    return context


def gateways_and_control_plane(trust_domain: str, gateways: Callable[[], frozenset[str]]) -> Callable[[SpiffeId], bool]:
    """Who may ask: gateways that the snapshot trusts, and the control plane."""

    def may_ask(peer: SpiffeId) -> bool:
        if peer.trust_domain != trust_domain:
            return False
        return peer.role is PeerRole.CONTROLPLANE or (peer.role is PeerRole.GATEWAY and peer.uid in gateways())

    return may_ask


def _only_for(may_ask: Callable[[SpiffeId], bool]) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = _peer(request)
        if peer is None or not may_ask(peer):
            log.warning("health question refused", peer=str(peer) if peer else "")
            raise web.HTTPForbidden(text="Not for this identity.\n")
        return await handler(request)

    return check


def _peer(request: web.Request) -> SpiffeId | None:
    """Who asks, by the leaf alone; TLS has verified its chain."""
    tls: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    leaf = tls.getpeercert(binary_form=True) if tls is not None else None
    try:
        return identity_of(leaf) if leaf else None
    except Refused:
        return None
