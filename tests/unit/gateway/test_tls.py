from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

from drtp.api.snapshots import SniExposure
from unit.gateway.gatewaykit import (
    ANYONE,
    DEADLINE_S,
    ELSEWHERE,
    Access,
    Authority,
    EndpointMode,
    Entry,
    ListenerProtocol,
    Pop,
    Source,
    Visit,
    WeightedBackend,
    backend,
    free_port,
    gateway,
    http,
    line,
    listener,
    load,
    pop,
)
from unit.gateway.test_http import service, web_backend

HTTPS, TLS = ListenerProtocol.HTTPS, ListenerProtocol.TLS_PASSTHROUGH


def sni(port: int, hostname: str, access: Access = ANYONE, service: str = "s1") -> dict[str, Entry]:
    exposure = SniExposure(
        address="127.0.0.1", port=port, hostname=hostname, access=access, backends=(WeightedBackend(service=service),),
        sources=(Source("tlsroute", 1),),
    )  # fmt: skip
    return {f"sni/127.0.0.1/{port}/{hostname}": exposure}


async def https(port: int, context: ssl.SSLContext, name: str, host: str = "") -> tuple[bytes, str, str]:
    """(answer's head, certificate's first name, ALPN)."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        writer.write(f"GET / HTTP/1.1\r\nhost: {host or name}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert() or {}
        writer.close()
        names = [value for _kind, value in certificate.get("subjectAltName", ())]
        return head, str(names[0]), tls.selected_alpn_protocol() or ""


async def test_certificates_are_chosen_by_server_name(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    context = authority.visitor_context("http/1.1")
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTPS, "wild", "own"),
                "certificate/wild": authority.serving("*.wild.test"),
                "certificate/own": authority.serving("own.test"),
                **http(port, "a.wild.test"),
                **http(port, "own.test"),
                **web_backend(endpoint.endpoint()),
            }
        )
        head, name, alpn = await https(port, context, "a.wild.test")
        assert (head[:15], name, alpn) == (b"HTTP/1.1 200 OK", "*.wild.test", "http/1.1")
        assert (await https(port, context, "own.test"))[1] == "own.test"
        assert (await https(port, context, "b.wild.test"))[0].startswith(b"HTTP/1.1 404")


async def test_http2_is_offered(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    context = authority.visitor_context("h2", "http/1.1")
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        await running.programmed(
            {
                **listener(port, HTTPS, "own"),
                "certificate/own": authority.serving("own.test"),
                **http(port, "own.test"),
                **web_backend(endpoint.endpoint()),
            }
        )
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="own.test")
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        writer.close()


async def test_rotated_certificate_is_served_and_live_connections_go_on(tmp_path: Path) -> None:
    port, first, second = free_port(), Authority(), Authority()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        standing = {**listener(port, HTTPS, "own"), **http(port, "own.test"), **web_backend(endpoint.endpoint())}
        await running.programmed({**standing, "certificate/own": first.serving("own.test")})
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=first.visitor_context("http/1.1"), server_hostname="own.test"
        )
        await running.programmed({**standing, "certificate/own": second.serving("own.test")})
        await https(port, second.visitor_context("http/1.1"), "own.test")
        writer.write(b"GET / HTTP/1.1\r\nhost: own.test\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_adding_a_certificate_cuts_no_live_connection(tmp_path: Path) -> None:
    """cloudflared#1282, traefik#6235: a change of configuration drops no stream."""
    port, authority = free_port(), Authority()
    async with pop("p1", service) as endpoint, gateway(tmp_path) as running:
        standing = {
            "certificate/own": authority.serving("own.test"),
            **http(port, "own.test"),
            **web_backend(endpoint.endpoint()),
        }
        await running.programmed({**standing, **listener(port, HTTPS, "own")})
        context = authority.visitor_context("http/1.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="own.test")
        more = {"certificate/new": authority.serving("new.test"), **http(port, "new.test")}
        await running.programmed({**standing, **more, **listener(port, HTTPS, "own", "new")})
        assert (await _served(port, context, "new.test"))[1] == "new.test"
        await asyncio.sleep(1.5)  # longer than the drain time
        writer.write(b"GET / HTTP/1.1\r\nhost: own.test\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_passthrough_names_stand_beside_terminated_ones_on_one_port(tmp_path: Path) -> None:
    port, authority, owner = free_port(), Authority(), Authority()

    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"owner's own tls\n")
        writer.close()

    inner = load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), owner.issue("db.wild.test", "x.deep.test"), tmp_path)
    owned = await asyncio.start_server(say, "127.0.0.1", 0, ssl=inner)

    async def tls_echo(visit: Visit) -> None:
        """The service itself speaks TLS, behind the PROXY header."""
        reader, writer = await asyncio.open_connection(*owned.sockets[0].getsockname())
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(visit.reader, writer))
            group.create_task(_copy(reader, visit.writer))

    async with (
        pop("p1", service) as web,
        pop("p2", tls_echo) as database,
        pop("p3", tls_echo) as denied,
        gateway(tmp_path / "g") as running,
    ):
        await running.programmed(
            {
                **listener(port, HTTPS, "wild"),
                "certificate/wild": authority.serving("*.wild.test"),
                **http(port, "a.wild.test"),
                **web_backend(web.endpoint()),
                **sni(port, "db.wild.test", service="s2"),
                **sni(port, "*.deep.test", service="s2"),
                **sni(port, "shut.wild.test", access=ELSEWHERE, service="s3"),
                **backend(database.endpoint(), service="s2"),
                **backend(denied.endpoint(), service="s3"),
            }
        )
        assert (await https(port, authority.visitor_context("http/1.1"), "a.wild.test"))[0].startswith(b"HTTP/1.1 200")
        for name in ("db.wild.test", "x.deep.test"):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=owner.visitor_context(), server_hostname=name
            )
            assert await line(reader) == "owner's own tls"
            writer.close()
        assert database.visits[0].source == "127.0.0.1"
        assert database.visits[0].tlvs[0xE1] == b"s2"
        assert await _is_shut(port, owner, "shut.wild.test")
        assert denied.accepted == 0
    owned.close()


