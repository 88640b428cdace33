"""Bytes inside a WebSocket, for networks that look into TLS: TLS of our own goes inside what they open.

Messages mean nothing: their payloads, one after the other, are the bytes, as the tunnel's own have it
(`native/drtp-core/src/through/web.rs`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiohttp
from aiohttp import web

PATH = "/drtp/1"
"""Where POPs and the doors of the control plane take a WebSocket."""
MESSAGE_BYTES_MAX = 128 << 10
"""One message in; a proxy may put several of ours together."""
_PIECE_BYTES = 32 << 10


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection within this process, non-blocking: one for TLS, one for `carry`."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


async def carry(web_socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse, way: socket.socket) -> None:
    """Move bytes between the two, until one of them ends; then both are closed. `way` is non-blocking."""
    loop = asyncio.get_running_loop()
    # An end that is lost is an end like any other: TLS inside says which it was.
    lost = contextlib.suppress(OSError, aiohttp.ClientError)

    async def outwards() -> None:
        with lost:
            while piece := await loop.sock_recv(way, _PIECE_BYTES):
                await web_socket.send_bytes(piece)

    async def inwards() -> None:
        with lost:
            async for message in web_socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return
                await loop.sock_sendall(way, message.data)

    try:
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(outwards()), group.create_task(inwards())]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
    finally:
        way.close()
        await web_socket.close()
