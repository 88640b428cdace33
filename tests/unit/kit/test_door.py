"""The one door of every HTTP listener: what strangers of each sort may hold, and that nobody else notices them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from drtp.kit.clock import SystemClock
from drtp.kit.door import Door, DoorLimits, listen, public_limits, serving
from drtp.kit.networks import networks_of
from drtp.kit.observe import configure_logs
from unit.apiserver.serving import make_certificate

LIMITS = DoorLimits(
    connections_max=40,
    connections_per_address_max=30,
    strangers_max=20,
    strangers_per_address_max=10,
    handshake_s=0.5,
    first_request_s=0.5,
)
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Served:
    """A door with its address and what a visitor trusts."""

    def __init__(self, door: Door, port: int, ca: Path) -> None:
        self.door = door
        self.port = port
        self.trust = ssl.create_default_context(cafile=str(ca))

    def stranger(self, source: str = "127.0.0.1") -> socket.socket:
        """Connected, and says nothing."""
        connection = socket.create_connection(("127.0.0.1", self.port), 5, source_address=(source, 0))
        connection.setblocking(False)
        return connection

    async def whole(self, request: bytes) -> bytes:
        """All that `request` is answered, on a connection of its own."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.trust, server_hostname="localhost"
        )
        try:
            writer.write(request)
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.close()

    async def reach(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connected, with the handshake behind it."""
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.trust, server_hostname="localhost", local_addr=(source, 0)
        )

    async def ask(self, source: str = "127.0.0.1") -> bytes:
        """An honest request on a connection of its own; its first line."""
        reader, writer = await self.reach(source)
        try:
            writer.write(REQUEST)
            async with asyncio.timeout(5):
                return await reader.readuntil(b"\r\n")
        finally:
            writer.close()


@asynccontextmanager
async def served(folder: Path, limits: DoorLimits = LIMITS) -> AsyncGenerator[Served]:
    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def broken(_request: web.Request) -> web.Response:
        raise RuntimeError("inner words")

    async def told(request: web.Request) -> web.Response:
        return web.Response(text=await request.text())

    ca, context = make_certificate(folder)
    app = web.Application()
    app.router.add_post("/told", told)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/broken", broken)
    listener = listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    async with serving("test", app, listener, limits, SystemClock(), tls=lambda: context) as door:
        yield Served(door, port, ca)


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def ended(connection: socket.socket) -> bytes:
    """All that comes until the other side ends it, one way or the other."""
    loop, said = asyncio.get_running_loop(), b""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while part := await loop.sock_recv(connection, 4096):
                said += part
    connection.close()
    return said


async def ended_after(connection: socket.socket, words: bytes) -> bytes:
    """The same, after it has said something."""
    await asyncio.get_running_loop().sock_sendall(connection, words)
    return await ended(connection)


def hello(folder: Path) -> bytes:
    """The first flight of a valid handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    with contextlib.suppress(ssl.SSLWantReadError):
        trust.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_silent_strangers_are_let_go_and_nobody_waits_for_them_cve_2026_7776(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        silent = [one.stranger() for _ in range(9)]
        await until(lambda: one.door.strangers == 9)
        assert await one.ask() == b"HTTP/1.1 200 OK\r\n"
        for connection in silent:
            await ended(connection)
        await until(lambda: one.door.connections == 0)


async def test_garbage_is_turned_away_at_once(tmp_path: Path) -> None:
    async with served(tmp_path, replace(LIMITS, handshake_s=60.0)) as one:
        connection = one.stranger()
        await asyncio.get_running_loop().sock_sendall(connection, b"SSH-2.0-stranger\r\n" * 4)
        await ended(connection)
        await until(lambda: one.door.connections == 0)


async def test_a_handshake_byte_by_byte_ends_at_its_deadline(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        connection = one.stranger()
        ending = asyncio.get_running_loop().create_task(ended(connection))
        for byte in hello(tmp_path):
            if ending.done():
                break
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(connection, bytes((byte,)))
            await asyncio.sleep(0.02)
        assert ending.done()
        await until(lambda: one.door.connections == 0)


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2]])
async def test_a_whole_request_must_follow_the_handshake_in_time(tmp_path: Path, sent: bytes) -> None:
    async with served(tmp_path) as one:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", one.port, ssl=one.trust, server_hostname="localhost"
        )
        writer.write(sent)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_one_address_does_not_take_the_room_of_another(tmp_path: Path) -> None:
    limits = replace(LIMITS, handshake_s=60.0)
    async with served(tmp_path, limits) as one:
        silent = [one.stranger("127.0.7.1") for _ in range(10)]
        await until(lambda: one.door.strangers == 10)
        await ended(one.stranger("127.0.7.1"))
        assert one.door.strangers == 10
        assert await one.ask("127.0.7.2") == b"HTTP/1.1 200 OK\r\n"
        for connection in silent:
            connection.close()


