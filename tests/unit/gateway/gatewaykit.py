"""Real parts for gateway tests: a small authority, POP stand-ins that read PROXY v2, visitors, and a running host."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drtp.api.drtp import Action, AppProtocol, Protocol
from drtp.api.reports import ExposureReport, ExposureState, GatewayReport
from drtp.api.snapshots import (
    Access,
    AccessList,
    AccessListRule,
    Backend,
    EndpointMode,
    Entry,
    GatewayListener,
    Generation,
    HttpHost,
    HttpMatch,
    HttpRule,
    ListenerProtocol,
    PopEndpoint,
    ServingCertificate,
    Snapshot,
    Source,
    TcpExposure,
    WeightedBackend,
)
from drtp.gateway.envoy import find_envoy
from drtp.gateway.host import GatewayHost
from drtp.gateway.program import Credentials
from drtp.gateway.settings import GatewaySettings, paths
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Terminal
from drtp.kit.latest import Latest

DEADLINE_S = 15.0
ANYONE = Access(lists=(AccessList(default=Action.ALLOW),))
NOBODY = Access(lists=(AccessList(default=Action.DENY),))
LOCALHOST = Access(lists=(AccessList(rules=(AccessListRule(action=Action.ALLOW, cidrs=("127.0.0.0/8", "::1/128")),)),))
ELSEWHERE = Access(lists=(AccessList(rules=(AccessListRule(action=Action.ALLOW, cidrs=("203.0.113.0/24",)),)),))
T = TypeVar("T")


def needs_envoy() -> None:
    """Skip without an Envoy binary, but fail where CI says that there is one."""
    try:
        find_envoy(None)
    except Terminal as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"needs Envoy: {error.what}")


def free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    """A port that nobody holds now, and that the system gives to nobody who asks for any."""
    for port in random.sample(range(10_000, 32_768), 200):
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
            return port
    raise AssertionError("no free port")


async def until(latest: Latest[T], holds: Callable[[T], bool]) -> T:
    """The first value for which `holds`, within the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        async for value in latest:
            if holds(value):
                return value
    raise AssertionError("unreachable")


# ---- certificates --------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    chain_pem: bytes
    key_pem: bytes


