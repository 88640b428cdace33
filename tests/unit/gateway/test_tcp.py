from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import msgspec

from drtp.api.snapshots import TcpExposure
from drtp.gateway.flows import FlowBook
from drtp.gateway.protos import LogEntry
from unit.gateway.gatewaykit import (
    DEADLINE_S,
    ELSEWHERE,
    LOCALHOST,
    Authority,
    EndpointMode,
    Pop,
    backend,
    echo,
    free_port,
    gateway,
    introduced_pop,
    line,
    pop,
    resetting_port,
    tcp,
)


async def test_visitor_reaches_a_plain_endpoint_with_address_stream_and_service(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, LOCALHOST)})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        visit = endpoint.visits[0]
        assert visit.source_port == writer.get_extra_info("sockname")[1]
        assert visit.tlvs[0xE1] == b"s1"
        uuid.UUID(visit.tlvs[0xE0].decode())
        writer.write(b"half close\n")
        writer.write_eof()
        assert await line(reader) == "half close"
        assert await reader.read() == b""
        writer.close()


async def test_mtls_endpoint_gets_the_proxy_header_inside_tls(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    async with (
        pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        visit = endpoint.visits[0]
        assert visit.peer_uris == ("spiffe://drtp.test/gateway/g1",)
        assert visit.source_port == writer.get_extra_info("sockname")[1]
        assert visit.tlvs[0xE1] == b"s1"
        uuid.UUID(visit.tlvs[0xE0].decode())
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_a_pop_that_takes_introductions_hears_in_the_handshake_who_comes(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test", "*.p1.tunnel.test")
    async with (
        introduced_pop("p1", tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        ids = set[str]()
        ended = asyncio.ensure_future(_ended(running.host.flows, 3))
        await asyncio.sleep(0)  # it watches before anybody comes
        for _visitor in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await line(reader) == "banner 127.0.0.1"
            visit = endpoint.visits[-1]
            assert visit.peer_uris == ("spiffe://drtp.test/gateway/g1",)
            assert visit.source_port == writer.get_extra_info("sockname")[1]
            assert visit.server_name == "s1.p1.tunnel.test"
            ids.add(str(uuid.UUID(visit.tlvs[0xE0].decode())))
            writer.write(b"word\n")
            assert await line(reader) == "word"
            writer.close()
        assert len(ids) == 3
        assert {entry.stream for entry in await ended} == ids


async def _turned_away(port: int) -> None:
    """A visitor hears nothing but the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        assert await _ending(reader) == b""
    writer.close()


async def _ended(book: FlowBook, count: int) -> list[LogEntry]:
    """The log entries of the next visitors who go."""
    found: list[LogEntry] = []
    async with asyncio.timeout(DEADLINE_S):
        async for entry in book.watch():
            found += [entry] if entry.event == "end" else []
            if len(found) == count:
                break
    return found


async def test_a_pop_without_names_below_its_own_gets_no_introduced_visitor(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    async with (
        introduced_pop("p1", authority.server_context(tmp_path, "p1.tunnel.test")) as endpoint,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        await _turned_away(port)
        assert endpoint.visits == []


async def test_pops_of_before_stand_beside_those_that_take_introductions(tmp_path: Path) -> None:
    """While one of them is of before, all get PROXY headers; the others' names hold all the same."""
    port, authority = free_port(), Authority()
    old = authority.server_context(tmp_path, "p1.tunnel.test")
    new = authority.server_context(tmp_path, "p2.tunnel.test", "*.p2.tunnel.test")
    async with (
        pop("p1", mode=EndpointMode.MTLS, tls=old) as first,
        pop("p2", mode=EndpointMode.MTLS, tls=new) as second,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        second.introductions = True
        for order in ((first.endpoint(), second.endpoint(priority=1)), (second.endpoint(), first.endpoint(priority=1))):
            await running.programmed({**backend(*order), **tcp(port)})
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await line(reader) == "banner 127.0.0.1"
            writer.close()
        assert [visit.tlvs[0xE1] for visit in (*first.visits, *second.visits)] == [b"s1", b"s1"]


async def test_a_gateway_that_conceals_its_visitors_says_inside_tls_who_comes(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test", "*.p1.tunnel.test")
    async with (
        pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials(), conceal_visitors=True) as running,
    ):
        endpoint.introductions = True
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        assert endpoint.visits[0].source_port == writer.get_extra_info("sockname")[1]
        writer.close()


async def test_pop_with_another_name_in_its_certificate_gets_no_visitor(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "other.tunnel.test")
    async with (
        pop("p1", mode=EndpointMode.MTLS, tls=tls) as endpoint,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        await _turned_away(port)
        assert endpoint.visits == []


async def test_resetting_handshake_costs_no_visitor(tmp_path: Path) -> None:
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p2.tunnel.test")
    async with (
        resetting_port() as (dead_port, count),
        pop("p2", mode=EndpointMode.MTLS, tls=tls) as second,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        dead = type(second)("p1", second.serve, EndpointMode.MTLS, dead_port).endpoint()
        await running.programmed({**backend(dead, second.endpoint(priority=1)), **tcp(port)})
        for _visitor in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await line(reader) == "banner 127.0.0.1"
            writer.close()
        assert count[0] >= 1


async def test_endpoint_that_dies_right_after_a_change_costs_no_visitor(tmp_path: Path) -> None:
    """Envoy would keep an ejection back for a second after the cluster's last change."""
    port, authority = free_port(), Authority()
    tls = authority.server_context(tmp_path, "p2.tunnel.test")
    async with (
        resetting_port() as (dead_port, count),
        pop("p2", mode=EndpointMode.MTLS, tls=tls) as second,
        gateway(tmp_path / "g", authority.credentials()) as running,
    ):
        dead = type(second)("p1", second.serve, EndpointMode.MTLS, dead_port).endpoint()
        await running.programmed({**backend(second.endpoint()), **tcp(port)})
        await running.programmed({**backend(dead, second.endpoint(priority=1)), **tcp(port)})
        for _visitor in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await line(reader) == "banner 127.0.0.1"
            writer.close()
        assert count[0] >= 1


async def test_silent_denied_visitor_gets_no_banner_and_reaches_no_pop(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, ELSEWHERE)})
        await _turned_away(port)
        assert endpoint.accepted == 0


async def test_access_change_keeps_live_connections_and_refuses_new_ones(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        standing = backend(endpoint.endpoint())
        await running.programmed({**standing, **tcp(port, LOCALHOST)})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        await running.programmed({**standing, **tcp(port, ELSEWHERE)})
        late, other = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            assert await _ending(late) == b""
        await asyncio.sleep(1.5)  # longer than the drain time, after which a drained chain would cut
        writer.write(b"still here\n")
        assert await line(reader) == "still here"
        writer.close()
        other.close()


async def test_ipv6_listener_serves(tmp_path: Path) -> None:
    import socket

    port = free_port(socket.AF_INET6)
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port, LOCALHOST, address="::1")})
        reader, writer = await asyncio.open_connection("::1", port)
        assert await line(reader) == "banner ::1"
        writer.close()


async def test_removed_exposure_refuses_connections(tmp_path: Path) -> None:
    port = free_port()
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        writer.close()
        await running.apply({})
        async with asyncio.timeout(5):
            while not await _is_refused(port):
                continue


async def test_disabled_exposure_closes_its_port_and_opens_it_again(tmp_path: Path) -> None:
    port = free_port()
    key = f"tcp/127.0.0.1/{port}"
    async with pop("p1") as endpoint, gateway(tmp_path) as running:
        enabled = {**backend(endpoint.endpoint()), **tcp(port)}
        exposure = enabled[key]
        assert isinstance(exposure, TcpExposure)
        disabled = {**enabled, **backend(), key: msgspec.structs.replace(exposure, enabled=False)}
        for _turn in range(3):
            await running.programmed(enabled)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await line(reader) == "banner 127.0.0.1"
            writer.close()
            await running.programmed(disabled)
            async with asyncio.timeout(5):
                while not await _is_refused(port):
                    continue


async def _ending(reader: asyncio.StreamReader) -> bytes:
    """What came before the end; a reset is an end."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _is_refused(port: int) -> bool:
    """The kernel refuses; a reset is a listener that is just going."""
    try:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    writer.close()
    return False


async def test_sole_endpoint_is_tried_again_at_once_when_it_is_back(tmp_path: Path) -> None:
    """An agent that reconnects is served at once: its only endpoint is never put aside."""
    port, pop_port, authority = free_port(), free_port(), Authority()
    tls = authority.server_context(tmp_path, "p1.tunnel.test")
    endpoint = Pop("p1", echo, EndpointMode.MTLS, pop_port)
    async with gateway(tmp_path / "g", authority.credentials()) as running:
        await running.programmed({**backend(endpoint.endpoint()), **tcp(port)})
        for _visitor in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await _ending(reader) == b""
            writer.close()
        back = await asyncio.start_server(endpoint.handle, "127.0.0.1", pop_port, ssl=tls)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await line(reader) == "banner 127.0.0.1"
        writer.close()
        back.close()