async def test_in_a_full_room_the_longest_silent_makes_place(tmp_path: Path) -> None:
    """Else many addresses together could keep everybody out for as long as a deadline lasts."""
    limits = replace(LIMITS, handshake_s=60.0)
    async with served(tmp_path, limits) as one:
        silent = [one.stranger(f"127.0.8.{1 + number % 4}") for number in range(20)]
        await until(lambda: one.door.strangers == 20)
        await ended(one.stranger("127.0.8.9"))  # nobody has been here for a second yet
        await asyncio.sleep(1.1)
        assert await one.ask("127.0.8.10") == b"HTTP/1.1 200 OK\r\n"
        await ended(silent[0])
        for connection in silent[1:]:
            connection.close()


async def test_in_a_crowd_an_address_that_has_wasted_a_place_gets_none(tmp_path: Path) -> None:
    async with served(tmp_path, replace(LIMITS, handshake_s=60.0)) as one:
        await ended_after(one.stranger("127.0.11.1"), b"no TLS at all" * 40)
        await until(lambda: one.door.connections == 0)
        assert await one.ask("127.0.11.1") == b"HTTP/1.1 200 OK\r\n", "nobody else wants the place"
        await ended_after(one.stranger("127.0.11.1"), b"no TLS at all" * 40)
        await until(lambda: one.door.connections == 0)
        crowd = [one.stranger(f"127.0.11.{2 + number % 4}") for number in range(10)]
        await until(lambda: one.door.strangers == 10)
        with pytest.raises(OSError, match=r"reset|Connection"):
            await one.ask("127.0.11.1")
        assert await one.ask("127.0.11.9") == b"HTTP/1.1 200 OK\r\n"
        for connection in crowd:
            connection.close()


async def test_half_a_request_is_a_wasted_place_too(tmp_path: Path) -> None:
    """Its head alone makes nobody known: a handshake and a head cost a door as much as a whole request does."""
    async with served(tmp_path, replace(LIMITS, handshake_s=60.0)) as one:
        half = b"POST /told HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour"
        for others, sent, answer in ((12, half, b""), (14, half + b" more", b"HTTP/1.1 200 OK\r\n")):
            reader, writer = await one.reach("127.0.12.1")
            writer.write(sent)
            await until(lambda: one.door.connections == 1 and one.door.strangers == 0)
            if answer:
                assert await reader.readuntil(b"\r\n") == answer
            writer.close()
            await until(lambda: one.door.connections == 0)
            crowd = [one.stranger(f"127.0.{others}.{2 + number % 4}") for number in range(10)]
            await until(lambda: one.door.strangers == 10)
            if answer:
                assert await one.ask("127.0.12.1") == answer, "the whole of it was made up for"
            else:
                with pytest.raises(OSError, match=r"reset|Connection"):
                    await one.ask("127.0.12.1")
            for connection in crowd:
                connection.close()
            await until(lambda: one.door.connections == 0)


async def test_half_requests_are_a_crowd_like_any_other(tmp_path: Path) -> None:
    async with served(tmp_path, replace(LIMITS, handshake_s=60.0)) as one:
        await ended_after(one.stranger("127.0.13.1"), b"no TLS at all" * 40)
        crowd = [await one.reach(f"127.0.13.{2 + number % 4}") for number in range(10)]
        for _, writer in crowd:
            writer.write(b"POST /told HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour")
        await until(lambda: one.door.strangers == 0)
        with pytest.raises(OSError, match=r"reset|Connection"):
            await one.ask("127.0.13.1")
        for _, writer in crowd:
            writer.close()


