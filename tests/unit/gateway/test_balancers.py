"""An outer load balancer tells whose connection it is; nobody else may. With real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import struct
import uuid
from pathlib import Path

import pytest

from drtp.api.drtp import Action
from drtp.api.snapshots import Access, AccessList, AccessListRule, ListenerProtocol
from drtp.gateway.balancers import balancers_of
from drtp.kit.errors import Invalid
from unit.gateway.gatewaykit import (
    ANYONE,
    Authority,
    EndpointMode,
    Running,
    Visit,
    backend,
    free_port,
    gateway,
    http,
    line,
    listener,
    pop,
    tcp,
)
from unit.gateway.test_http import rule, service, web_backend
from unit.gateway.test_tls import sni

PARTNER = Access(lists=(AccessList(rules=(AccessListRule(action=Action.ALLOW, cidrs=("203.0.113.0/24",)),)),))
BALANCERS = ("127.0.77.0/24",)
BALANCER, ANYBODY = "127.0.77.1", "127.0.78.1"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(visitor: str) -> bytes:
    return f"PROXY TCP4 {visitor} 192.0.2.1 4711 80\r\n".encode()


def v2(visitor: str, tlvs: bytes = b"") -> bytes:
    source, target = ipaddress.ip_address(visitor), "192.0.2.1" if "." in visitor else "2001:db8::1"
    addresses = source.packed + ipaddress.ip_address(target).packed + struct.pack("!HH", 4711, 80)
    family = 0x11 if source.version == 4 else 0x21
    return SIGNATURE + struct.pack("!BBH", 0x21, family, len(addresses + tlvs)) + addresses + tlvs


LOCAL = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)


async def came(running: Running, port: int, head: bytes, source: str = BALANCER) -> str:
    """The banner that a TCP visitor gets, or "" if it is turned away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(head)
            return await line(reader)
        return ""
    finally:
        writer.close()


async def test_tcp_access_holds_for_the_visitor_behind_the_balancer(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path, proxy_protocol_from=BALANCERS) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, PARTNER)})
        for header in (v1, v2):
            assert await came(running, port, header("203.0.113.7")) == "banner 203.0.113.7"
            assert await came(running, port, header("198.51.100.7")) == ""
        visit = endpoint.visits[0]
        assert visit.source_port == 4711
        assert visit.tlvs[0xE1] == b"s1"
        uuid.UUID(visit.tlvs[0xE0].decode())
        assert len({visit.tlvs[0xE0] for visit in endpoint.visits}) == 2


async def test_nobody_but_a_balancer_is_let_in_whatever_it_says(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path, proxy_protocol_from=BALANCERS) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, ANYONE)})
        for head in (b"no header at all, and long enough\n", v1("203.0.113.7"), v2("203.0.113.7"), v1(BALANCER), LOCAL):
            assert await came(running, port, head, ANYBODY) == ""
        assert await came(running, port, b"no header at all, and long enough to see that\n") == ""
        assert endpoint.accepted == 0
        assert await came(running, port, v2("198.51.100.7")) == "banner 198.51.100.7"


async def test_cve_2024_23327_a_local_header_counts_as_the_balancer_itself(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with (
        pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials(), proxy_protocol_from=BALANCERS) as running,
    ):
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, ANYONE)})
        assert await came(running, port, LOCAL) == f"banner {BALANCER}"
        assert await came(running, port, b"PROXY UNKNOWN\r\n") == f"banner {BALANCER}"
        assert await came(running, port, v2("2001:db8::7")) == "banner 2001:db8::7"


async def test_a_balancers_extra_fields_go_no_further(tmp_path: Path) -> None:
    """Else whoever can make a balancer pass a field on could name another service to the POP."""
    port = free_port()
    forged = struct.pack("!BH", 0xE1, 5) + b"other" + struct.pack("!BH", 0xEA, 3) + b"vpc"
    async with pop("p1") as endpoint, gateway(tmp_path, proxy_protocol_from=BALANCERS) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, ANYONE)})
        assert await came(running, port, v2("203.0.113.7", forged)) == "banner 203.0.113.7"
        assert endpoint.visits[0].tlvs[0xE1] == b"s1"
        assert 0xEA not in endpoint.visits[0].tlvs


