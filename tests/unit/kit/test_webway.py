"""A door that takes a WebSocket with TLS inside: for networks that look into what they let pass."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from drtp.client.dialling import believing_anybody, web_session
from drtp.kit.clock import SystemClock
from drtp.kit.door import Door, DoorLimits, listen, serving
from drtp.kit.webway import PATH, carry, pair
from unit.apiserver.serving import make_certificate
from unit.kit.test_door import LIMITS, ended_after, until

GENEROUS = replace(LIMITS, handshake_s=60.0, first_request_s=60.0)


class Outside:
    """A door, what an inspector of TLS shows in its place, and what an honest visitor trusts."""

    def __init__(self, door: Door, port: int, trust: ssl.SSLContext) -> None:
        self.door = door
        self.url = f"https://localhost:{port}"
        self.trust = trust
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))

    @contextlib.asynccontextmanager
    async def inside(self) -> AsyncGenerator[socket.socket]:
        """The inner end of a WebSocket to the door."""
        async with self._session.ws_connect(f"{self.url}{PATH}") as web_socket:
            here, there = pair()
            carrying = asyncio.create_task(carry(web_socket, there))
            try:
                yield here
            finally:
                here.close()
                await carrying

    async def status(self, path: str) -> int:
        """Of a plain request, by whoever believes anybody."""
        async with self._session.get(f"{self.url}{path}") as response:
            return response.status

    async def close(self) -> None:
        await self._session.close()


@contextlib.asynccontextmanager
async def outside(folder: Path, limits: DoorLimits = LIMITS) -> AsyncGenerator[Outside]:
    async def whence(request: web.Request) -> web.Response:
        return web.Response(text=request.remote or "nobody")

    ca, context = make_certificate(folder)
    app = web.Application()
    app.router.add_get("/whence", whence)
    listener = listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    async with serving(
        "test", app, listener, limits, SystemClock(), tls=lambda: context, takes_web_socket=True
    ) as door:
        one = Outside(door, port, ssl.create_default_context(cafile=str(ca)))
        try:
            yield one
        finally:
            await one.close()


async def asked(way: socket.socket, trust: ssl.SSLContext, request: bytes) -> bytes:
    """All that is answered by TLS on a way that stands."""
    reader, writer = await asyncio.open_connection(sock=way, ssl=trust, server_hostname="localhost")
    writer.write(request)
    async with asyncio.timeout(5):
        answer = await reader.read()
    await _closed(writer)
    return answer


async def test_what_comes_inside_is_of_the_address_that_opened_it(tmp_path: Path) -> None:
    request = b"GET /whence HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n"
    async with outside(tmp_path) as one, one.inside() as way:
        answer = await asked(way, one.trust, request)
        assert answer.endswith(b"127.0.0.1"), answer
        await until(lambda: one.door.connections <= 1)


async def test_a_client_that_trusts_the_inner_certificate_alone_passes_an_inspector(tmp_path: Path) -> None:
    """The inspector is a relay with a certificate of its own; what it reads are the WebSocket's messages."""
    read = bytearray()
    _, shown = make_certificate(_made(tmp_path / "inspector"))

    async with outside(_made(tmp_path / "door")) as one:
        port = int(one.url.rpartition(":")[2])

        async def inspect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner = await asyncio.open_connection("localhost", port, ssl=believing_anybody())
            await asyncio.gather(_copy(reader, inner[1], read), _copy(inner[0], writer, read))

        inspector = await asyncio.start_server(inspect, "127.0.0.1", 0, ssl=shown)
        where = f"https://localhost:{inspector.sockets[0].getsockname()[1]}"
        canary = {"Authorization": "Bearer canary"}
        async with inspector, web_session(one.trust) as http, http.get(f"{where}/whence", headers=canary) as response:
            assert (response.status, await response.text()) == (200, "127.0.0.1")
        assert b"GET /drtp/1 " in read
        assert b"canary" not in read


async def test_who_wastes_the_inside_has_wasted_a_place(tmp_path: Path) -> None:
    """The request for the way inside makes nothing good."""
    async with outside(tmp_path, replace(LIMITS, handshake_s=60.0)) as one:
        async with one.inside() as way:
            await ended_after(way, b"no TLS at all" * 40)
        await until(lambda: one.door.connections == 0)
        port = int(one.url.rpartition(":")[2])
        crowd = [
            socket.create_connection(("127.0.0.1", port), 5, source_address=(f"127.0.16.{2 + n % 4}", 0))
            for n in range(10)
        ]
        await until(lambda: one.door.strangers == 10)
        with pytest.raises(aiohttp.ClientConnectionError):
            await one.status("/whence")
        for connection in crowd:
            connection.close()


async def test_where_nothing_takes_a_websocket_the_first_fault_is_told(tmp_path: Path) -> None:
    _, shown = make_certificate(tmp_path)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, ssl=shown)
    where = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with server, web_session(ssl.create_default_context()) as http:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(where)


async def test_whoever_stays_silent_inside_is_let_go(tmp_path: Path) -> None:
    async with outside(tmp_path) as one, one.inside() as way:
        await until(lambda: one.door.strangers == 1)
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(way, 1) == b""
        await until(lambda: one.door.connections == 0)


async def test_garbage_inside_ends_the_websocket_alone(tmp_path: Path) -> None:
    async with outside(tmp_path, GENEROUS) as one, one.inside() as way:
        await ended_after(way, b"SSH-2.0-stranger\r\n" * 4)
        await until(lambda: one.door.connections == 0)
        assert await one.status("/whence") == 200


async def test_strangers_inside_have_no_more_room_than_others(tmp_path: Path) -> None:
    async with outside(tmp_path, GENEROUS) as one, contextlib.AsyncExitStack() as stack:
        for _ in range(GENEROUS.strangers_per_address_max):
            await stack.enter_async_context(one.inside())
        await until(lambda: one.door.strangers == GENEROUS.strangers_per_address_max)
        with pytest.raises((aiohttp.WSServerHandshakeError, aiohttp.ClientConnectionError)):
            await stack.enter_async_context(one.inside())


async def test_there_is_no_websocket_inside_a_websocket_and_no_page_in_its_place(tmp_path: Path) -> None:
    opening = (
        f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZGF0dW1jdGwgZGlhZ25vcw==\r\n\r\n"
    )
    async with outside(tmp_path) as one:
        assert await one.status(PATH) == 404
        async with one.inside() as way:
            reader, writer = await asyncio.open_connection(sock=way, ssl=one.trust, server_hostname="localhost")
            writer.write(opening.encode())
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"HTTP/1.1 404")
            await _closed(writer)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(4096):
            seen += piece
            writer.write(piece)
            await writer.drain()
    writer.close()