class Authority:
    """A root that issues leaves as the real one does: one URI SAN, DNS names, key identifiers."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        public = self._key.public_key()
        self._root = (
            self._builder(self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle_pem = self._root.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, lifetime_s: float = 3600.0
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(seconds=lifetime_s))
        )

    def issue(self, *names: str, uri: str = "", lifetime_s: float = 3600.0) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        sans: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        sans += [x509.UniformResourceIdentifier(uri)] if uri else []
        leaf = (
            self._builder(x509.Name([]), public, lifetime_s)
            .add_extension(x509.SubjectAlternativeName(sans), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Pair(
            leaf.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def credentials(self, uid: str = "g1") -> Credentials:
        pair = self.issue(uri=f"spiffe://drtp.test/gateway/{uid}")
        return Credentials(pair.chain_pem, pair.key_pem, self.bundle_pem, uid, trust_domain="drtp.test")

    def server_context(self, directory: Path, *names: str) -> ssl.SSLContext:
        """A POP's side: its own certificate, client certificates required."""
        context = load(
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.issue(*names, uri="spiffe://drtp.test/pop/p"), directory
        )
        context.load_verify_locations(cadata=self.bundle_pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def visitor_context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.bundle_pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def serving(self, *names: str) -> ServingCertificate:
        pair = self.issue(*names)
        return ServingCertificate(names=names, chain_pem=pair.chain_pem.decode(), key_pem=pair.key_pem.decode())


def load(context: ssl.SSLContext, pair: Pair, directory: Path) -> ssl.SSLContext:
    path = directory / f"pair-{x509.random_serial_number()}.pem"
    path.write_bytes(pair.chain_pem + pair.key_pem)
    context.load_cert_chain(path)
    path.unlink()
    return context


# ---- a POP endpoint that reads PROXY v2 ----------------------------------------------------------------------------


@dataclass
class Visit:
    """One connection as the POP sees it."""

    source: str
    source_port: int
    tlvs: dict[int, bytes]
    peer_uris: tuple[str, ...]
    local: bool
    """Over a Unix socket."""
    server_name: str
    """Of the ClientHello that introduced the visitor; "" if a PROXY header did."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def read_proxy(reader: asyncio.StreamReader) -> tuple[str, int, dict[int, bytes]]:
    head = await reader.readexactly(16)
    assert head[:12] == b"\r\n\r\n\x00\r\nQUIT\n", head
    body = await reader.readexactly(struct.unpack("!H", head[14:16])[0])
    assert head[12] == 0x21, head
    if head[13] == 0x11:
        address, port, rest = socket.inet_ntop(socket.AF_INET, body[:4]), struct.unpack("!H", body[8:10])[0], body[12:]
    else:
        address, port = socket.inet_ntop(socket.AF_INET6, body[:16]), struct.unpack("!H", body[32:34])[0]
        rest = body[36:]
    tlvs: dict[int, bytes] = {}
    while rest:
        kind, length = rest[0], struct.unpack("!H", rest[1:3])[0]
        tlvs[kind] = rest[3 : 3 + length]
        rest = rest[3 + length :]
    return address, port, tlvs


def hello_of(record: bytes) -> tuple[str, list[str]]:
    """The server name and the protocols in a ClientHello (RFC 8446, 4.1.2): one record, read whole."""
    body = record[9:]
    at = 2 + 32
    at += 1 + body[at]  # session id
    at += 2 + struct.unpack_from("!H", body, at)[0]  # cipher suites
    at += 1 + body[at]  # compression
    at += 2
    server_name, protocols = "", list[str]()
    while at < len(body):
        kind, length = struct.unpack_from("!HH", body, at)
        value = body[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == 0:
            server_name = value[5:].decode()
        elif kind == 16:
            rest = value[2:]
            while rest:
                protocols.append(rest[1 : 1 + rest[0]].decode())
                rest = rest[1 + rest[0] :]
    return server_name, protocols


async def peeked_hello(sock: socket.socket) -> tuple[str, list[str]]:
    """The same, of a connection just accepted; nothing is taken from it."""
    seen = b""
    while len(seen) < 5 or len(seen) < 5 + struct.unpack("!H", seen[3:5])[0]:
        await asyncio.sleep(0.001)
        with contextlib.suppress(BlockingIOError):
            seen = sock.recv(65_536, socket.MSG_PEEK)
    return hello_of(seen)


@dataclass
class Pop:
    """Counts visits and hands each to `serve`."""

    server: str
    serve: Callable[[Visit], Coroutine[Any, Any, None]]
    mode: EndpointMode = EndpointMode.PLAIN
    port: int = 0
    path: str = ""
    introductions: bool = False
    visits: list[Visit] = field(default_factory=list[Visit])
    serving: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])
    accepted: int = 0

    def endpoint(self, priority: int = 0) -> PopEndpoint:
        return PopEndpoint(
            connection="c1", server=self.server, server_name=f"{self.server}.tunnel.test", mode=self.mode,
            address="127.0.0.1", port=self.port, path=self.path, priority=priority, introductions=self.introductions,
        )  # fmt: skip

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            source, port, tlvs = await read_proxy(reader)
            certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
            uris = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")
            local = writer.get_extra_info("socket").family == socket.AF_UNIX
            visit = Visit(source, port, tlvs, uris, local, "", reader, writer)
            self.visits.append(visit)
            await self.serve(visit)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def take_introduced(self, listening: socket.socket, tls: ssl.SSLContext) -> None:
        """Accept, as `handle` does, visitors whom ClientHellos introduce."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listening)
            self.accepted += 1
            server_name, protocols = await peeked_hello(sock)
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            try:
                transport, _ = await loop.connect_accepted_socket(lambda p=protocol: p, sock, ssl=tls)
            except (ConnectionError, ssl.SSLError):
                continue
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
            uris = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")
            [words] = [one.split(";") for one in protocols if one.startswith("drtp-visitor/1;")]
            host, _, port = words[1].rpartition(":")
            tlvs = {0xE0: words[3].encode()}
            visit = Visit(host.strip("[]"), int(port), tlvs, uris, False, server_name, reader, writer)
            self.visits.append(visit)
            self.serving.add(asyncio.ensure_future(self.serve(visit)))


async def echo(visit: Visit) -> None:
    visit.writer.write(f"banner {visit.source}\n".encode())
    while data := await visit.reader.read(65536):
        visit.writer.write(data)
        await visit.writer.drain()


@contextlib.asynccontextmanager
async def pop(
    server: str,
    serve: Callable[[Visit], Coroutine[Any, Any, None]] = echo,
    *,
    mode: EndpointMode = EndpointMode.PLAIN,
    tls: ssl.SSLContext | None = None,
    path: Path | None = None,
) -> AsyncGenerator[Pop]:
    stand_in = Pop(server, serve, mode)
    listening = await asyncio.start_server(stand_in.handle, "127.0.0.1", 0, ssl=tls)
    stand_in.port = listening.sockets[0].getsockname()[1]
    doors = [listening]
    if path is not None:
        doors.append(await asyncio.start_unix_server(stand_in.handle, path))
        stand_in.path = str(path)
    try:
        yield stand_in
    finally:
        for door in doors:
            door.close()
        for visit in stand_in.visits:
            visit.writer.close()


@contextlib.asynccontextmanager
async def introduced_pop(
    server: str, tls: ssl.SSLContext, serve: Callable[[Visit], Coroutine[Any, Any, None]] = echo
) -> AsyncGenerator[Pop]:
    """A POP that hears in the ClientHello who comes."""
    stand_in = Pop(server, serve, EndpointMode.MTLS, introductions=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        stand_in.port = listening.getsockname()[1]
        accepting = asyncio.ensure_future(stand_in.take_introduced(listening, tls))
        try:
            yield stand_in
        finally:
            for task in (accepting, *stand_in.serving):
                task.cancel()
            for visit in stand_in.visits:
                visit.writer.close()


@contextlib.asynccontextmanager
async def resetting_port() -> AsyncGenerator[tuple[int, list[int]]]:
    """Accepts and resets at once, as a POP without a session does in the handshake. Counts."""
    count = [0]

    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count[0] += 1
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    listening = await asyncio.start_server(reset, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], count
    finally:
        listening.close()


# ---- entries -------------------------------------------------------------------------------------------------------


def backend(*endpoints: PopEndpoint, service: str = "s1", **more: Any) -> dict[str, Entry]:
    more.setdefault("protocol", Protocol.TCP)
    more.setdefault("app_protocol", AppProtocol.HTTP1)
    entry = Backend(
        service=service, namespace="ns", name=service, endpoints=endpoints, sources=(Source(service, 1),), **more
    )
    return {f"backend/{service}": entry}


def listener(port: int, protocol: ListenerProtocol, *certificates: str, address: str = "127.0.0.1") -> dict[str, Entry]:
    entry = GatewayListener(
        address=address, port=port, protocol=protocol, certificates=certificates, sources=(Source("gateway", 1),)
    )
    return {f"listener/{address}/{port}": entry}


def tcp(port: int, access: Access = ANYONE, service: str = "s1", address: str = "127.0.0.1") -> dict[str, Entry]:
    exposure = TcpExposure(
        address=address, port=port, access=access, backends=(WeightedBackend(service=service),),
        sources=(Source("route", 1),),
    )  # fmt: skip
    return {**listener(port, ListenerProtocol.TCP, address=address), f"tcp/{address}/{port}": exposure}


def http(port: int, hostname: str, *rules: HttpRule, service: str = "s1") -> dict[str, Entry]:
    chosen = rules or (HttpRule(matches=(HttpMatch(),), access=ANYONE, backends=(WeightedBackend(service=service),)),)
    host = HttpHost(address="127.0.0.1", port=port, hostname=hostname, rules=chosen, sources=(Source(hostname, 1),))
    return {f"http/127.0.0.1/{port}/{hostname}": host}


# ---- a running host ------------------------------------------------------------------------------------------------


class Running:
    """A host with its Envoy, and what a test asks of it."""

    def __init__(self, host: GatewayHost, settings: GatewaySettings) -> None:
        self.host = host
        self.settings = settings
        self._sequence = 0

    async def apply(self, entries: dict[str, Entry]) -> dict[str, ExposureReport]:
        """Apply and wait until Envoy has answered for all of it; gives the reports."""
        self._sequence += 1
        generation = Generation(1, self._sequence)
        self.host.apply(Snapshot(generation=generation, entries=entries))
        await until(self.host.applied, lambda applied: applied.generation == generation)
        return self.reports()

    def reports(self) -> dict[str, ExposureReport]:
        found = self.host.reports.value or {}
        return {key: report for key, report in found.items() if isinstance(report, ExposureReport)}

    async def programmed(self, entries: dict[str, Entry]) -> None:
        """Apply, and every entry is taken."""
        reports = await self.apply(entries)
        failed = {key: report.message for key, report in reports.items() if report.state is ExposureState.FAILED}
        assert not failed, failed
        assert reports.keys() == entries.keys()

    async def ready(self) -> None:
        await until(self.host.reports, lambda reports: _is_ready(reports.get("self")))


def _is_ready(report: object) -> bool:
    return isinstance(report, GatewayReport) and report.envoy_ready


@contextlib.asynccontextmanager
async def gateway(directory: Path, credentials: Credentials | None = None, **settings: Any) -> AsyncGenerator[Running]:
    """Start a host and its Envoy; stop both at the end."""
    needs_envoy()
    settings.setdefault("drain_timeout_s", 0.2)
    chosen = GatewaySettings(directory=directory, name="test-gateway", concurrency=1, **settings)
    host = GatewayHost(chosen, paths(directory), SystemClock())
    if credentials is not None:
        host.use(credentials)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(host.run(stop))
        try:
            yield Running(host, chosen)
        finally:
            stop.set()


async def line(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(DEADLINE_S):
        return (await reader.readline()).decode().strip()
