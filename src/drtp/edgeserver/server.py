"""The door for edges: one aiohttp application on one TLS socket; enrolment for strangers, feeds for identities."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable

import aiohttp
import msgspec
from aiohttp import web
from cryptography import x509
from prometheus_client import Counter, Gauge

from drtp.api.feed import PROTOCOL, EdgeRole, FromEdge, Goodbye, Hello
from drtp.api.internal import EDGE_IDENTITY, EdgeIdentity, EdgeIdentitySpec
from drtp.api.people import Authenticator, Authoriser
from drtp.api.reports import AgentRegistration, ConnectorRegistration, GatewayRegistration, PopRegistration
from drtp.api.snapshots import Snapshot
from drtp.api.spiffe import PeerRole, identity_of
from drtp.edgeserver.answers import key_of, leaf_of, plain_fault, remote_of
from drtp.edgeserver.bindings import Bindings
from drtp.edgeserver.connectors import seen_of
from drtp.edgeserver.departures import Departures
from drtp.edgeserver.enrolment import Enrolment
from drtp.edgeserver.feed import MESSAGE_BYTES_MAX, FeedSession, Peer
from drtp.edgeserver.identities import Identities, denial
from drtp.edgeserver.issuing import Issuing
from drtp.edgeserver.registrations import SERVICE, Registrations
from drtp.edgeserver.revocation import Revocation
from drtp.edgeserver.routes import BODY_BYTES_MAX, Routes, faults
from drtp.edgeserver.source import SnapshotSource
from drtp.kit import door
from drtp.kit.buckets import AddressBuckets, Buckets
from drtp.kit.clock import Clock
from drtp.kit.codes import CODES
from drtp.kit.errors import DrtpError, Refused
from drtp.kit.observe import REGISTRY, logger
from drtp.store.observed import EdgeRef, Observed
from drtp.store.protocol import EventType, Store, WatchEvent

log = logger("edgeserver")

_FEEDS = Gauge("drtp_feeds", "Edges with a feed now.", ["role"], registry=REGISTRY)

_REFUSED = Counter("drtp_feed_refusals", "Feeds refused at their hello, by code.", ["code"], registry=REGISTRY)

HELLO_TIMEOUT_S = 2.0
RETURN_WITHIN_S = 5.0
"""At a restart everybody is told to come back within this, each at a random moment (teleport#6889)."""
STOPPING_TIMEOUT_S = 3.0
CONNECTIONS_MAX = 20_000
"""Beyond about 10,000 edges agents' feeds are relayed by their POPs."""
COLLECT_EVERY_S = 3600.0
RECHECK_PAUSE_S = 1.0

RENEWALS_PER_S = 50
"""Of all edges, when a rotation asks for them: a tenth of what one process can sign beside its other work."""
RENEW_WITHIN_MAX_S = 600.0

_TERMINAL = frozenset({"DRTP-2006", "DRTP-2007", "DRTP-3007", "DRTP-3008"})
"""Refusals at Hello that asking again cannot change. An unknown identity may be a backup being restored: ask again."""


class EdgeServer:
    """Accepts edges. One feed for each identity: a newer one replaces the older, and never waits for it."""

    def __init__(
        self,
        store: Store,
        observed: Observed,
        source: SnapshotSource,
        issuing: Issuing,
        *,
        authenticator: Authenticator,
        authoriser: Authoriser,
        clock: Clock,
        advertised_host: str = "127.0.0.1",
        advertised_port: int = 0,
    ) -> None:
        """`advertised_*`: what edges and join strings use; port 0 is the one that is bound."""
        self._store = store
        self._observed = observed
        self._source = source
        self._clock = clock
        self._authority = issuing.authority
        self._audit = issuing.audit
        self.identities = Identities(store, issuing.authority, issuing.audit, clock)
        self.revocation = Revocation(store, self.identities, issuing)
        self._departures = Departures(store, self.identities, self.revocation)
        self._registrations = Registrations(store)
        self._renewals = Buckets(clock, burst=4, per_s=1 / 60)
        self._host, self._port = advertised_host, advertised_port
        self._sessions: dict[str, FeedSession] = {}
        self._bindings = Bindings()
        self._last_sent: dict[str, Snapshot] = {}
        self.door: door.Door | None = None
        """While it serves."""
        enrolment = Enrolment(
            store,
            issuing.authority,
            self.identities,
            self._registrations,
            issuing.secrets,
            authoriser=authoriser,
            audit=issuing.audit,
            clock=clock,
        )
        self._routes = Routes(
            store,
            issuing.authority,
            enrolment,
            self.identities,
            issuing.secrets,
            authenticator=authenticator,
            authoriser=authoriser,
            audit=issuing.audit,
            attempts=AddressBuckets(clock, burst=120, per_s=10),
            advertised=lambda: self.address,
            clock=clock,
        )
        self.app = self._application()

    @property
    def address(self) -> str:
        """`host:port` for edges, IPv6 in brackets."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    @property
    def pin(self) -> str:
        """The root's fingerprint: `<secret>@<address>#<pin>` is the string that suffices."""
        return self._authority.pin

    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int, tls: Callable[[], ssl.SSLContext]) -> AsyncGenerator[int]:
        """Serve while inside; gives the bound port. Leaving tells every edge when to come back.

        `tls` is asked for each connection.

        Raises: OSError if the address cannot be bound.
        """
        listener = door.listen(host, port)
        bound: int = listener.getsockname()[1]
        self._port = self._port or bound
        async with door.serving(
            "edge",
            self.app,
            listener,
            door.public_limits(CONNECTIONS_MAX),
            self._clock,
            tls=tls,
            shutdown_s=STOPPING_TIMEOUT_S,
            takes_web_socket=True,
        ) as self.door:
            try:
                async with asyncio.TaskGroup() as group:
                    running = [group.create_task(work) for work in (self._watch(), self._collect())]
                    try:
                        yield bound
                    finally:
                        for task in running:
                            task.cancel()
            finally:
                self._part_all()

    def connected(self, uid: str) -> bool:
        """Whether this edge has a feed now."""
        return uid in self._sessions

    def _renew_within_s(self) -> float:
        return min(len(self._sessions) / RENEWALS_PER_S, RENEW_WITHIN_MAX_S)

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[faults])
        self._routes.add_to(app)
        app.router.add_get("/v1/feed", self._feed)
        return app

    # ---- one feed ------------------------------------------------------------------------------------------------

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        leaf = leaf_of(request)
        if leaf is None:
            return plain_fault("DRTP-2010", 401)
        peer = self._peer(leaf, remote_of(request))
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES_MAX[peer.edge.role], compress=False, timeout=2.0)
        await socket.prepare(request)
        try:
            hello = await _hello(socket)
            spec = await self._registered(peer, hello)
        except DrtpError as error:
            if isinstance(error, Refused):
                uid, remote = peer.edge.uid, peer.remote
                self._audit.write_paced(
                    "feed refused", source=uid, identity=uid, remote=remote, decision="refused", reason=error.code
                )
            await _part(socket, error)
            return socket
        await self._converse(socket, peer, hello, spec)
        return socket

    def _peer(self, leaf: x509.Certificate, remote: str) -> Peer:
        """Who it is, from the leaf alone. Raises: Refused DRTP-2010."""
        name = identity_of(leaf)
        if name.trust_domain != self._authority.trust_domain or name.role in (PeerRole.CONTROLPLANE, PeerRole.USER):
            raise Refused("DRTP-2010")
        edge = EdgeRef(EdgeRole(name.role.value), name.uid)
        return Peer(edge, key_of(leaf), leaf.not_valid_after_utc, remote)

    async def _registered(self, peer: Peer, hello: Hello) -> EdgeIdentitySpec:
        """Check the identity's record and take what the edge says of itself. Raises: Refused, Conflict."""
        # A newer edge speaks so that the version before understands it, and what is unknown is passed over.
        if not PROTOCOL - 1 <= hello.protocol <= PROTOCOL + 1:
            raise Refused("DRTP-3006", f"The feed's version {hello.protocol} is not spoken here.")
        uid, said, bundle = peer.edge.uid, hello.registration, hello.bundle[:64]
        held = await self.identities.find(uid)
        if held is not None and held.record.spec.role is not peer.edge.role:
            raise Refused("DRTP-2010", "The certificate's role is not the recorded one.")
        await self.identities.caught_up(uid, peer.key_fingerprint, peer.not_after, hello.certificate_generation)
        match said, peer.edge.role:
            case PopRegistration(), EdgeRole.POP:
                spec = await self.identities.connected(
                    uid, peer.key_fingerprint, bundle=bundle, version=said.version[:64]
                )
                await self._check_server(uid, spec)
                await self._registrations.server(spec.edge_name, said)
            case GatewayRegistration(), EdgeRole.GATEWAY:
                if held is not None and said.name != held.record.spec.edge_name:
                    raise Refused("DRTP-3007", f"This identity is of gateway {held.record.spec.edge_name!r}.")
                spec = await self.identities.connected(
                    uid, peer.key_fingerprint, bundle=bundle, version=said.version[:64], addresses=said.addresses[:16]
                )
            case ConnectorRegistration(), EdgeRole.CONNECTOR:
                spec = await self.identities.connected(uid, peer.key_fingerprint, **seen_of(said))
            case AgentRegistration(), EdgeRole.AGENT:
                spec = await self.identities.connected(uid, peer.key_fingerprint, bundle=bundle)
                writes = await self._registrations.connections(uid, spec, said, peer.remote)
                if writes:
                    self.identities.check_pace(uid)
                await self._registrations.apply(writes)
            case _:
                raise Refused("DRTP-3007", "The registration is of another role than the certificate.")
        return spec

    async def _check_server(self, uid: str, spec: EdgeIdentitySpec) -> None:
        """A deleted DRTPServer is a decommissioned POP, even if another of that name exists by now."""
        stored = await self._registrations.existing_server(spec.edge_name)
        if stored is None or stored.uid != uid:
            raise Refused("DRTP-3008")

    async def _converse(self, socket: web.WebSocketResponse, peer: Peer, hello: Hello, spec: EdgeIdentitySpec) -> None:
        edge = peer.edge
        session = FeedSession(
            socket,
            peer,
            self._source.subscribe(edge.role, edge.uid),
            observed=self._observed,
            identities=self.identities,
            renewals=self._renewals,
            offers=self._authority.offer,
            renew_within=self._renew_within_s,
            clock=self._clock,
        )
        older = self._sessions.get(edge.uid)
        self._sessions[edge.uid] = session
        if older is not None:
            older.end(_goodbye("DRTP-3003", terminal=True))
        self._observed.connect(edge, hello.registration, self._clock.now(), peer.remote)
        log.info("feed up", role=edge.role.value, uid=edge.uid, name=spec.edge_name, remote=peer.remote)
        try:
            held = await self.identities.find(edge.uid)
            if held is None or denial(held.record.spec) is not None:
                # Revoked since the Hello was judged, when there was no session yet to cut.
                session.end(_goodbye("DRTP-2006", terminal=True))
            else:
                self._bindings.note(edge.uid, held.record.spec.bound)
                await self._part_if_bereft(edge.uid, held.record.spec)
            with _FEEDS.labels(edge.role.value).track_inprogress():
                await session.run(hello, self._last_sent.get(edge.uid))
        finally:
            self._parted(session)

    def _parted(self, session: FeedSession) -> None:
        """Forget a session, unless a newer one of the same edge has taken its place already."""
        edge = session.peer.edge
        if session.sent is not None and self._observed.edge(edge.uid) is not None:
            self._last_sent[edge.uid] = session.sent
        if self._sessions.get(edge.uid) is session:
            del self._sessions[edge.uid]
            self._bindings.forget(edge.uid)
            self._observed.disconnect(edge.uid, self._clock.now())
            self._source.release(edge.role, edge.uid)
        log.info("feed down", role=edge.role.value, uid=edge.uid)

    def _part_all(self) -> None:
        for session in list(self._sessions.values()):
            session.end(_goodbye("DRTP-3002", retry_within_s=RETURN_WITHIN_S))

    # ---- revocation ----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Cut feeds of identities that are denied, and revoke what has lost what it was for, as it happens.

        A start, history that is gone, and a disk that is full, are survived: then everybody is looked at anew.
        """
        behind = True
        while True:
            since = self._store.revision
            try:
                if behind:
                    await self._departures.missed()
                    await self._recheck()
                    behind = False
                async for event in self._store.watch(since=since):
                    await self._noticed(event)
            except DrtpError as error:
                log.warning("revocations fell behind", code=error.code)
                behind = True
                await self._clock.sleep(RECHECK_PAUSE_S)

    async def _noticed(self, event: WatchEvent) -> None:
        if event.stored is None:
            return
        gone = event.type is EventType.DELETED
        if event.stored.key.kind == EDGE_IDENTITY:
            record = msgspec.json.decode(event.stored.raw, type=EdgeIdentity)
            code = "DRTP-2006" if gone else denial(record.spec)
            if code is not None:
                self._cut(record.metadata.name, code)
            elif record.metadata.name in self._sessions:
                # Its agent may have been given other services.
                self._bindings.note(record.metadata.name, record.spec.bound)
            if gone:
                self._observed.forget(record.metadata.name)
        elif gone:
            await self._departures.deleted(event.stored)
            if event.stored.key.kind == SERVICE:
                await self._bereave(event.stored.uid)

    async def _bereave(self, service: str) -> None:
        """A service was deleted: its agents that have no other end, for what is gone by uid never comes back."""
        for agent in self._bindings.of(service):
            if (held := await self.identities.find(agent)) is not None:
                await self._part_if_bereft(agent, held.record.spec)

    async def _part_if_bereft(self, agent: str, spec: EdgeIdentitySpec) -> None:
        session = self._sessions.get(agent)
        if session is not None and await self._registrations.is_bereft(spec):
            log.info("agent has no service left", uid=agent, services=[one.name for one in spec.bound[:16]])
            session.end(_goodbye("DRTP-2017", terminal=True))

    async def _collect(self) -> None:
        while True:
            try:
                gone = await self.identities.collect()
            except DrtpError as error:
                log.warning("expired agents not forgotten", code=error.code)
                gone = 0
            if gone:
                log.info("expired agents forgotten", count=gone)
            await self._clock.sleep(COLLECT_EVERY_S)

    async def _recheck(self) -> None:
        for uid in list(self._sessions):
            held = await self.identities.find(uid)
            code = "DRTP-2006" if held is None else denial(held.record.spec)
            if code is not None:
                self._cut(uid, code)
            elif held is not None:
                await self._part_if_bereft(uid, held.record.spec)

    def _cut(self, uid: str, code: str) -> None:
        self._last_sent.pop(uid, None)
        session = self._sessions.get(uid)
        if session is not None:
            session.end(_goodbye(code, terminal=True))


async def _hello(socket: web.WebSocketResponse) -> Hello:
    """The first message, in time. Raises: Refused DRTP-3004."""
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            frame = await socket.receive()
    except TimeoutError:
        raise Refused("DRTP-3004", f"No hello within {HELLO_TIMEOUT_S:g} s.") from None
    if frame.type is not aiohttp.WSMsgType.TEXT:
        raise Refused("DRTP-3004", "No hello.")
    try:
        message = msgspec.json.decode(frame.data, type=FromEdge)
    except msgspec.DecodeError as error:
        raise Refused("DRTP-3004", f"The hello cannot be read: {error}") from None
    if not isinstance(message, Hello):
        raise Refused("DRTP-3004", "The first message is not a hello.")
    return message


async def _part(socket: web.WebSocketResponse, error: DrtpError) -> None:
    log.info("feed refused", code=error.code, reason=error.what)
    _REFUSED.labels(error.code).inc()
    terminal = isinstance(error, Refused) and error.code in _TERMINAL
    goodbye = Goodbye(code=error.code, message=error.what, retry_within_s=30.0, terminal=terminal)
    with contextlib.suppress(ConnectionError, RuntimeError):
        await socket.send_str(msgspec.json.encode(goodbye).decode())
        await socket.close()


def _goodbye(code: str, *, retry_within_s: float = 5.0, terminal: bool = False) -> Goodbye:
    return Goodbye(code=code, message=CODES[code].what, retry_within_s=retry_within_s, terminal=terminal)