async def test_connections_that_have_spoken_are_capped_too(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        kept: list[asyncio.StreamWriter] = []
        for number in range(40):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", one.port, ssl=one.trust, server_hostname="localhost",
                local_addr=(f"127.0.9.{1 + number % 2}", 0),
            )  # fmt: skip
            writer.write(REQUEST)
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            kept.append(writer)
        assert one.door.connections == 40
        await ended(one.stranger("127.0.9.9"))
        kept.pop().close()
        await until(lambda: one.door.connections == 39)
        assert await one.ask("127.0.9.9") == b"HTTP/1.1 200 OK\r\n"
        for writer in kept:
            writer.close()


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Room for 40 more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with os.scandir("/proc/self/fd") as held:
        highest = max(int(entry.name) for entry in held)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_process_without_descriptors_keeps_its_door(tmp_path: Path, few_descriptors: None) -> None:
    async with served(tmp_path) as one:
        assert await one.ask() == b"HTTP/1.1 200 OK\r\n"
        await until(lambda: one.door.connections == 0)
        waiting = socket.socket()
        hoard: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
        try:
            waiting.connect(("127.0.0.1", one.port))
            await asyncio.sleep(0.3)
            assert one.door.connections == 0
        finally:
            for descriptor in hoard:
                os.close(descriptor)
        await until(lambda: one.door.connections == 1)
        waiting.close()
        assert await one.ask() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("descriptors", [256, 1024, 20_000, 1 << 20])
def test_doors_leave_descriptors_for_the_rest(descriptors: int) -> None:
    limits = public_limits(20_000, descriptors)
    assert 2 * limits.connections_max < descriptors
    assert limits.strangers_max <= max(32, descriptors // 20)
    assert limits.strangers_per_address_max * 2 <= limits.strangers_max <= limits.connections_max


async def test_what_cannot_be_parsed_is_neither_said_back_nor_logged_cve_2026_40302(tmp_path: Path) -> None:
    lines = io.StringIO()
    configure_logs(stream=lines)
    try:
        async with served(tmp_path) as here:
            answer = await here.whole(b"GET / <script>\r\nHost: a\r\nAccept: text/html\r\n\r\n")
    finally:
        configure_logs()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == b"400"
    assert b"x-content-type-options: nosniff" in head.lower()
    assert body == b"400 Bad Request\n"
    assert "script" not in lines.getvalue()


async def test_what_nobody_foresaw_is_logged_with_its_place_and_not_said(tmp_path: Path) -> None:
    lines = io.StringIO()
    configure_logs(stream=lines)
    try:
        async with served(tmp_path) as here:
            answer = await here.whole(b"GET /broken HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n")
    finally:
        configure_logs()
    assert answer.split(b" ", 2)[1] == b"500"
    assert b"inner words" not in answer
    assert "RuntimeError" in lines.getvalue()
    assert "test_door.py" in lines.getvalue()


async def test_who_goes_away_in_the_middle_of_a_request_is_no_fault_to_log(tmp_path: Path) -> None:
    lines = io.StringIO()
    configure_logs(stream=lines)
    try:
        async with served(tmp_path) as here:
            _, writer = await here.reach("127.0.0.1")
            writer.write(b"POST /told HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour")
            await until(lambda: here.door.connections == 1 and here.door.strangers == 0)
            writer.transport.abort()
            await until(lambda: here.door.connections == 0)
    finally:
        configure_logs()
    assert lines.getvalue() == ""


async def test_a_48_takes_no_more_than_twice_what_one_of_its_64_may(tmp_path: Path) -> None:
    """Loopback has one IPv6 address alone, so the counting is asked itself."""
    async with served(tmp_path, replace(LIMITS, connections_max=1000, strangers_max=1000)) as one:
        entered = 0
        for number in range(100):
            networks = networks_of(f"2001:db8:1:{number:x}::1")
            if not one.door._refusal(networks):
                one.door._enter(networks)
                entered += 1
        assert entered == 2 * LIMITS.strangers_per_address_max
        assert one.door._refusal(networks_of("2001:db8:2::1")) == ""
        assert one.door.connections == entered