async def test_passthrough_listener_closes_unknown_names_and_works_over_mtls(tmp_path: Path) -> None:
    port, authority, owner = free_port(), Authority(), Authority()
    hop = authority.server_context(tmp_path, "p1.tunnel.test")
    seen = asyncio.Event()

    async def hello(visit: Visit) -> None:
        assert (await visit.reader.readexactly(3))[:2] == b"\x16\x03"
        seen.set()

    async with (
        pop("p1", hello, mode=EndpointMode.MTLS, tls=hop) as endpoint,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        await running.programmed({**listener(port, TLS), **sni(port, "db.test"), **backend(endpoint.endpoint())})
        assert await _is_shut(port, owner, "other.test")
        assert endpoint.accepted == 0
        assert await _is_shut(port, owner, "db.test")
        async with asyncio.timeout(DEADLINE_S):
            await seen.wait()
        assert _tlv(endpoint) == b"s1"


async def _served(port: int, context: ssl.SSLContext, name: str) -> tuple[bytes, str, str]:
    """As `https`; Envoy's workers take a new chain a moment after the acknowledgement."""
    while True:
        with contextlib.suppress(ssl.SSLCertVerificationError):
            return await https(port, context, name)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


def _tlv(endpoint: Pop) -> bytes:
    return endpoint.visits[0].tlvs[0xE1]


async def _is_shut(port: int, authority: Authority, name: str) -> bool:
    try:
        async with asyncio.timeout(DEADLINE_S):
            _reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=authority.visitor_context(), server_hostname=name
            )
    except (ConnectionError, ssl.SSLError):
        return True
    writer.close()
    return False