async def test_a_header_that_never_comes_is_not_waited_for_cve_2021_23409(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path, proxy_protocol_from=BALANCERS) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, ANYONE)})
        waiting = [await asyncio.open_connection("127.0.0.1", port, local_addr=(BALANCER, 0)) for _ in range(3)]
        waiting[1][1].write(SIGNATURE)
        waiting[2][1].write(b"PROXY TCP4 203.0.113.7")
        for reader, writer in waiting:
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    assert await reader.read() == b""
            writer.close()
        assert endpoint.accepted == 0


async def request(port: int, head: bytes, source: str = BALANCER, *more: str) -> tuple[int, str]:
    """Status and body of one HTTP request; (0, "") if the connection is turned away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    lines = "".join(f"{one}\r\n" for one in more)
    try:
        writer.write(head + f"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lines}\r\n".encode())
        async with asyncio.timeout(10):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    top, _, body = answer.partition(b"\r\n\r\n")
    return (int(top.split(b" ")[1]), body.decode()) if answer else (0, "")


async def test_http_rules_and_headers_speak_of_the_visitor(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1", service) as endpoint, gateway(tmp_path, proxy_protocol_from=BALANCERS) as running:
        await running.programmed(
            {
                **web_backend(endpoint.endpoint()),
                **listener(port, ListenerProtocol.HTTP),
                **http(port, "a.test", rule(access=PARTNER)),
            }
        )
        forged = "X-Forwarded-For: 203.0.113.99"
        for header in (v1, v2):
            status, body = await request(port, header("203.0.113.7"), BALANCER, forged)
            assert status == 200
            assert "203.0.113.7" in body
            assert "203.0.113.99" not in body
            assert (await request(port, header("198.51.100.7"), BALANCER, forged))[0] == 403
        assert await request(port, b"", ANYBODY) == (0, "")
        assert await request(port, v2("203.0.113.7"), ANYBODY) == (0, "")
        assert (await request(port, b""))[0] in {0, 400}
        assert {visit.source for visit in endpoint.visits} == {"203.0.113.7"}
        uuid.UUID(endpoint.visits[0].tlvs[0xE0].decode())


def greeting(name: str) -> bytes:
    """The first flight of a TLS visitor who asks for `name`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


async def test_passthrough_by_name_knows_the_visitor(tmp_path: Path) -> None:
    port = free_port()

    async def owner(visit: Visit) -> None:
        assert (await visit.reader.readexactly(3))[:2] == b"\x16\x03"
        visit.writer.write(f"banner {visit.source}\n".encode())

    async with pop("p1", owner) as endpoint, gateway(tmp_path, proxy_protocol_from=BALANCERS) as running:
        await running.programmed(
            {
                **backend(endpoint.endpoint()),
                **listener(port, ListenerProtocol.TLS_PASSTHROUGH),
                **sni(port, "db.test", PARTNER),
            }
        )
        hello = greeting("db.test")
        for header in (v1, v2):
            assert await came(running, port, header("203.0.113.7") + hello) == "banner 203.0.113.7"
            assert await came(running, port, header("198.51.100.7") + hello) == ""
        assert await came(running, port, v2("203.0.113.7") + greeting("other.test")) == ""
        assert await came(running, port, v2("203.0.113.7") + hello, ANYBODY) == ""
        assert await came(running, port, hello, ANYBODY) == ""
        assert await came(running, port, hello) == ""
        assert len(endpoint.visits) == 2
        uuid.UUID(endpoint.visits[0].tlvs[0xE0].decode())


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "::/0", "balancer", "10.0.0.0/33", ""])
def test_networks_that_mean_everybody_or_nothing_are_refused(cidr: str) -> None:
    with pytest.raises(Invalid, match="DRTP-5040"):
        balancers_of(("10.0.0.0/8", cidr))


def test_an_address_is_a_network_of_one() -> None:
    assert balancers_of(("10.1.2.3", "10.9.9.9/8", "2001:db8::/32")) == ("10.1.2.3/32", "10.0.0.0/8", "2001:db8::/32")
